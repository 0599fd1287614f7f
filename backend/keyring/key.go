package keyring

import (
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"
	"github.com/ryanuber/go-glob"
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

// Key is a named signing key as stored. It redacts its private halves.
type Key struct {
	Name           string        `json:"name"`
	Algorithm      string        `json:"algorithm"`
	RotationPeriod time.Duration `json:"rotation_period,omitempty"` // zero: rotated on demand only
	AllowedRoles   []string      `json:"allowed_roles"`             // patterns; empty allows none
	CreatedAt      time.Time     `json:"created_at"`
	Versions       []*Version    `json:"versions"` // oldest first; one is next, one signs
}

// Version is one key pair of a key.
type Version struct {
	Number    int       `json:"version"`
	ID        string    `json:"kid"` // RFC 7638 thumbprint
	Algorithm string    `json:"algorithm"`
	State     State     `json:"state"`
	CreatedAt time.Time `json:"created_at"` // and published since
	// SigningSince is when the version began to sign.
	SigningSince time.Time `json:"signing_since,omitzero"`
	// SignedUntil bounds what the version has signed: none of it expires later.
	SignedUntil time.Time `json:"signed_until,omitzero"`
	// NotAfter is when a retired version stops being published; it is fixed
	// when the version retires.
	NotAfter time.Time `json:"not_after,omitzero"`
	PKCS8    []byte    `json:"private_key"`

	signer crypto.Signer
	method jwt.SigningMethod
}

// Signing returns the version that signs.
func (k *Key) Signing() (*Version, error) { return k.inState(Signing) }

// Next returns the version that is published and will sign next.
func (k *Key) Next() (*Version, error) { return k.inState(Next) }

func (k *Key) inState(state State) (*Version, error) {
	for _, v := range k.Versions {
		if v.State == state {
			return v, nil
		}
	}
	return nil, fmt.Errorf("key %s has no version that is %s", k.Name, state)
}

// NextRotation returns when the key is rotated by itself; zero if never.
func (k *Key) NextRotation() time.Time {
	signing, err := k.Signing()
	if err != nil || k.RotationPeriod == 0 {
		return time.Time{}
	}
	return signing.SigningSince.Add(k.RotationPeriod)
}

// Allows reports whether a role may use the key.
func (k *Key) Allows(role string) bool {
	return slices.ContainsFunc(k.AllowedRoles, func(pattern string) bool { return glob.Glob(pattern, role) })
}

// addVersion gives the key a new version.
func (k *Key) addVersion(a algorithm, state State, now time.Time) error {
	number := 1
	if len(k.Versions) > 0 {
		number = k.Versions[len(k.Versions)-1].Number + 1
	}
	v, err := newVersion(number, a, state, now)
	if err != nil {
		return err
	}
	if state == Signing {
		v.SigningSince = now
	}
	k.Versions = append(k.Versions, v)
	return nil
}

// SignedUntil bounds what any version of the key has signed.
func (k *Key) SignedUntil() time.Time {
	var until time.Time
	for _, v := range k.Versions {
		if v.SignedUntil.After(until) {
			until = v.SignedUntil
		}
	}
	return until
}

func newVersion(number int, a algorithm, state State, now time.Time) (*Version, error) {
	signer, err := a.generate()
	if err != nil {
		return nil, fmt.Errorf("generate %s key: %w", a.name, err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(signer)
	if err != nil {
		return nil, fmt.Errorf("encode %s key: %w", a.name, err)
	}
	v := &Version{Number: number, Algorithm: a.name, State: state, CreatedAt: now, PKCS8: pkcs8, signer: signer, method: a.method}
	if v.ID, err = thumbprint(signer.Public()); err != nil {
		return nil, err
	}
	return v, nil
}

func thumbprint(public crypto.PublicKey) (string, error) {
	jwk := jose.JSONWebKey{Key: public}
	sum, err := jwk.Thumbprint(crypto.SHA256)
	if err != nil {
		return "", fmt.Errorf("key thumbprint: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(sum), nil
}

// UnmarshalJSON decodes a stored version and its private key. What cannot be
// decoded is an error: a key ring with a hole in it must not be used.
func (v *Version) UnmarshalJSON(raw []byte) error {
	type plain Version // without this method
	if err := json.Unmarshal(raw, (*plain)(v)); err != nil {
		return err
	}
	a, ok := algorithmByName(v.Algorithm)
	if !ok {
		return fmt.Errorf("key version %d: unknown algorithm %q", v.Number, v.Algorithm)
	}
	private, err := x509.ParsePKCS8PrivateKey(v.PKCS8)
	if err != nil {
		return fmt.Errorf("key version %d: private key cannot be decoded", v.Number)
	}
	signer, ok := private.(crypto.Signer)
	if !ok {
		return errors.New("private key cannot sign")
	}
	v.signer, v.method = signer, a.method
	return nil
}

// JWK returns the public half as a JSON Web Key (RFC 7517).
func (v *Version) JWK() jose.JSONWebKey {
	return jose.JSONWebKey{Key: v.signer.Public(), KeyID: v.ID, Algorithm: v.Algorithm, Use: "sig"}
}

// Public returns the public half.
func (v *Version) Public() crypto.PublicKey { return v.signer.Public() }

// Method returns the version's signature method.
func (v *Version) Method() jwt.SigningMethod { return v.method }

// Sign signs claims into a JWT in compact serialization, with the given typ.
func (v *Version) Sign(typ string, claims jwt.Claims) (string, error) {
	token := jwt.Token{
		Header: map[string]any{"typ": typ, "alg": v.method.Alg(), "kid": v.ID},
		Claims: claims,
		Method: v.method,
	}
	signed, err := token.SignedString(v.signer)
	if err != nil {
		return "", fmt.Errorf("sign with key %s: %w", v.ID, err)
	}
	return signed, nil
}

// Expired reports whether a retired version need no longer be published.
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
