package tokens

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
)

// batch asks about several tokens.
func (m *mount) batch(items ...any) []map[string]any {
	m.t.Helper()
	resp := m.must(logical.UpdateOperation, "introspect", map[string]any{"batch_input": items})
	results := resp.Data["batch_results"].([]map[string]any)
	if len(resp.Data) != 1 || len(results) != len(items) {
		m.t.Fatalf("%d results of %d items, in %v", len(results), len(items), resp.Data)
	}
	return results
}

// An item is answered as a single question is, with its reference.
func TestBatchAnswersAsSingleQuestions(t *testing.T) {
	m := newMount(t).withRoles()
	var items []any
	for _, kind := range []string{"api_key", "bearer", "jwt"} {
		live := m.must(logical.ReadOperation, "creds/"+kind, nil).Data["token"].(string)
		dead := m.must(logical.ReadOperation, "creds/"+kind, nil).Data["token"].(string)
		m.must(logical.UpdateOperation, "revoke", map[string]any{"token": dead})
		items = append(items,
			map[string]any{"token": live},
			map[string]any{"token": dead},
			map[string]any{"token": live, "required_scopes": "admin"},
			map[string]any{"token": live, "required_scopes": []any{"orders:read"}, "audience": "https://api.example.com", "client_ip": "192.0.2.7"},
			map[string]any{"token": live, "audience": "other", "client_ip": "192.0.2.7"},
		)
	}
	items = append(items, map[string]any{"token": "nonsense"})
	want := make([]map[string]any, len(items))
	for i, item := range items {
		want[i] = m.must(logical.UpdateOperation, "introspect", item.(map[string]any)).Data
	}
	single := m.backend.counts.introspections.read()
	m.restart() // counts from zero
	if got := m.batch(items...); !reflect.DeepEqual(got, want) {
		t.Errorf("answered\n%v, want\n%v", got, want)
	}
	if counted := m.backend.counts.introspections.read(); !reflect.DeepEqual(counted, single) {
		t.Errorf("counted %v, want %v", counted, single)
	}
	for i, item := range items {
		item.(map[string]any)["reference"] = fmt.Sprint("item ", i)
		want[i]["reference"] = fmt.Sprint("item ", i)
	}
	if got := m.batch(items...); !reflect.DeepEqual(got, want) {
		t.Errorf("with references, answered\n%v, want\n%v", got, want)
	}
}

// What is wrong with one item is said in its result, which is then no answer, and
// does not repeat what may be a token.
func TestBatchReportsMistakesByItem(t *testing.T) {
	m := newMount(t).withRoles()
	token := m.must(logical.ReadOperation, "creds/bearer", nil).Data["token"].(string)
	for name, test := range map[string]struct {
		item  map[string]any
		field string
	}{
		"no token":                  {map[string]any{}, "token"},
		"empty token":               {map[string]any{"token": ""}, "token"},
		"null token":                {map[string]any{"token": nil}, "token"},
		"list of tokens":            {map[string]any{"token": []any{token}}, "token"},
		"token in an object":        {map[string]any{"token": map[string]any{"value": token}}, "token"},
		"unknown field":             {map[string]any{"token": token, "nonsense": token}, "nonsense"},
		"batch in a batch":          {map[string]any{"token": token, "batch_input": []any{}}, "batch_input"},
		"token as a field":          {map[string]any{token: token}, "vtb_[redacted]"},
		"token as client_ip":        {map[string]any{"token": token, "client_ip": token}, "client_ip"},
		"token as scope":            {map[string]any{"token": token, "required_scopes": token + "*"}, "required_scopes"},
		"token as reference":        {map[string]any{"token": token, "reference": token}, "reference"},
		"token in reference":        {map[string]any{"token": token, "nonsense": 1, "reference": "t=" + token}, "nonsense"},
		"empty scopes":              {map[string]any{"token": token, "required_scopes": ""}, "required_scopes"},
		"no scopes":                 {map[string]any{"token": token, "required_scopes": []any{}}, "required_scopes"},
		"empty audience":            {map[string]any{"token": token, "audience": ""}, "audience"},
		"number for audience":       {map[string]any{"token": token, "audience": 7}, "audience"},
		"empty client_ip":           {map[string]any{"token": token, "client_ip": ""}, "client_ip"},
		"null client_ip":            {map[string]any{"token": token, "client_ip": nil}, "client_ip"},
		"reference that is too big": {map[string]any{"token": token, "reference": strings.Repeat("x ", 129)}, "reference"},
		"reference of another type": {map[string]any{"token": token, "reference": 7}, "reference"},
	} {
		t.Run(name, func(t *testing.T) {
			results := m.batch(map[string]any{"token": token}, test.item, map[string]any{"token": token, "reference": "last"})
			problem, _ := results[1]["error"].(string)
			if len(results[1]) != 1 || !strings.HasPrefix(problem, test.field+": ") {
				t.Errorf("answered %v, want nothing but an error about %s", results[1], test.field)
			}
			if strings.Contains(fmt.Sprint(results[1]), token[10:30]) {
				t.Error("the answer repeats the token")
			}
			if results[0]["active"] != true || results[2]["active"] != true || results[2]["reference"] != "last" {
				t.Errorf("the others are answered with %v and %v", results[0], results[2])
			}
		})
	}
	if strings.Contains(m.log.String(), token[10:30]) {
		t.Error("the log has the token")
	}
	result := m.batch(map[string]any{"token": token, "nonsense": 1, "reference": "7"})[0]
	if len(result) != 2 || result["reference"] != "7" {
		t.Errorf("answered %v, want an error with its reference", result)
	}
}

