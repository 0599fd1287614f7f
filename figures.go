package tokens

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/keyring"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/statuslist"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/token"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/verify/format"
)

// What operators see of one mount in this process: each figure is declared once,
// for the answer's schema, for JSON and for Prometheus.

// snapshot is what the figures are taken from.
type snapshot struct {
	*counts
	tokens token.Counts
	lists  statuslist.Counts
	keys   []keyring.Status
}

func (b *tokensBackend) snapshot() *snapshot {
	return &snapshot{counts: b.counts, tokens: b.engine.Tokens.Counts(), lists: b.engine.Lists.Counts(), keys: b.engine.Keys.Status()}
}

// figure is one field of the answer, and one metric. Its type decides what it is: a
// counter by the values of a label (TypeMap), a number that goes up and down
// (TypeInt64), or a time (TypeString).
type figure struct {
	field     string
	fieldType framework.FieldType
	label     string // of a counter
	help      string
	value     func(*snapshot) any // counter, int or time.Time; nil or a zero time: not known
}

// No label has values that grow with what a mount holds, such as names of roles.
var figures = []figure{
	{"started_at", framework.TypeString, "", "When this process began to count.", func(s *snapshot) any { return s.since }},
	{"issued", framework.TypeMap, "token_type", "Tokens issued.", func(s *snapshot) any { return s.issued }},
	{"renewed", framework.TypeMap, "token_type", "Renewals of tokens.", func(s *snapshot) any { return s.renewed }},
	{"revoked", framework.TypeMap, "token_type", "Tokens revoked.", func(s *snapshot) any { return s.revoked }},
	{"expired", framework.TypeMap, "token_type", "Tokens whose expiry was noticed: their lease ended, or tidying found the record.", func(s *snapshot) any { return s.expired }},
	{"introspections", framework.TypeMap, "result", "Introspections, active or by why the token was not.", func(s *snapshot) any { return s.introspections }},
	{"requests_refused", framework.TypeMap, "endpoint", "Requests answered with a 4xx or 501.", func(s *snapshot) any { return s.refused }},
	{"requests_failed", framework.TypeMap, "endpoint", "Requests answered with another 5xx.", func(s *snapshot) any { return s.failed }},
	{"storage_errors", framework.TypeMap, "operation", "Operations of Vault's storage that failed.", func(s *snapshot) any { return s.storageErrors }},

	{"records", framework.TypeInt64, "", "Records of tokens that the last complete tidying pass left.", func(s *snapshot) any { return known(s.tokens.Complete.StartedAt, s.tokens.Complete.Records()) }},
	{"records_cached", framework.TypeInt64, "", "Records in memory.", func(s *snapshot) any { return s.tokens.Records }},
	{"records_cached_bytes", framework.TypeInt64, "", "Size of the records in memory, as stored.", func(s *snapshot) any { return s.tokens.RecordBytes }},
	{"jwts_cached", framework.TypeInt64, "", "JWTs in memory whose signature was verified.", func(s *snapshot) any { return s.tokens.JWTs }},
	{"jwts_cached_bytes", framework.TypeInt64, "", "Size of these JWTs.", func(s *snapshot) any { return s.tokens.JWTBytes }},
	{"capped_roles", framework.TypeInt64, "", "Roles with max_tokens whose tokens are counted in memory.", func(s *snapshot) any { return s.tokens.CappedRoles }},
	{"capped_tokens", framework.TypeInt64, "", "Tokens that count towards the max_tokens of these roles.", func(s *snapshot) any { return s.tokens.CappedTokens }},
	{"status_lists", framework.TypeInt64, "", "Status lists that are known.", func(s *snapshot) any { return s.lists.Lists }},
	{"status_lists_loaded", framework.TypeInt64, "", "Status lists in memory.", func(s *snapshot) any { return s.lists.Loaded }},
	{"status_lists_loaded_bytes", framework.TypeInt64, "", "Size of the status lists in memory.", func(s *snapshot) any { return s.lists.LoadedBytes }},
	{"signing_keys", framework.TypeInt64, "", "Signing keys in memory.", func(s *snapshot) any { return len(s.keys) }},
	{"signing_keys_failing", framework.TypeInt64, "", "Signing keys that cannot be read, sign, or be rotated automatically.", func(s *snapshot) any { return s.failing() }},
	{"last_rotation", framework.TypeString, "", "When a signing key was last rotated.", func(s *snapshot) any { return s.lastRotation() }},
	{"next_rotation", framework.TypeString, "", "When the next automatic rotation of a signing key is due.", func(s *snapshot) any { return s.nextRotation() }},

	{"tidy_started_at", framework.TypeString, "", "When the pass over all records began that is under way, or the last one.", func(s *snapshot) any { return s.tokens.Pass.StartedAt }},
	{"tidy_finished_at", framework.TypeString, "", "When that pass was finished; missing while it is under way.", func(s *snapshot) any { return s.tokens.Pass.FinishedAt }},
	{"tidy_looked", framework.TypeInt64, "", "Records that the pass has looked at.", func(s *snapshot) any { return s.ofPass(s.tokens.Pass.Looked) }},
	{"tidy_removed", framework.TypeInt64, "", "Records of expired tokens that it removed.", func(s *snapshot) any { return s.ofPass(s.tokens.Pass.Removed) }},
	{"tidy_slots_removed", framework.TypeInt64, "", "Entries that counted towards a max_tokens without a record, removed.", func(s *snapshot) any { return s.ofPass(s.tokens.Pass.Slots) }},
	{"tidy_failed", framework.TypeInt64, "", "Failures of the pass.", func(s *snapshot) any { return s.ofPass(s.tokens.Pass.Failed) }},
}

