package keyring

import (
	"crypto"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store"
)

// storedKey is a key as stored. Entries of format 0 have the private half of
// every version and no public one.
type storedKey struct {
	Name           string        `json:"name"`
	Algorithm      string        `json:"algorithm"`
	RotationPeriod time.Duration `json:"rotation_period,omitempty"`
	AllowedRoles   []string      `json:"allowed_roles"`
	CreatedAt      time.Time     `json:"created_at"`
	// AllowedAudiences is missing before format 2.
	AllowedAudiences []string          `json:"allowed_audiences"`
	Versions         []json.RawMessage `json:"versions"` // each decoded by itself
}

// storedVersion is a version as stored, private half included. It never leaves
// this file.
type storedVersion struct {
	Number       int       `json:"version"`
	ID           string    `json:"kid"`
	Algorithm    string    `json:"algorithm"`
	State        State     `json:"state"`
	CreatedAt    time.Time `json:"created_at"`
	SigningSince time.Time `json:"signing_since,omitzero"`
	SignedUntil  time.Time `json:"signed_until,omitzero"`
	NotAfter     time.Time `json:"not_after,omitzero"`
	PKIX         []byte    `json:"public_key,omitempty"`
	PKCS8        []byte    `json:"private_key,omitempty"` // only while next or signing
}

// keyFormat is 2 since there are allowed_audiences.
const keyFormat = 2

// newStoredKey is what a key is decoded onto: one from before there were
// allowed_audiences allows any.
func newStoredKey(string) *storedKey { return &storedKey{AllowedAudiences: []string{"*"}} }

// decode returns the key. A version of it that cannot be decoded has a Problem;
// a key of which the algorithm is unknown is an error as a whole.
func (s *storedKey) decode(name string) (*Key, error) {
	if _, ok := algorithmByName(s.Algorithm); !ok {
		return nil, fmt.Errorf("%w: %s%s: unknown algorithm %.32q", store.ErrUndecodable, StoragePrefix, name, s.Algorithm)
	}
	key := &Key{
		Name:             name,
		Algorithm:        s.Algorithm,
		RotationPeriod:   s.RotationPeriod,
		AllowedRoles:     s.AllowedRoles,
		AllowedAudiences: s.AllowedAudiences,
		CreatedAt:        s.CreatedAt,
	}
	for _, encoded := range s.Versions {
		v, outdated := decodeVersion(encoded)
		key.Versions = append(key.Versions, v)
		key.outdated = key.outdated || outdated
	}
	return key, nil
}

// decodeVersion reads one version. It is outdated if more of it is stored than is
// needed.
func decodeVersion(encoded json.RawMessage) (v *Version, outdated bool) {
	var s storedVersion
	err := json.Unmarshal(encoded, &s)
	v = &Version{
		Number:       s.Number,
		ID:           s.ID,
		Algorithm:    s.Algorithm,
		State:        s.State,
		CreatedAt:    s.CreatedAt,
		SigningSince: s.SigningSince,
		SignedUntil:  s.SignedUntil,
		NotAfter:     s.NotAfter,
	}
	if err == nil {
		err = v.decodeHalves(s.PKIX, s.PKCS8)
	} else {
		err = errors.New("its entry is no valid JSON of a version") // the decoder's text may repeat values
	}
	if err != nil {
		v.Problem = err.Error()
		v.public, v.private, v.jwk = nil, nil, nil
		v.ID = s.ID
		v.raw = func() json.RawMessage { return encoded }
		return v, false
	}
	return v, s.State == Retired && s.PKCS8 != nil
}

func (v *Version) decodeHalves(pkix, pkcs8 []byte) error {
	a, ok := algorithmByName(v.Algorithm)
	if !ok {
		return fmt.Errorf("unknown algorithm %.32q", v.Algorithm)
	}
	v.method = a.method
	var public crypto.PublicKey
	if pkix != nil {
		var err error
		if public, err = x509.ParsePKIXPublicKey(pkix); err != nil {
			return errors.New("its public half cannot be decoded")
		}
	}
	if pkcs8 != nil {
		decoded, err := x509.ParsePKCS8PrivateKey(pkcs8)
		signer, ok := decoded.(crypto.Signer)
		if err != nil || !ok {
			return errors.New("its private half cannot be decoded")
		}
		if public == nil {
			public = signer.Public()
		}
		if v.State != Retired {
			v.private = func() crypto.Signer { return signer }
		}
		if equal, ok := public.(interface{ Equal(crypto.PublicKey) bool }); !ok || !equal.Equal(signer.Public()) {
			return errors.New("its halves do not belong together")
		}
	}
	switch {
	case public == nil:
		return errors.New("it has no public half")
	case v.private == nil && v.State != Retired:
		return errors.New("it has no private half")
	}
	id := v.ID
	if err := v.setPublic(public); err != nil {
		return err
	}
	if id != v.ID {
		return errors.New("its kid is not that of its public half")
	}
	return nil
}

// encode returns the stored form of a key.
func (k *Key) encode() (*storedKey, error) {
	s := &storedKey{
		Name:             k.Name,
		Algorithm:        k.Algorithm,
		RotationPeriod:   k.RotationPeriod,
		AllowedRoles:     k.AllowedRoles,
		AllowedAudiences: k.AllowedAudiences,
		CreatedAt:        k.CreatedAt,
	}
	for _, v := range k.Versions {
		encoded, err := v.encode()
		if err != nil {
			return nil, err
		}
		s.Versions = append(s.Versions, encoded)
	}
	return s, nil
}

func (v *Version) encode() (json.RawMessage, error) {
	if v.raw != nil {
		return v.raw(), nil // another build may be able to read it
	}
	s := storedVersion{
		Number:       v.Number,
		ID:           v.ID,
		Algorithm:    v.Algorithm,
		State:        v.State,
		CreatedAt:    v.CreatedAt,
		SigningSince: v.SigningSince,
		SignedUntil:  v.SignedUntil,
		NotAfter:     v.NotAfter,
	}
	var err error
	if s.PKIX, err = x509.MarshalPKIXPublicKey(v.public); err != nil {
		return nil, fmt.Errorf("encode public key %s: %w", v.ID, err)
	}
	if v.private != nil && v.State != Retired {
		if s.PKCS8, err = x509.MarshalPKCS8PrivateKey(v.private()); err != nil {
			return nil, fmt.Errorf("encode key %s: %w", v.ID, err)
		}
	}
	return json.Marshal(s)
}