// What is wrong with the whole is a 400.
func TestBatchIsRefused(t *testing.T) {
	m := newMount(t).withRoles()
	token := m.must(logical.ReadOperation, "creds/bearer", nil).Data["token"].(string)
	item := map[string]any{"token": token}
	many := func(n int) []any {
		items := make([]any, n)
		for i := range items {
			items[i] = map[string]any{"token": token}
		}
		return items
	}
	for name, data := range map[string]map[string]any{
		"batch_input": {"batch_input": []any{}},
		"null":        {"batch_input": nil},
		"text":        {"batch_input": "[]"},
		"object":      {"batch_input": item},
		"of text":     {"batch_input": []any{token}},
		"of lists":    {"batch_input": []any{item, []any{item}}},
		"of null":     {"batch_input": []any{item, nil}},
		"too many":    {"batch_input": many(maxBatch + 1)},
	} {
		if message := m.refused(logical.UpdateOperation, "introspect", data); !strings.HasPrefix(message, "batch_input: ") {
			t.Errorf("%s: %s", name, message)
		}
	}
	for field, value := range map[string]any{"token": token, "client_ip": "192.0.2.7", "required_scopes": "orders:read", "audience": "x", "reference": "7"} {
		message := m.refused(logical.UpdateOperation, "introspect", map[string]any{"batch_input": []any{item}, field: value})
		if !strings.HasPrefix(message, field+": ") {
			t.Errorf("%s beside the batch: %s", field, message)
		}
	}
	if n := len(m.batch(many(maxBatch)...)); n != maxBatch {
		t.Errorf("%d results of %d", n, maxBatch)
	}
}

// What cannot be looked up is neither active nor inactive, and the others are
// answered.
func TestBatchOnFaults(t *testing.T) {
	m := newMount(t).withRoles()
	good := m.must(logical.ReadOperation, "creds/bearer", nil).Data["token"].(string)
	bad := m.must(logical.ReadOperation, "creds/bearer", nil).Data
	m.restart()
	m.storage.Before(func(_ storetest.Op, key string) error {
		if strings.HasPrefix(key, "token/") && strings.HasSuffix(key, bad["token_id"].(string)) {
			return storetest.ErrInjected
		}
		return nil
	})
	results := m.batch(map[string]any{"token": good}, map[string]any{"token": bad["token"], "reference": "bad"}, map[string]any{"token": good})
	problem, _ := results[1]["error"].(string)
	if len(results[1]) != 2 || results[1]["reference"] != "bad" || !strings.Contains(problem, "ask again") || strings.Contains(problem, storetest.ErrInjected.Error()) {
		t.Errorf("answered %v", results[1])
	}
	if results[0]["active"] != true || results[2]["active"] != true {
		t.Errorf("the others are answered with %v and %v", results[0], results[2])
	}
	if n := strings.Count(m.log.String(), "items of a batch not answered: count=1"); n != 1 {
		t.Errorf("%d lines in the log", n)
	}
	m.storage.Heal()
	if result := m.batch(map[string]any{"token": bad["token"]})[0]; result["active"] != true {
		t.Errorf("asked again, answered %v", result)
	}
}

