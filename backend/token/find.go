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

// maxTokenLength bounds what is hashed or parsed of a presented token, in
// bytes. No longer one is issued.
const maxTokenLength = 64 * 1024

// Inactive is why a token is not active, for the log: callers are told no more
// than that it is not.
type Inactive string

// Why a token is not active.
const (
	Malformed Inactive = "malformed"
	Unknown   Inactive = "unknown or revoked"
	Expired   Inactive = "expired"
	IsRevoked Inactive = "revoked"
	NotYet    Inactive = "not valid yet"
	CheckFail Inactive = "check failed"
)

// found is a presented token after authentication. Either inactive is set, or
// the token is live and one of record and claims is; of a JWT that is not valid
// yet, both are.
type found struct {
	inactive Inactive
	record   *Record

	claims *format.Claims
	place  statuslist.Place
	role   string
}

// find authenticates a presented token of any kind.
func (s *Service) find(ctx context.Context, storage logical.Storage, token format.Secret) (found, error) {
	text := token.Reveal()
	if len(text) > maxTokenLength {
		return found{inactive: Malformed}, nil
	}
	if strings.Count(text, ".") == 2 {
		return s.findJWT(ctx, storage, text)
	}
	return s.findOpaque(ctx, storage, text)
}

func (s *Service) findOpaque(ctx context.Context, storage logical.Storage, text string) (found, error) {
	opaque, err := format.ParseOpaque(text)
	if err != nil {
		return found{inactive: Malformed}, nil
	}
	record, err := s.records.Get(ctx, storage, opaque.ID)
	switch {
	case err != nil:
		return found{}, err
	case !record.matches(opaque):
		return found{inactive: Unknown}, nil
	case !record.Live(s.clock()):
		return found{inactive: Expired}, nil
	}
	return found{record: record}, nil
}

// errUnknownKey says that a JWT was not signed with a published key.
var errUnknownKey = errors.New("unknown key")

func (s *Service) findJWT(ctx context.Context, storage logical.Storage, text string) (found, error) {
	claims, inactive, err := s.verify(ctx, storage, text)
	if err != nil || inactive != "" {
		return found{inactive: inactive}, err
	}
	now := s.clock().Unix()
	switch {
	case now >= claims.ExpiresAt:
		return found{inactive: Expired}, nil
	case now < claims.NotBefore:
		inactive = NotYet
	}
	reference := claims.Status.StatusList
	place := statuslist.Place{List: reference.URI[strings.LastIndexByte(reference.URI, '/')+1:], Index: reference.Index}
	role, revoked, err := s.Lists.Look(ctx, storage, place)
	if err != nil {
		return found{}, err
	}
	if revoked {
		return found{inactive: IsRevoked}, nil
	}
	return found{inactive: inactive, claims: claims, place: place, role: role}, nil
}

// signature is a JWT whose signature was found good, and the key that made it.
type signature struct {
	claims *format.Claims
	key    string
}

// verify checks a JWT's type and signature, once: a good signature stays good
// for as long as its key is published. The claims are for the caller to judge.
func (s *Service) verify(ctx context.Context, storage logical.Storage, text string) (*format.Claims, Inactive, error) {
	if strings.ContainsFunc(text, func(c rune) bool { return !isBase64URL(c) && c != '.' }) {
		return nil, Malformed, nil // the decoder would skip line breaks
	}
	digest := sha256.Sum256([]byte(text))
	if known, ok := s.signatures.Get(digest); ok {
		version, err := s.Keys.Published(ctx, storage, known.key)
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
		version, err := s.Keys.Published(ctx, storage, id)
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
	s.signatures.Add(digest, signature{claims, key})
	return claims, "", nil
}

func isBase64URL(c rune) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}
