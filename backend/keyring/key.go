package keyring

import (
	"crypto"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"
	"github.com/ryanuber/go-glob"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/scope"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/usererror"
)

// State is a stage in the life of a key version.
type State string

// A version is published as next before it signs, and stays published as
// retired until the last token that it signed has expired.
const (
	Next    State = "next"
	Signing State = "signing"
	Retired State = "retired"
)

// Key is a named signing key. What Keyring returns is shared: treat it as
// immutable. Its stored form is storedKey.
type Key struct {
	Name           string
	Algorithm      string
	RotationPeriod time.Duration // zero: rotated on demand only
	AllowedRoles   []string      // patterns; empty allows none
	// AllowedAudiences are patterns of what tokens that it signs may be for; empty
	// allows none.
	AllowedAudiences []string
	CreatedAt        time.Time
	Versions         []*Version // oldest first; one is next, one signs

	outdated bool // stored in a form that keeps more than is needed
}

// Version is one key pair of a key. Nothing that prints or encodes it shows the
// private half.
type Version struct {
	Number    int
	ID        string // RFC 7638 thumbprint
	Algorithm string
	State     State
	CreatedAt time.Time // and published since
	// SigningSince is when the version began to sign.
	SigningSince time.Time
	// SignedUntil is what the key's own entry says of when the last of what the
	// version signed expires. The key's horizon may be later.
	SignedUntil time.Time
	// NotAfter is when a retired version stops being published; it is fixed
	// when the version retires.
	NotAfter time.Time
	// Problem is why the version cannot be used, if so. It is neither published
	// nor signs then.
	Problem string

	public  crypto.PublicKey
	method  jwt.SigningMethod
	jwk     []byte
	private private // nil once retired
	raw     raw     // as stored, of a version that has a problem
}

// private is a private half. It is a closure since nothing that prints values or
// encodes them can look into one, whatever it knows of redaction.
type private func() crypto.Signer

// raw is a stored version with its private half, hidden in the same way.
type raw func() json.RawMessage

// Signing returns the version that signs.
func (k *Key) Signing() (*Version, error) { return k.inState(Signing) }

// Next returns the version that is published and will sign next.
func (k *Key) Next() (*Version, error) { return k.inState(Next) }

func (k *Key) inState(state State) (*Version, error) {
	for _, v := range k.Versions {
		if v.State == state && v.Problem == "" {
			return v, nil
		}
	}
	return nil, usererror.Field("key", "%q has no version that can be read and is %s; drop what it has with keys/%s/rotate-emergency, which ends all tokens that it signed", k.Name, state, k.Name)
}

// NextRotation returns when the key is rotated by itself; zero if never.
func (k *Key) NextRotation() time.Time {
	signing, errSigning := k.Signing()
	next, errNext := k.Next()
	if errSigning != nil || errNext != nil || k.RotationPeriod == 0 {
		return time.Time{}
	}
	return later(signing.SigningSince.Add(k.RotationPeriod), next.CreatedAt.Add(MinPublished))
}

// Allows reports whether a role may use the key.
func (k *Key) Allows(role string) bool {
	return slices.ContainsFunc(k.AllowedRoles, func(pattern string) bool { return glob.Glob(pattern, role) })
}

// CheckAudiences refuses audiences that the key allows no token for, as a mistake in
// the field.
func (k *Key) CheckAudiences(field string, audiences []string) error {
	if a, outside := scope.Outside(k.AllowedAudiences, audiences); outside {
		return usererror.Field(field, "%q is not allowed by key %q; see its allowed_audiences", usererror.Clip(a), k.Name)
	}
	return nil
}

// problem tells of a version that cannot be used, nil if there is none.
func (k *Key) problem() error {
	for _, v := range k.Versions {
		if v.Problem != "" {
			return fmt.Errorf("version %d (%s) of key %q cannot be used: %s; its tokens are refused. Restore the entry from a backup, or start over with keys/%s/rotate-emergency, which ends all tokens of the key", v.Number, v.State, k.Name, v.Problem, k.Name)
		}
	}
	return nil
}