// A batch costs the storage what its items cost, and stops when nobody waits.
func TestBatchCostsWhatItsItemsCost(t *testing.T) {
	m := newMount(t).withRoles()
	for _, kind := range []string{"bearer", "jwt"} {
		items := make([]any, 10)
		for i := range items {
			items[i] = map[string]any{"token": m.must(logical.ReadOperation, "creds/"+kind, nil).Data["token"]}
		}
		cost := func(ask func()) int64 {
			m.restart()
			reads, writes := m.storage.Count(ask)
			if writes > 0 {
				t.Errorf("%s: %d writes", kind, writes)
			}
			return reads
		}
		single := cost(func() {
			for _, item := range items {
				m.must(logical.UpdateOperation, "introspect", item.(map[string]any))
			}
		})
		if batch := cost(func() { m.batch(items...) }); batch != single || single == 0 {
			t.Errorf("%s: %d reads for a batch, %d for its items", kind, batch, single)
		}
	}
}

func TestBatchStopsWhenTheCallerIsGone(t *testing.T) {
	m := newMount(t).withRoles()
	items := make([]any, 10)
	for i := range items {
		items[i] = map[string]any{"token": m.must(logical.ReadOperation, "creds/bearer", nil).Data["token"]}
	}
	m.restart()
	ctx, hangUp := context.WithCancel(context.Background())
	reads := 0
	m.storage.Before(func(op storetest.Op, key string) error {
		if strings.HasPrefix(key, "token/") {
			if reads++; reads == 3 {
				hangUp()
			}
		}
		return nil
	})
	resp, err := m.doWith(ctx, logical.UpdateOperation, "introspect", map[string]any{"batch_input": items})
	if resp != nil || !errors.Is(err, context.Canceled) || reads != 3 {
		t.Errorf("answered %v, %v after %d reads", resp, err, reads)
	}
}

func TestBatchIsForwarded(t *testing.T) {
	m := newMount(t).withRoles()
	token := m.must(logical.ReadOperation, "creds/bearer", nil).Data["token"]
	m.system.ReplicationStateVal = consts.ReplicationPerformanceStandby
	m.restart()
	resp, err := m.do(logical.UpdateOperation, "introspect", map[string]any{"batch_input": []any{map[string]any{"token": token}}})
	if !errors.Is(err, logical.ErrReadOnly) {
		t.Errorf("answered with %v, %v", resp, err)
	}
}

// One request must not fill the log.
func TestBatchLogsWithinBounds(t *testing.T) {
	m := newMount(t).withRoles()
	token := m.must(logical.ReadOperation, "creds/bearer", nil).Data["token"].(string)
	items := make([]any, 0, maxBatch)
	for range maxBatch / 2 {
		items = append(items, map[string]any{"token": token, "required_scopes": "admin"}, map[string]any{"token": token, "nonsense": 1})
	}
	before := len(m.log.String())
	m.batch(items...)
	lines := m.log.String()[before:]
	for text, want := range map[string]int{
		"introspection refused: reason":                      maxBatchLines,
		"more introspections of a batch refused: count=480":  1,
		"items of a batch refused: count=500 field=nonsense": 1,
		"\n": maxBatchLines + 2,
	} {
		if n := strings.Count(lines, text); n != want {
			t.Errorf("%d times %q in the log, want %d", n, text, want)
		}
	}
}
