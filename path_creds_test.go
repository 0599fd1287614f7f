package tokens

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/verify/format"
)

func TestJWTIssueWritesOncePerBlock(t *testing.T) {
	m := newMount(t).withRoles()
	issue := func(tokens int, want int64) {
		t.Helper()
		_, writes := m.storage.Count(func() {
			for range tokens {
				m.must(logical.ReadOperation, "creds/jwt", nil)
			}
		})
		if writes != want {
			t.Errorf("%d JWTs took %d writes, want %d", tokens, writes, want)
		}
	}
	issue(1, 3)    // the key's horizon, who makes the list, and the list
	issue(4095, 4) // each block is three times as large as all before it: 32, 96, 384, 1536, 4096
	issue(8192, 2) // and none larger than 4096
}

func TestMaxTokens(t *testing.T) {
	m := newMount(t).withRoles()
	m.must(logical.UpdateOperation, "roles/bearer", map[string]any{"max_tokens": 2})
	first := m.must(logical.ReadOperation, "creds/bearer", nil)
	m.must(logical.ReadOperation, "creds/bearer", nil)
	m.refused(logical.ReadOperation, "creds/bearer", nil)

	m.restart()
	m.refused(logical.ReadOperation, "creds/bearer", nil)
	if err := m.revoke(first.Secret); err != nil {
		t.Fatal(err)
	}
	m.must(logical.ReadOperation, "creds/bearer", nil)
	m.refused(logical.ReadOperation, "creds/bearer", nil)

	m.clock.Advance(time.Hour)
	m.must(logical.ReadOperation, "creds/bearer", nil)
}

func TestSizesAreBounded(t *testing.T) {
	m := newMount(t).withRoles()
	metadata := map[string]any{}
	for i := range 12 {
		metadata[strings.Repeat("k", i+1)] = strings.Repeat("<", 500)
	}
	scopes := []any{}
	for i := range 20 {
		scopes = append(scopes, "orders:"+strings.Repeat("s", 230+i))
	}
	for _, kind := range []string{"api_key", "jwt"} {
		m.refused(logical.UpdateOperation, "creds/"+kind, map[string]any{"metadata": metadata})
		m.refused(logical.UpdateOperation, "creds/"+kind, map[string]any{"scopes": scopes})
	}
	deep := strings.Repeat(`{"a":`, 40) + "1" + strings.Repeat("}", 40)
	m.refused(logical.UpdateOperation, "roles/jwt", map[string]any{"claims": deep})
}

func TestSubjects(t *testing.T) {
	m := newMount(t).withRoles()
	m.must(logical.UpdateOperation, "roles/bearer", map[string]any{"subject": "svc:{{identity.entity.name}}"})
	token := m.must(logical.ReadOperation, "creds/bearer", nil).Data["token"].(string)
	if sub := m.must(logical.UpdateOperation, "introspect", map[string]any{"token": token}).Data["sub"]; sub != "svc:billing" {
		t.Errorf("subject is %v", sub)
	}
	for _, bad := range []string{"a\nb", "a\u009bb", "a\u202eb", "a\u2028b", "\xff"} {
		m.refused(logical.UpdateOperation, "roles/bearer", map[string]any{"subject": bad})
	}
	m.must(logical.UpdateOperation, "roles/bearer", map[string]any{"subject": strings.Repeat("x", 600)})
	m.refused(logical.ReadOperation, "creds/bearer", nil)
}

