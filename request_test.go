package tokens

import (
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/usererror"
)

func TestEmptyIsNotLeftOut(t *testing.T) {
	m := newMount(t).withRoles()
	token := m.must(logical.ReadOperation, "creds/bearer", nil).Data["token"].(string)
	for _, data := range []map[string]any{{"audience": ""}, {"client_ip": ""}} {
		data["token"] = token
		m.refused(logical.UpdateOperation, "introspect", data)
	}
	for _, cnf := range []any{map[string]any{}, []any{}, "", map[string]any{"jkt": strings.Repeat("A", 42) + "\n"}, map[string]any{"jkt": strings.Repeat("A", 43) + "\n"}} {
		m.refused(logical.UpdateOperation, "creds/bearer", map[string]any{"cnf": cnf})
	}
	m.refused(logical.UpdateOperation, "creds/bearer", map[string]any{"metadata": map[string]any{"a": true}})
}

// What has more than one spelling becomes one; what has none is refused by
// name, without its value.
func TestCheckValue(t *testing.T) {
	seconds := &framework.FieldSchema{Type: framework.TypeDurationSecond}
	integer := &framework.FieldSchema{Type: framework.TypeInt}
	boolean := &framework.FieldSchema{Type: framework.TypeBool}
	object := &framework.FieldSchema{Type: framework.TypeMap}
	pairs := &framework.FieldSchema{Type: framework.TypeKVPairs}
	list := &framework.FieldSchema{Type: framework.TypeCommaStringSlice}
	text := &framework.FieldSchema{Type: framework.TypeString}
	for _, test := range []struct {
		schema      *framework.FieldSchema
		value, want any
	}{
		{seconds, 90, 90},
		{seconds, json.Number("90"), 90},
		{seconds, 90.0, 90},
		{seconds, "90", 90},
		{seconds, "9e1", 90},
		{seconds, "90s", 90},
		{seconds, "1m30s", 90},
		{seconds, "1.5m", 90},
		{seconds, "30d", 30 * 24 * 3600},
		{seconds, 0, 0},
		{seconds, "876000h", 876000 * 3600}, // 100 years
		{integer, json.Number("-7"), -7},
		{integer, json.Number("7.0"), 7},
		{integer, "7", 7},
		{integer, math.MaxInt32, math.MaxInt32},
		{boolean, true, true},
		{boolean, "false", false},
		{object, map[string]any{"a": json.Number("1")}, map[string]any{"a": json.Number("1")}},
		{object, `{"a":12345678901234567890}`, map[string]any{"a": json.Number("12345678901234567890")}},
		{object, "{}", map[string]any{}},
		{pairs, map[string]any{"a": "b"}, map[string]any{"a": "b"}},
		{pairs, []any{"a=b"}, []any{"a=b"}},
		{list, "a,b", "a,b"},
		{list, []any{"a", "b"}, []any{"a", "b"}},
		{list, []any{}, []any{}},
		{text, "", ""},
	} {
		got, err := checkValue("f", test.schema, test.value, logical.UpdateOperation)
		if err != nil || !reflect.DeepEqual(got, test.want) {
			t.Errorf("%v as %s is %#v, %v; want %#v", test.value, test.schema.Type, got, err, test.want)
		}
	}
	const secret = "s3cr3t"
	for _, test := range []struct {
		schema *framework.FieldSchema
		values []any
	}{
		{seconds, []any{"", secret, -1, "-1s", 1.5, "1.5", "1.5s", "1ms", math.NaN(), math.Inf(1), "NaN", "Inf", "876001h", 1e300, "1e300", true, []any{1}, map[string]any{}, json.Number("x")}},
		{integer, []any{"", secret, 1.5, "1.5", math.NaN(), "NaN", "1e100", math.MaxInt32 + 1, true, []any{1}, json.Number("x")}},
		{boolean, []any{"", secret, 1, 0, "1", "t", "True", "yes", []any{true}}},
		{object, []any{"", secret, "[]", "null", `{"a":1} x`, `{"a":1}{}`, `{`, 1, true, []any{map[string]any{}}}},
		{pairs, []any{secret, map[string]any{"a": 1}, map[string]any{"a": nil}, map[string]any{"a": []any{"b"}}, 1, true}},
		{list, []any{1, true, []any{1}, []any{"a", nil}, []any{[]any{"a"}}, map[string]any{"a": secret}}},
		{text, []any{1, true, []any{secret}, map[string]any{"a": secret}}},
	} {
		for _, value := range append(test.values, nil) {
			got, err := checkValue("f", test.schema, value, logical.UpdateOperation)
			var mistake *usererror.Error
			if !errors.As(err, &mistake) || mistake.Field != "f" || strings.Contains(err.Error(), secret) {
				t.Errorf("%#v as %s is %#v, %v", value, test.schema.Type, got, err)
			}
		}
		if got, err := checkValue("f", test.schema, nil, logical.PatchOperation); got != nil || err != nil {
			t.Errorf("null in a patch of %s is %#v, %v", test.schema.Type, got, err)
		}
	}
}

