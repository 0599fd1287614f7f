package token

import (
	"context"
	"crypto/sha256"
	"errors"
	"strings"

	"github.com/golang-jwt/jwt/v5"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/statuslist"
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

// found is a presented token after authentication. Either reason is set, or the
// token is live and one of record and claims is. Of a JWT that is not valid yet,
// or not known to have been issued, reason and claims are: it can be revoked.
type found struct {
	reason Reason
	record *Record

	claims *format.Claims
	ref    statuslist.Ref
	role   string
}

// find authenticates a presented token of any kind.
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
	switch {
	case err != nil:
		return found{}, err
	case !record.matches(opaque):
		return found{reason: Unknown}, nil
	case !record.Live(t.clock()):
		return found{reason: Expired}, nil
	}
	return found{record: record}, nil
}

// errUnknownKey reports that a JWT was not signed with a published key.
var errUnknownKey = errors.New("unknown key")

func (t *Tokens) findJWT(ctx context.Context, storage logical.Storage, text string) (found, error) {
	claims, reason, err := t.verify(ctx, storage, text)
	if err != nil || reason != "" {
		return found{reason: reason}, err
	}
	now := t.clock().Unix()
	switch {
	case now >= claims.ExpiresAt:
		return found{reason: Expired}, nil
	case now < claims.NotBefore:
		reason = NotYet
	}
	reference := claims.Status.StatusList
	ref := statuslist.Ref{List: reference.URI[strings.LastIndexByte(reference.URI, '/')+1:], Index: reference.Index}
	role, status, err := t.lists.Status(ctx, storage, ref)
	switch {
	case err != nil:
		return found{}, err
	case status == statuslist.Revoked:
		return found{reason: Revoked}, nil
	case status == statuslist.NotGiven:
		reason = NotGiven
	}
	return found{reason: reason, claims: claims, ref: ref, role: role}, nil
}

// signature is a JWT with a good signature, and the key that made it.
type signature struct {
	claims *format.Claims
	key    string
}

// verify checks a JWT's type and signature, once: a good signature stays good as
// long as its key is published. The caller checks the claims.
func (t *Tokens) verify(ctx context.Context, storage logical.Storage, text string) (*format.Claims, Reason, error) {
	if strings.ContainsFunc(text, func(c rune) bool { return !isBase64URL(c) && c != '.' }) {
		return nil, Malformed, nil // the decoder would skip line breaks
	}
	digest := sha256.Sum256([]byte(text))
	if known, ok := t.signatures.Get(digest); ok {
		version, err := t.keys.Published(ctx, storage, known.key)
		if err != nil {
			return nil, "", err
		}
		if version == nil {
			return nil, Unknown, nil
		}
		return known.claims, "", nil
	}
	var storageErr error
	claims := &format.Claims{}
	var key string
	// The algorithm is the key's, never the token's choice. Times are checked
	// by the caller, against the injected clock.
	parser := jwt.NewParser(jwt.WithoutClaimsValidation(), jwt.WithStrictDecoding())
	_, err := parser.ParseWithClaims(text, claims, func(token *jwt.Token) (any, error) {
		id, _ := token.Header["kid"].(string)
		_, critical := token.Header["crit"]
		if token.Header["typ"] != format.AccessTokenType || critical {
			return nil, errUnknownKey
		}
		version, err := t.keys.Published(ctx, storage, id)
		if err != nil {
			storageErr = err
			return nil, err
		}
		if version == nil || version.Method().Alg() != token.Method.Alg() {
			return nil, errUnknownKey
		}
		key = id
		return version.Public(), nil
	})
	switch {
	case storageErr != nil:
		return nil, "", storageErr
	case errors.Is(err, jwt.ErrTokenMalformed):
		return nil, Malformed, nil
	case err != nil:
		return nil, Unknown, nil
	}
	t.signatures.Add(digest, signature{claims, key})
	return claims, "", nil
}

func isBase64URL(c rune) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}