// An API that reads metadata takes it for the role's word, so that the role names
// what a caller may add.
func TestCallersAddTheMetadataThatTheRoleAllows(t *testing.T) {
	m := newMount(t).withRoles()
	add := func(name string) map[string]any {
		return map[string]any{"metadata": map[string]any{name: "x"}}
	}
	for _, kind := range []string{"api_key", "bearer", "jwt"} {
		if message := m.refused(logical.UpdateOperation, "creds/"+kind, add("tenant")); !strings.Contains(message, "allowed_metadata") {
			t.Errorf("%s: %s", kind, message)
		}
		m.must(logical.UpdateOperation, "roles/"+kind, map[string]any{"allowed_metadata": "job,x-*", "metadata": map[string]any{"x-team": "shop", "rank": "1", "class": "a"}})
		for name, allowed := range map[string]bool{
			"job": true, "x-run": true, "Job": false, "tenant": false, "x": false, "x-": true,
			// Of the role, in any spelling that some JSON decoder takes for it.
			"x-team": false, "x-TEAM": false, "rank": false,
		} {
			if !allowed {
				m.refused(logical.UpdateOperation, "creds/"+kind, add(name))
				continue
			}
			token := m.must(logical.UpdateOperation, "creds/"+kind, add(name)).Data["token"].(string)
			metadata := m.must(logical.UpdateOperation, "introspect", map[string]any{"token": token}).Data["metadata"]
			if want := map[string]any{"x-team": "shop", "rank": "1", "class": "a", name: "x"}; !reflect.DeepEqual(metadata, want) {
				t.Errorf("%s: metadata is %v, want %v", kind, metadata, want)
			}
		}
		m.must(logical.UpdateOperation, "roles/"+kind, map[string]any{"allowed_metadata": "*"})
		for _, name := range []string{"RANK", "ran\u212a", "clas\u017f", "CLA\u017fS", "X-Team"} {
			if message := m.refused(logical.UpdateOperation, "creds/"+kind, add(name)); !strings.Contains(message, "set by the role") {
				t.Errorf("%s, %q: %s", kind, name, message)
			}
		}
		m.refused(logical.UpdateOperation, "creds/"+kind, map[string]any{"metadata": map[string]any{"tier": "free", "Tier": "gold"}}) // both the caller's
		m.must(logical.UpdateOperation, "creds/"+kind, map[string]any{"metadata": map[string]any{"tier": "free", "tiers": "gold"}})
	}
}

func TestRequireCnf(t *testing.T) {
	m := newMount(t).withRoles()
	bound := map[string]any{"cnf": map[string]any{"jkt": strings.Repeat("A", 43)}}
	for _, kind := range []string{"api_key", "bearer", "jwt"} {
		before := m.must(logical.ReadOperation, "creds/"+kind, nil)
		m.must(logical.UpdateOperation, "roles/"+kind, map[string]any{"require_cnf": true})
		for _, data := range []map[string]any{nil, {"ttl": "1m"}} {
			if message := m.refused(logical.UpdateOperation, "creds/"+kind, data); !strings.HasPrefix(message, "cnf: ") {
				t.Errorf("%s: %s", kind, message)
			}
		}
		m.refused(logical.ReadOperation, "creds/"+kind, nil)
		issued := m.must(logical.UpdateOperation, "creds/"+kind, bound)
		if kind == "jwt" {
			continue
		}
		if _, err := m.renew(before.Secret); err == nil || !strings.Contains(err.Error(), "cnf: ") {
			t.Errorf("%s: a token without a key was renewed: %v", kind, err)
		}
		if resp, err := m.renew(issued.Secret); err != nil || resp.IsError() {
			t.Errorf("%s: a token with a key was not renewed: %v %v", kind, resp, err)
		}
	}
}

// An entity can be deleted between a login's check and the lookup: that is not a
// defect of the engine.
func TestDeletedEntityIsA400(t *testing.T) {
	m := newMount(t).withRoles()
	m.must(logical.UpdateOperation, "roles/bearer", map[string]any{"subject": "{{identity.entity.name}}"})
	m.must(logical.UpdateOperation, "roles/jwt", map[string]any{"claims_template": `{"name": {{identity.entity.name}}}`})
	m.system.EntityVal = nil
	for kind, field := range map[string]string{"bearer": "subject", "jwt": "claims_template"} {
		if message := m.refused(logical.ReadOperation, "creds/"+kind, nil); !strings.HasPrefix(message, field+": ") {
			t.Errorf("%s: %s", kind, message)
		}
	}
}

