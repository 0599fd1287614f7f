package tokens

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/keyring"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/token"
)

// tokenData is what an answer shows of a token, without the token itself.
func tokenData(r *token.Record) map[string]any {
	data := map[string]any{
		"token_id":   r.ID,
		"token_type": string(r.TokenType),
		"role":       r.Role,
		"scopes":     append([]string{}, r.Scopes...), // an empty list, never null
		"scope":      strings.Join(r.Scopes, " "),
		"audience":   append([]string{}, r.Audience...),
		"issued_at":  r.IssuedAt.Format(time.RFC3339),
		"expires_at": r.ExpiresAt.Format(time.RFC3339),
	}
	if r.Cnf != nil {
		data["cnf"] = r.Cnf.Map()
	}
	if len(r.Metadata) > 0 {
		data["metadata"] = stringMap(r.Metadata)
	}
	return data
}

// introspectionData is the answer to an introspection (RFC 7662 §2.2). For a token
// that is not live it is active=false and nothing else.
func introspectionData(answer *token.Answer) map[string]any {
	data := map[string]any{"active": answer.Active}
	if answer.ID == "" {
		return data
	}
	data["token_id"] = answer.ID
	data["role"] = answer.Role
	if !answer.Active {
		for name, failed := range map[string]bool{
			"scope_failed":     answer.ScopeFailed,
			"audience_failed":  answer.AudienceFailed,
			"client_ip_failed": answer.ClientIPFailed,
		} {
			if failed {
				data[name] = true
			}
		}
		return data
	}
	data["token_type"] = string(answer.TokenType)
	data["scope"] = strings.Join(answer.Scopes, " ")
	data["client_id"] = answer.ClientID
	data["sub"] = answer.Subject
	data["iat"] = answer.IssuedAt.Unix()
	data["exp"] = answer.ExpiresAt.Unix()
	if len(answer.Audience) > 0 {
		data["aud"] = answer.Audience
	}
	if answer.Issuer != "" {
		data["iss"] = answer.Issuer
	}
	if !answer.NotBefore.IsZero() {
		data["nbf"] = answer.NotBefore.Unix()
		data["jti"] = answer.ID
	}
	if answer.Cnf != nil {
		data["cnf"] = answer.Cnf.Map()
	}
	if len(answer.Metadata) > 0 {
		data["metadata"] = stringMap(answer.Metadata)
	}
	if answer.Status != nil {
		data["status"] = map[string]any{"status_list": map[string]any{"idx": answer.Status.Index, "uri": answer.Status.URI}}
	}
	return data
}

// warn is an answer that has nothing but warnings: nil if there are none.
func warn(warnings []string) *logical.Response {
	if len(warnings) == 0 {
		return nil
	}
	return &logical.Response{Warnings: warnings}
}

// listKeyWarnings warns of status lists that verifiers cannot check.
func listKeyWarnings(listKey *backend.ListKey) (warnings []string) {
	if listKey.Problem != nil {
		warnings = append(warnings, "no status list of API keys and bearer tokens can be signed, so that revocations of these are seen by introspection only: "+listKey.Problem.Error())
	}
	if listKey.Unseen {
		warnings = append(warnings, "key \""+listKey.New.Name+"\" was created to sign the status lists of API keys and bearer tokens; verifiers that do not fetch the key set again for an unknown kid may refuse the lists for up to "+keyring.MaxCacheTime.String())
	}
	return warnings
}

// rfc3339 formats a time for an answer.
func rfc3339(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func prefixStrings(prefixes []netip.Prefix) []string {
	strings := make([]string, len(prefixes))
	for i, p := range prefixes {
		strings[i] = p.String()
	}
	return strings
}

func stringMap(m map[string]string) map[string]any {
	shown := make(map[string]any, len(m))
	for key, value := range m {
		shown[key] = value
	}
	return shown
}

// keySetMaxAge is how long a key set may be cached. It varies, so that verifiers
// that started together do not go on fetching together.
func keySetMaxAge() time.Duration {
	return keyring.MaxCacheTime - rand.N(keyring.MaxCacheTime/5)
}

// document is a body that is answered as it is, with its entity tag.
type document struct {
	body []byte
	tag  string
}

func newDocument(body []byte) *document {
	digest := sha256.Sum256(body)
	return &document{body: body, tag: `"` + base64.RawURLEncoding.EncodeToString(digest[:16]) + `"`}
}

// derived keeps a document, so that it is made once for what it is made from, and
// not once per request.
type derived[From comparable] struct {
	last atomic.Pointer[derivation[From]]
}

type derivation[From comparable] struct {
	from From
	document
}

func (d *derived[From]) get(from From, body func() ([]byte, error)) (*document, error) {
	if last := d.last.Load(); last != nil && last.from == from {
		return &last.document, nil
	}
	made, err := body()
	if err != nil {
		return nil, err
	}
	this := &derivation[From]{from, *newDocument(made)}
	d.last.Store(this)
	return &this.document, nil
}

// raw answers with a document that Vault passes on as it is. The entity tag has an
// effect only if the mount is tuned to pass ETag and If-None-Match.
func raw(req *logical.Request, contentType string, maxAge time.Duration, d *document) *logical.Response {
	resp := &logical.Response{
		Data: map[string]any{
			logical.HTTPStatusCode:         http.StatusOK,
			logical.HTTPContentType:        contentType,
			logical.HTTPCacheControlHeader: fmt.Sprintf("public, max-age=%d", int(maxAge.Seconds())),
			logical.HTTPRawBody:            d.body,
		},
		Headers: map[string][]string{"ETag": {d.tag}},
	}
	if slices.Contains(req.Headers["If-None-Match"], d.tag) {
		resp.Data[logical.HTTPStatusCode] = http.StatusNotModified
		delete(resp.Data, logical.HTTPRawBody)
	}
	return resp
}

// oauth2Prefix begins the paths that answer as OAuth 2.0 defines it.
const oauth2Prefix = "oauth2/"

func isOAuth2(path string) bool { return strings.HasPrefix(path, oauth2Prefix) }

// oauth2Answer answers with a body as it is. audited is for Vault's audit log, which
// has a raw body as one HMAC: Vault's HTTP layer sends the body alone, and no other
// member of Data.
func oauth2Answer(status int, body []byte, audited map[string]any) *logical.Response {
	data := maps.Clone(audited)
	data[logical.HTTPStatusCode] = status
	data[logical.HTTPCacheControlHeader] = "no-store"
	data[logical.HTTPPragmaHeader] = "no-cache"
	data[logical.HTTPContentType] = "" // of no body
	data[logical.HTTPRawBody] = []byte{}
	if len(body) > 0 {
		data[logical.HTTPContentType] = "application/json"
		data[logical.HTTPRawBody] = body
	}
	return &logical.Response{Data: data}
}

// oauth2Error answers with an error of RFC 6749 §5.2.
func oauth2Error(status int, code, description string) *logical.Response {
	description = oauth2Text(description)
	body := fmt.Sprintf(`{"error":%q,"error_description":%q}`, code, description)
	return oauth2Answer(status, []byte(body), map[string]any{"error": description})
}

// oauth2Text replaces what an error_description must not have (RFC 6749 §5.2), so
// that it is also JSON without escapes.
func oauth2Text(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '"':
			return '\''
		case r < ' ' || r > '~' || r == '\\':
			return '?'
		}
		return r
	}, text)
}
