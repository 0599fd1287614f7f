package engine

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

// cli runs the vault command as root, and returns what it prints on its standard
// output.
func (s *session) cli(args ...string) (string, error) {
	cmd := exec.CommandContext(s.Ctx, s.Vault, args...)
	cmd.Env = s.CLIEnv()
	out, err := cmd.Output()
	return string(out), err
}

// issueMany issues tokens as root, several at a time.
func (s *session) issueMany(n int, role string) {
	s.T.Helper()
	var workers sync.WaitGroup
	failed := make(chan error, 8)
	for range cap(failed) {
		workers.Go(func() {
			for range n / cap(failed) {
				if _, err := s.IssueAt(s.Ctx, s.Root(), s.Mount, role, nil); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	workers.Wait()
	close(failed)
	for err := range failed {
		s.T.Fatal(err)
	}
}

// TestListTokens holds what reaches a client of a filtered list: Vault makes a 404
// of a list without keys, unless it has something else to say.
func TestListTokens(t *testing.T) {
	s := common(t, 5*time.Minute).at("listed")
	if err := s.Enable(s.Ctx, s.Mount, nil); err != nil {
		t.Fatal(err)
	}
	s.Role("app", vaulttest.APIKey.RoleBody())
	s.Role("many", fields{"token_type": "bearer", "generate_lease": false, "ttl": "1h"})
	key := s.Issue("app", nil)
	s.issueMany(1008, "many")

	path := s.Mount + "/tokens?role=none"
	empty := s.Must("LIST", path, nil)
	next, _ := empty.Data()["next"].(string)
	if next == "" || empty.Data()["keys"] != nil || len(empty.Warnings()) != 1 || !strings.Contains(empty.Warnings()[0], next) {
		t.Fatalf("a page without a match, of two: %s", empty.Raw)
	}
	s.Answers(404, "LIST", path+"&after="+next, nil)
	read, err := s.cli("read", "-format=json", s.Mount+"/tokens", "list=true", "role=none")
	var answer struct {
		Data map[string]any `json:"data"`
	}
	if err != nil || json.Unmarshal([]byte(read), &answer) != nil || answer.Data["next"] != next {
		t.Errorf("vault read … list=true: %v\n%s", err, read)
	}

	query := url.Values{
		"role": {"app"}, "entity_id": {s.Entity}, "token_type": {"api_key"},
		"expires_before": {time.Now().Add(10 * 365 * 24 * time.Hour).Format(time.RFC3339)},
	}
	var found []any
	for after, pages := "", 0; pages < 3; pages++ {
		query.Set("after", after)
		resp, err := s.Root().Do(s.Ctx, "LIST", s.Mount+"/tokens?"+query.Encode(), nil)
		if err != nil || resp.Status != 200 && resp.Status != 404 {
			t.Fatal(resp, err)
		}
		keys, _ := resp.Data()["keys"].([]any)
		found = append(found, keys...)
		if after, _ = resp.Data()["next"].(string); after == "" {
			break
		}
	}
	if fmt.Sprint(found) != "["+key.Data.TokenID+"]" {
		t.Errorf("all filters together find %v, want %s", found, key.Data.TokenID)
	}
}

// TestListDetailed holds the table that operators see.
func TestListDetailed(t *testing.T) {
	s := common(t, time.Minute).at("detailed")
	if err := s.Enable(s.Ctx, s.Mount, nil); err != nil {
		t.Fatal(err)
	}
	s.Role("app", vaulttest.APIKey.RoleBody())
	key := s.Issue("app", nil)
	table, err := s.cli("list", "-detailed", s.Mount+"/tokens")
	if err != nil {
		t.Fatal(err, table)
	}
	rows := strings.Split(strings.TrimSpace(table), "\n")
	if want := "Keys display_name entity_id expires_at issued_at role token_type"; strings.Join(strings.Fields(rows[0]), " ") != want {
		t.Errorf("columns are %q, want %q", rows[0], want)
	}
	want := strings.Join([]string{key.Data.TokenID, "userpass-app", s.Entity, key.Data.ExpiresAt, key.Data.IssuedAt, "app", "api_key"}, " ")
	if got := strings.Join(strings.Fields(rows[len(rows)-1]), " "); got != want {
		t.Errorf("listed is\n%s, want\n%s", got, want)
	}

	path := s.Mount + "/tokens/" + key.Data.TokenID
	if at, ok := s.Must("GET", path, nil).Data()["last_introspected_at"]; ok {
		t.Errorf("introspected at %v, before it was", at)
	}
	before := time.Now().Truncate(time.Second)
	resp := s.Must("POST", s.Mount+"/introspect", fields{"token": key.Data.Token})
	if resp.Data()["active"] != true {
		t.Fatalf("not active: %s", resp.Raw)
	}
	text, _ := s.Must("GET", path, nil).Data()["last_introspected_at"].(string)
	if at, err := time.Parse(time.RFC3339, text); err != nil || at.Before(before) || at.After(time.Now()) {
		t.Errorf("introspected at %q, want after %v", text, before)
	}
}