// A role's claims may have been stored by another version, or restored.
func TestStaticClaimsAreCheckedWhenTheyAreSigned(t *testing.T) {
	m := newMount(t).withRoles()
	entry := m.stored("role/jwt")
	for _, claims := range []string{`{"sub":"admin"}`, `{"Exp":99999999999}`, `{"a":{"b":1,"b":2}}`} {
		m.put("role/jwt", strings.Replace(entry, "{", `{"claims":`+claims+`,`, 1))
		if message := m.refused(logical.ReadOperation, "creds/jwt", nil); !strings.HasPrefix(message, "claims: ") {
			t.Errorf("%s: %s", claims, message)
		}
	}
}

// A template that an older version stored may have a directive in a name: what an
// identity is called must not pass for a claim of the engine, or of the role.
func TestRenderedNamesAreChecked(t *testing.T) {
	m := newMount(t).withRoles()
	m.must(logical.UpdateOperation, "roles/jwt", map[string]any{"claims": map[string]any{"rank": 1}})
	m.put("role/jwt", strings.Replace(m.stored("role/jwt"), "{", `{"claims_template":"{\"{{identity.entity.name}}\": 2}",`, 1))
	for name, allowed := range map[string]bool{"level": true, "exp": false, "Exp": false, "rank": false, "RANK": false, "ran\u212a": false, "": false, "a\nb": false} {
		m.system.EntityVal.Name = name
		resp, err := m.do(logical.ReadOperation, "creds/jwt", nil)
		if err != nil || resp.IsError() == allowed {
			t.Errorf("a claim called %q: %v, %v", name, resp, err)
		}
	}
	m.refused(logical.UpdateOperation, "roles/jwt", map[string]any{"ttl": "5m"}) // until the template is mended
	m.must(logical.UpdateOperation, "roles/jwt", map[string]any{"claims_template": ""})
}

// What an issue answers, for each type of token, with and without a lease.
func TestCreds(t *testing.T) {
	ttl := map[string]time.Duration{"api_key": 24 * time.Hour, "bearer": time.Hour, "jwt": 15 * time.Minute}
	for _, kind := range []string{"api_key", "bearer", "jwt"} {
		for _, leased := range []bool{true, false} {
			m := newMount(t).withRoles()
			m.must(logical.UpdateOperation, "roles/"+kind, map[string]any{"generate_lease": leased, "max_ttl": "48h", "metadata": map[string]any{"team": "payments"}})
			issuedAt := m.clock.Now().UTC().Truncate(time.Second)
			resp := m.must(logical.ReadOperation, "creds/"+kind, nil)
			id, _ := resp.Data["token_id"].(string)
			token, _ := resp.Data["token"].(string)
			want := map[string]any{
				"token": token, "token_id": id, "token_type": kind, "role": kind,
				"scopes": []string{"orders:read"}, "scope": "orders:read", "audience": []string{"https://api.example.com"},
				"issued_at": issuedAt.Format(time.RFC3339), "expires_at": issuedAt.Add(ttl[kind]).Format(time.RFC3339),
				"expires_in": int64(ttl[kind].Seconds()), "metadata": map[string]any{"team": "payments"},
			}
			if !reflect.DeepEqual(resp.Data, want) || !format.ValidID(id) || len(token) < 75 {
				t.Errorf("%s: %v, want %v", kind, resp.Data, want)
			}
			if !leased {
				if resp.Secret != nil {
					t.Errorf("%s: leased against the role's will", kind)
				}
				continue
			}
			lease := resp.Secret
			if lease.TTL != ttl[kind] || lease.MaxTTL != 48*time.Hour || lease.Renewable != (kind != "jwt") || lease.InternalData["secret_type"] != kind {
				t.Errorf("%s: lease of %s of %s, renewable %v, %v", kind, lease.TTL, lease.MaxTTL, lease.Renewable, lease.InternalData)
			}
			for name, value := range lease.InternalData {
				if text, ok := value.(string); !ok || strings.Contains(text, token[len(token)-30:]) {
					t.Errorf("%s: lease data %s is %v", kind, name, value)
				}
			}
		}
	}
}