// add gives the key a new version.
func (k *Key) add(pair *Version, state State, now time.Time) *Version {
	number := 0
	for _, v := range k.Versions {
		number = max(number, v.Number)
	}
	v := *pair
	v.Number, v.State, v.CreatedAt = number+1, state, now
	if state == Signing {
		v.SigningSince = now
	}
	k.Versions = append(k.Versions, &v)
	return &v
}

// generate makes a key pair. It takes long for RSA: call it without a lock.
func generate(a algorithm) (*Version, error) {
	signer, err := a.generate()
	if err != nil {
		return nil, fmt.Errorf("generate %s key: %w", a.name, err)
	}
	v := &Version{Algorithm: a.name, method: a.method, private: func() crypto.Signer { return signer }}
	return v, v.setPublic(signer.Public())
}

// setPublic sets the public half and what is derived from it.
func (v *Version) setPublic(public crypto.PublicKey) (err error) {
	v.public = public
	if v.ID, err = thumbprint(public); err != nil {
		return err
	}
	if v.jwk, err = json.Marshal(v.JWK()); err != nil {
		return fmt.Errorf("encode public key %s: %w", v.ID, err)
	}
	return nil
}

func thumbprint(public crypto.PublicKey) (string, error) {
	jwk := jose.JSONWebKey{Key: public}
	sum, err := jwk.Thumbprint(crypto.SHA256)
	if err != nil {
		return "", fmt.Errorf("key thumbprint: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(sum), nil
}

// JWK returns the public half as a JSON Web Key (RFC 7517).
func (v *Version) JWK() jose.JSONWebKey {
	return jose.JSONWebKey{Key: v.public, KeyID: v.ID, Algorithm: v.Algorithm, Use: "sig"}
}

// Public returns the public half, or nil if the version has a problem.
func (v *Version) Public() crypto.PublicKey { return v.public }

// Method returns the version's signature method.
func (v *Version) Method() jwt.SigningMethod { return v.method }

// Sign signs claims into a JWT in compact serialization, with the given typ.
func (v *Version) Sign(typ string, claims jwt.Claims) (string, error) {
	if v.private == nil {
		return "", fmt.Errorf("key version %s has no private half any more", v.ID)
	}
	token := jwt.Token{Header: v.header(typ), Claims: claims, Method: v.method}
	signed, err := token.SignedString(v.private())
	if err != nil {
		return "", fmt.Errorf("sign with key %s: %w", v.ID, err)
	}
	return signed, nil
}

// SignedLength returns how long the JWT will be that Sign makes of such claims.
func (v *Version) SignedLength(typ string, claims jwt.Claims) (int, error) {
	token := jwt.Token{Header: v.header(typ), Claims: claims, Method: v.method}
	unsigned, err := token.SigningString()
	if err != nil {
		return 0, fmt.Errorf("measure claims: %w", err)
	}
	return len(unsigned) + 1 + base64.RawURLEncoding.EncodedLen(signatureLength(v.public)), nil
}

func (v *Version) header(typ string) map[string]any {
	return map[string]any{"typ": typ, "alg": v.method.Alg(), "kid": v.ID}
}

// Expired reports whether a retired version need no longer be published. There is no
// margin for clocks that differ, as there is for what revokes tokens: by a clock that
// is behind this one, a token that the version signed may live on, and is refused early.
// That is the safe side, and the horizon reaches up to reserveAhead beyond the last
// token. A margin of a day would have a key of the shortest rotation_period keep some
// 60 versions more, of the 100 that there can be.
func (v *Version) Expired(now time.Time) bool {
	return v.State == Retired && !now.Before(v.NotAfter)
}

// String shows what is public.
func (v *Version) String() string {
	return fmt.Sprintf("%s version %d (%s, %s)", v.Algorithm, v.Number, v.ID, v.State)
}

// GoString shows what is public.
func (v *Version) GoString() string { return v.String() }

// LogValue shows what is public.
func (v *Version) LogValue() slog.Value { return slog.StringValue(v.String()) }