// A field that a path does not take is refused before a handler runs, on every
// path that takes a body, and whatever the operation.
func TestUnknownFields(t *testing.T) {
	m := newMount(t).withRoles()
	before := m.storage.Writes.Load()
	m.answers([]row{
		{operation: logical.UpdateOperation, path: "config", data: map[string]any{"Issuer": testIssuer}, refused: "Issuer"},
		{operation: logical.CreateOperation, path: "roles/a", data: map[string]any{"token_type": "bearer", "name": "b"}, refused: "name"},
		{operation: logical.PatchOperation, path: "roles/jwt", data: map[string]any{"scopes": "a"}, refused: "scopes"},
		{operation: logical.UpdateOperation, path: "creds/jwt", data: map[string]any{"ttl": 60, "leeway": 1}, refused: "leeway"},
		{operation: logical.UpdateOperation, path: "introspect", data: map[string]any{"token": "t", "token_type_hint": "x"}, refused: "token_type_hint"},
		{operation: logical.UpdateOperation, path: "revoke", data: map[string]any{"token": "t", "id": "x"}, refused: "id"},
		{operation: logical.UpdateOperation, path: "keys/default", data: map[string]any{"type": "x"}, refused: "type"},
		{operation: logical.UpdateOperation, path: "keys/default/rotate", data: map[string]any{"emergency": true}, refused: "emergency"},
		{operation: logical.ReadOperation, path: "config", data: map[string]any{"issuer": "x"}, refused: "issuer"},
		{operation: logical.ReadOperation, path: "roles/jwt", data: map[string]any{"x": "y"}, refused: "x"},
		{operation: logical.DeleteOperation, path: "roles/jwt", data: map[string]any{"force": "true"}, refused: "force"},
		{operation: logical.ListOperation, path: "keys/", data: map[string]any{"after": "a"}, refused: "after"},
	})
	if m.storage.Writes.Load() != before {
		t.Error("a refusal wrote the storage")
	}
	long := strings.Repeat("é", 1000)
	if message := m.refused(logical.UpdateOperation, "config", map[string]any{long: 1}); len(message) > 300 {
		t.Errorf("the error repeats all of a long name: %s", message)
	}
}

// Whatever a request repeats a value in, the answer and the logs hold a little of
// it, and no part of a token: one that is cut first would not look like one.
func TestRepeatedValuesAreShortAndNoTokens(t *testing.T) {
	m := newMount(t).withRoles()
	m.must(logical.CreateOperation, "roles/long", map[string]any{"token_type": "api_key", "prefix": strings.Repeat("p", 32)})
	token := m.must(logical.ReadOperation, "creds/long", nil).Data["token"].(string)
	for _, value := range []string{token, "x " + token, strings.Repeat("E", 1<<20), strings.Repeat("e ", 1<<19)} {
		for path, data := range map[string]map[string]any{
			"roles/bearer":    {value: 1},
			"roles/jwt":       {"bound_cidrs": []any{value}},
			"roles/api_key":   {"allowed_scopes": []any{value, value}},
			"keys/new":        {"allowed_roles": []any{value + "/"}},
			"creds/bearer":    {"audience": []any{value}},
			"creds/api_key":   {"metadata": map[string]any{value: "x"}},
			"creds/jwt":       {"scopes": []any{value}},
			"introspect":      {"token": "x", "required_scopes": []any{value + " x"}},
			"config":          {"allowed_scopes": []any{value + " x"}},
			"creds/" + "long": {value: "x"},
		} {
			message := m.refused(logical.UpdateOperation, path, data)
			if len(message) > 1500 || strings.Contains(message, token[60:70]) {
				t.Errorf("%s: %d bytes: %.300s", path, len(message), message)
			}
		}
	}
	if log := m.log.String(); strings.Contains(log, token[60:70]) || len(log) > 1<<17 {
		t.Errorf("the log has %d bytes, or a part of the token", len(log))
	}
}
