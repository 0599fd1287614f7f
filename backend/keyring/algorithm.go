package keyring

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"slices"
	"strings"

	"github.com/golang-jwt/jwt/v5"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/usererror"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/verify/format"
)

// DefaultAlgorithm is what a key signs with when nothing else is asked for.
const DefaultAlgorithm = "ES256"

const rsaBits = 3072 // 128-bit strength, NIST SP 800-57 part 1, table 2

// algorithm is one signature algorithm of RFC 7518 §3.1, RFC 8037 or RFC 9864.
type algorithm struct {
	name     string
	method   jwt.SigningMethod
	generate func() (crypto.Signer, error)
}

// algorithms lists what keys can sign with. HMAC and "none" are not here and
// never will be: verifiers must not hold what can sign.
var algorithms = []algorithm{
	{"ES256", jwt.SigningMethodES256, generateECDSA(elliptic.P256())},
	{"ES384", jwt.SigningMethodES384, generateECDSA(elliptic.P384())},
	{"EdDSA", jwt.SigningMethodEdDSA, generateEd25519},
	{"Ed25519", format.SigningMethodEd25519, generateEd25519},
	{"RS256", jwt.SigningMethodRS256, generateRSA},
	{"PS256", jwt.SigningMethodPS256, generateRSA},
}

// AlgorithmNames lists the algorithms that a key can be created with.
func AlgorithmNames() []string {
	names := make([]string, len(algorithms))
	for i, a := range algorithms {
		names[i] = a.name
	}
	return names
}

func algorithmByName(name string) (algorithm, bool) {
	i := slices.IndexFunc(algorithms, func(a algorithm) bool { return a.name == name })
	if i < 0 {
		return algorithm{}, false
	}
	return algorithms[i], true
}

func parseAlgorithm(name string) (algorithm, error) {
	a, ok := algorithmByName(name)
	if !ok {
		return algorithm{}, usererror.Field("algorithm", "must be one of %s", strings.Join(AlgorithmNames(), ", "))
	}
	return a, nil
}

// Keys come from crypto/rand: Go's own functions take no other source.

func generateECDSA(curve elliptic.Curve) func() (crypto.Signer, error) {
	return func() (crypto.Signer, error) { return ecdsa.GenerateKey(curve, rand.Reader) }
}

func generateEd25519() (crypto.Signer, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	return private, err
}

func generateRSA() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, rsaBits) }

// signatureLength returns how long a signature is, in bytes (RFC 7518 §3.3, §3.4
// and RFC 8032).
func signatureLength(public crypto.PublicKey) int {
	switch key := public.(type) {
	case *ecdsa.PublicKey:
		return 2 * ((key.Curve.Params().BitSize + 7) / 8)
	case *rsa.PublicKey:
		return key.Size()
	default:
		return ed25519.SignatureSize
	}
}
