package token

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/keyring"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/statuslist"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/verify/format"
)

// maxTokenLength bounds a presented token, in bytes: a longer one is neither
// hashed nor parsed, and none is issued.
const maxTokenLength = 64 * 1024

// Reason is why a token is not active, for the log: callers learn no more than
// that it is not.
type Reason string

// Reasons for a token not to be active.
const (
	Malformed Reason = "malformed"
	Unknown   Reason = "unknown or revoked"
	Expired   Reason = "expired"
	Revoked   Reason = "revoked"
	NotYet    Reason = "not valid yet"
	NotGiven  Reason = "not known to have been issued"
	CheckFail Reason = "check failed"
)

// found is a presented token after authentication: genuine if one of record and
// claims is set, and live if reason is not. What is genuine can be revoked, live or
// not: the clock may be wrong, and what is revoked in memory may not be so in the
// storage.
type found struct {
	reason Reason
	record *Record

	claims *format.Claims
	ref    statuslist.Ref
	role   string
}

// find authenticates a presented token of any kind. With an error, what is genuine is
// returned all the same: whether it is live is not known then.
func (t *Tokens) find(ctx context.Context, storage logical.Storage, token format.Secret) (found, error) {
	text := token.Reveal()
	if len(text) > maxTokenLength {
		return found{reason: Malformed}, nil
	}
	if strings.Count(text, ".") == 2 {
		return t.findJWT(ctx, storage, text)
	}
	return t.findOpaque(ctx, storage, text)
}

func (t *Tokens) findOpaque(ctx context.Context, storage logical.Storage, text string) (found, error) {
	opaque, err := format.ParseOpaque(text)
	if err != nil {
		return found{reason: Malformed}, nil
	}
	record, err := t.records.Get(ctx, storage, opaque.ID)
	if err != nil {
		return found{}, err
	}
	if !record.matches(opaque) {
		return found{reason: Unknown}, nil
	}
	reason, err := t.standing(ctx, storage, record)
	return found{reason: reason, record: record}, err
}

func (t *Tokens) findJWT(ctx context.Context, storage logical.Storage, text string) (found, error) {
	claims, signer, reason, err := t.verify(ctx, storage, text)
	if err != nil || reason != "" {
		return found{reason: reason}, err
	}
	reference := claims.Status.StatusList
	ref := statuslist.Ref{List: reference.URI[strings.LastIndexByte(reference.URI, '/')+1:], Index: reference.Index}
	now := t.clock().Unix()
	switch {
	case now >= claims.ExpiresAt:
		return found{reason: Expired, claims: claims, ref: ref}, nil
	case signer.Expired(t.clock()):
		return found{reason: Unknown}, nil // it has signed nothing that lives
	}
	role, status, err := t.lists.Status(ctx, storage, ref)
	dead := false
	if err == nil {
		dead, err = t.cutOff(ctx, storage, claims.ClientID, time.Unix(claims.IssuedAt, 0))
	}
	switch {
	case err != nil:
	case status == statuslist.Revoked || dead:
		reason = Revoked
	case status == statuslist.NotGiven:
		reason = NotGiven
	case now < claims.NotBefore:
		reason = NotYet
	}
	return found{reason: reason, claims: claims, ref: ref, role: role}, err
}

// maxHeaderLength bounds the encoded header of a JWT. Ours have some 130
// characters.
const maxHeaderLength = 1024

// signature is a JWT with a good signature, and the key that made it.
type signature struct {
	claims *format.Claims
	key    string
}

// verify checks a JWT's type and signature, once: a good signature stays good as
// long as its key is there. The caller checks the claims, and whether the key is
// still published: by a clock that is ahead it may not be, and yet the token has to
// be revoked.
//
// What costs least is looked at first: a forged JWT is refused by its characters,
// its header or its key, and no claim is decoded before the signature is good.
func (t *Tokens) verify(ctx context.Context, storage logical.Storage, text string) (*format.Claims, *keyring.Version, Reason, error) {
	if strings.ContainsFunc(text, func(c rune) bool { return !isBase64URL(c) && c != '.' }) {
		return nil, nil, Malformed, nil // the decoder would skip line breaks
	}
	digest := sha256.Sum256([]byte(text))
	if known, ok := t.signatures.get(digest); ok {
		version, err := t.keys.Stored(ctx, storage, known.key)
		if err != nil {
			return nil, nil, "", err
		}
		if version == nil {
			return nil, nil, Unknown, nil
		}
		return known.claims, version, "", nil
	}
	header, rest, _ := strings.Cut(text, ".")
	payload, mac, _ := strings.Cut(rest, ".")
	kid, alg, ok := readHeader(header)
	if !ok {
		return nil, nil, Malformed, nil
	}
	// The algorithm is the key's, never the token's choice.
	version, err := t.keys.Stored(ctx, storage, kid)
	if err != nil {
		return nil, nil, "", err
	}
	if version == nil || version.Method().Alg() != alg {
		return nil, nil, Unknown, nil
	}
	bytes, err := base64.RawURLEncoding.Strict().DecodeString(mac)
	if err != nil {
		return nil, nil, Malformed, nil
	}
	if version.Method().Verify(text[:len(text)-len(mac)-1], bytes, version.Public()) != nil {
		return nil, nil, Unknown, nil
	}
	claims := &format.Claims{}
	decoded, err := base64.RawURLEncoding.Strict().DecodeString(payload)
	if err != nil || json.Unmarshal(decoded, claims) != nil {
		return nil, nil, Malformed, nil
	}
	t.signatures.add(digest, signature{claims, kid}, len(text))
	return claims, version, "", nil
}

// readHeader reads the header of an access token (RFC 9068 §2.1). One with crit
// is refused: there is no extension that is understood here (RFC 7515 §4.1.11).
func readHeader(encoded string) (kid, alg string, ok bool) {
	if len(encoded) > maxHeaderLength {
		return "", "", false
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	if err != nil {
		return "", "", false
	}
	var header map[string]any // by exact names
	if json.Unmarshal(raw, &header) != nil {
		return "", "", false
	}
	if _, critical := header["crit"]; critical || header["typ"] != format.AccessTokenType {
		return "", "", false
	}
	kid, hasKid := header["kid"].(string)
	alg, hasAlg := header["alg"].(string)
	return kid, alg, hasKid && hasAlg
}

// signatures are good ones, by the hash of the JWT.
type signatures struct {
	mu    sync.Mutex
	cache *store.Cache[[sha256.Size]byte, signature]
}

// Bounds on the verified JWTs in memory.
const (
	cachedSignatures     = 1 << 15
	cachedSignatureBytes = 32 << 20
)

func newSignatures() *signatures {
	return &signatures{cache: store.NewCache[[sha256.Size]byte, signature](cachedSignatures, cachedSignatureBytes)}
}

func (s *signatures) get(digest [sha256.Size]byte) (signature, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cache.Get(digest)
}

func (s *signatures) add(digest [sha256.Size]byte, good signature, bytes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cache.Add(digest, good, bytes)
}

func isBase64URL(c rune) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}