func (s *snapshot) ofPass(n int) any { return known(s.tokens.Pass.StartedAt, n) }

// known is a number of a pass that began at a time; nil if there was none.
func known(since time.Time, n int) any {
	if since.IsZero() {
		return nil
	}
	return n
}

func (s *snapshot) failing() (n int) {
	for _, key := range s.keys {
		if key.Problem != "" {
			n++
		}
	}
	return n
}

func (s *snapshot) lastRotation() (last time.Time) {
	for _, key := range s.keys {
		if key.Key != nil && key.Key.LastRotation().After(last) {
			last = key.Key.LastRotation()
		}
	}
	return last
}

func (s *snapshot) nextRotation() (next time.Time) {
	for _, key := range s.keys {
		if key.Key == nil {
			continue
		}
		if at := key.Key.NextRotation(); next.IsZero() || !at.IsZero() && at.Before(next) {
			next = at
		}
	}
	return next
}

// data is the answer as JSON.
func (s *snapshot) data() map[string]any {
	shown := map[string]any{"keys": s.keyData()}
	for _, f := range figures {
		switch value := f.value(s).(type) {
		case counter:
			shown[f.field] = value.read()
		case time.Time:
			if !value.IsZero() {
				shown[f.field] = rfc3339(value)
			}
		case int:
			shown[f.field] = int64(value)
		}
	}
	return shown
}

func (s *snapshot) keyData() []map[string]any {
	keys := make([]map[string]any, len(s.keys))
	for i, key := range s.keys {
		shown := map[string]any{"name": key.Name, "versions": 0}
		if key.Key != nil {
			shown["versions"] = len(key.Key.Versions)
			if at := key.Key.LastRotation(); !at.IsZero() {
				shown["last_rotation"] = rfc3339(at)
			}
			if at := key.Key.NextRotation(); !at.IsZero() {
				shown["next_rotation"] = rfc3339(at)
			}
		}
		if key.Problem != "" {
			shown["last_error"] = format.Redact(key.Problem)
		}
		keys[i] = shown
	}
	return keys
}

// exposition is the answer in Prometheus' text format, version 0.0.4.
func (s *snapshot) exposition() []byte {
	var b bytes.Buffer
	for _, f := range figures {
		switch value := f.value(s).(type) {
		case counter:
			name := f.head(&b, "counter")
			read := value.read()
			for _, of := range slices.Sorted(maps.Keys(read)) {
				fmt.Fprintf(&b, "%s{%s=%q} %d\n", name, f.label, of, read[of])
			}
		case time.Time:
			if !value.IsZero() {
				name := f.head(&b, "gauge")
				fmt.Fprintf(&b, "%s %d\n", name, value.Unix())
			}
		case int:
			name := f.head(&b, "gauge")
			fmt.Fprintf(&b, "%s %d\n", name, value)
		}
	}
	return b.Bytes()
}

// head writes what stands above the samples of a metric, and returns its name.
func (f *figure) head(b *bytes.Buffer, kind string) string {
	name := "vault_tokens_" + f.field
	switch f.fieldType {
	case framework.TypeMap:
		name += "_total"
	case framework.TypeString:
		name = strings.TrimSuffix(name, "_at") + "_timestamp_seconds"
	}
	fmt.Fprintf(b, "# HELP %s %s\n# TYPE %s %s\n", name, f.help, name, kind)
	return name
}
