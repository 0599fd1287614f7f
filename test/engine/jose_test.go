package engine

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
)

// A JWT verifier written from the RFCs with the standard library alone, so
// that the engine's own libraries do not check themselves.

// jwk is a public key of RFC 7517.
type jwk struct {
	KeyType   string `json:"kty"`
	KeyID     string `json:"kid"`
	Algorithm string `json:"alg"`
	Use       string `json:"use"`
	Curve     string `json:"crv"`
	X         string `json:"x"`
	Y         string `json:"y"`
	N         string `json:"n"`
	E         string `json:"e"`
}

// verifyJWT checks a signature against a key set and returns the header and
// the claims.
func verifyJWT(token string, keySet []byte) (header, claims map[string]any, err error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, nil, fmt.Errorf("%d parts, want 3", len(parts))
	}
	if err := errors.Join(decodePart(parts[0], &header), decodePart(parts[1], &claims)); err != nil {
		return nil, nil, err
	}
	var set struct {
		Keys []jwk `json:"keys"`
	}
	if err := json.Unmarshal(keySet, &set); err != nil {
		return nil, nil, fmt.Errorf("key set: %w", err)
	}
	for _, key := range set.Keys {
		if key.KeyID == header["kid"] {
			return header, claims, key.verify(header, parts)
		}
	}
	return nil, nil, fmt.Errorf("no key %v in the set", header["kid"])
}

func decodePart(part string, into any) error {
	raw, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, into)
}

func (k jwk) verify(header map[string]any, parts []string) error {
	if header["alg"] != k.Algorithm || k.Use != "sig" {
		return fmt.Errorf("token's alg is %v, key's alg is %s and use %s", header["alg"], k.Algorithm, k.Use)
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		return err
	}
	signed := []byte(parts[0] + "." + parts[1])
	short, long := sha256.Sum256(signed), sha512.Sum384(signed)
	valid := false
	switch k.Algorithm {
	case "ES256":
		valid = k.verifyECDSA(elliptic.P256(), short[:], signature)
	case "ES384":
		valid = k.verifyECDSA(elliptic.P384(), long[:], signature)
	case "EdDSA":
		valid = k.Curve == "Ed25519" && len(k.bytes(k.X)) == ed25519.PublicKeySize && ed25519.Verify(k.bytes(k.X), signed, signature)
	case "RS256":
		valid = rsa.VerifyPKCS1v15(k.rsa(), crypto.SHA256, short[:], signature) == nil
	case "PS256":
		valid = rsa.VerifyPSS(k.rsa(), crypto.SHA256, short[:], signature, nil) == nil
	default:
		return fmt.Errorf("algorithm %s is none that the engine offers", k.Algorithm)
	}
	if !valid {
		return errors.New("the signature does not verify")
	}
	return nil
}

func (k jwk) verifyECDSA(curve elliptic.Curve, digest, signature []byte) bool {
	size := (curve.Params().BitSize + 7) / 8
	if k.Curve != curve.Params().Name || len(signature) != 2*size {
		return false
	}
	public, err := ecdsa.ParseUncompressedPublicKey(curve, slices.Concat([]byte{4}, k.bytes(k.X), k.bytes(k.Y)))
	if err != nil {
		return false
	}
	r, s := new(big.Int).SetBytes(signature[:size]), new(big.Int).SetBytes(signature[size:])
	return ecdsa.Verify(public, digest, r, s)
}

func (k jwk) rsa() *rsa.PublicKey {
	return &rsa.PublicKey{N: new(big.Int).SetBytes(k.bytes(k.N)), E: int(new(big.Int).SetBytes(k.bytes(k.E)).Int64())}
}

func (k jwk) bytes(s string) []byte {
	raw, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return nil // verifies nothing
	}
	return raw
}

// thumbprint is RFC 7638's, which the engine promises for kid.
func (k jwk) thumbprint() string {
	var members string
	switch k.KeyType {
	case "EC":
		members = fmt.Sprintf(`{"crv":%q,"kty":"EC","x":%q,"y":%q}`, k.Curve, k.X, k.Y)
	case "OKP":
		members = fmt.Sprintf(`{"crv":%q,"kty":"OKP","x":%q}`, k.Curve, k.X)
	case "RSA":
		members = fmt.Sprintf(`{"e":%q,"kty":"RSA","n":%q}`, k.E, k.N)
	}
	sum := sha256.Sum256([]byte(members))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