func TestCredsNarrowed(t *testing.T) {
	m := newMount(t).withRoles()
	jkt := strings.Repeat("A", 43)
	for _, kind := range []string{"api_key", "bearer", "jwt"} {
		m.must(logical.UpdateOperation, "roles/"+kind, map[string]any{"allowed_metadata": "a"})
		resp := m.must(logical.UpdateOperation, "creds/"+kind, map[string]any{
			"scopes": "orders:write", "ttl": "90s", "audience": []any{"https://api.example.com"}, "metadata": map[string]any{"a": "b"}, "cnf": map[string]any{"jkt": jkt},
		})
		for name, want := range map[string]any{
			"scope": "orders:write", "expires_in": int64(90), "metadata": map[string]any{"a": "b"}, "cnf": map[string]any{"jkt": jkt},
		} {
			if !reflect.DeepEqual(resp.Data[name], want) {
				t.Errorf("%s: %s is %v, want %v", kind, name, resp.Data[name], want)
			}
		}
		if !m.active(resp.Data["token"].(string)) {
			t.Errorf("%s: inactive", kind)
		}
		before := m.storage.Writes.Load()
		m.answers([]row{
			{operation: logical.UpdateOperation, path: "creds/" + kind, data: map[string]any{"scopes": "invoices:read"}, refused: "scopes"},
			{operation: logical.UpdateOperation, path: "creds/" + kind, data: map[string]any{"ttl": "100h"}, refused: "ttl"},
			{operation: logical.UpdateOperation, path: "creds/" + kind, data: map[string]any{"ttl": 0}, refused: "ttl"},
			{operation: logical.UpdateOperation, path: "creds/" + kind, data: map[string]any{"audience": "other"}, refused: "audience"},
			{operation: logical.UpdateOperation, path: "creds/" + kind, data: map[string]any{"cnf": map[string]any{"jkt": "short"}}, refused: "cnf"},
			{operation: logical.UpdateOperation, path: "creds/" + kind, data: map[string]any{"role": "other"}, refused: "role"},
			{operation: logical.UpdateOperation, path: "creds/" + kind, data: map[string]any{"token_type": "jwt"}, refused: "token_type"},
			{operation: logical.ReadOperation, path: "creds/" + kind, data: map[string]any{"ttl": "90s"}, refused: "ttl"},
		})
		if m.storage.Writes.Load() != before {
			t.Errorf("%s: a refusal wrote the storage", kind)
		}
	}
	m.answers([]row{
		{operation: logical.ReadOperation, path: "creds/never", refused: "role"},
		{operation: logical.ReadOperation, path: "creds/a/b", refused: "role"},
		{operation: logical.UpdateOperation, path: "config", data: map[string]any{"issuer": ""}, warning: testIssuer},
		{operation: logical.ReadOperation, path: "creds/jwt", refused: "issuer"},
	})
}

func TestCredsOnFaults(t *testing.T) {
	m := newMount(t).withRoles()
	issued := m.fails(logical.ReadOperation, "creds/api_key", nil, unread("role/"), unread("config/"), unwritten("token/"))
	issued += m.fails(logical.ReadOperation, "creds/jwt", nil, unread("role/"), unread("config/"), unread("key/"), unwritten("signed/"), unwritten("instance/"), unwritten("list/"))
	m.must(logical.UpdateOperation, "roles/bearer", map[string]any{"max_tokens": 100})
	issued += m.fails(logical.UpdateOperation, "creds/bearer", map[string]any{"ttl": "1m"}, unread("cap/"), unwritten("cap/"), unwritten("token/"))
	if logged := strings.Count(m.log.String(), "token issued"); logged != issued {
		t.Errorf("the log has %d tokens, and %d were issued", logged, issued)
	}
}
