package format

import "github.com/golang-jwt/jwt/v5"

// SigningMethodEd25519 is EdDSA with the curve Ed25519 under the name that
// RFC 9864 §2.2 gives it, "Ed25519". The older name, "EdDSA" (RFC 8037 §3.1),
// leaves the curve open. Importing this package registers the method with
// golang-jwt, which does not know the name by itself.
var SigningMethodEd25519 jwt.SigningMethod = signingMethodEd25519{jwt.SigningMethodEdDSA}

type signingMethodEd25519 struct{ *jwt.SigningMethodEd25519 }

// Alg implements jwt.SigningMethod.
func (signingMethodEd25519) Alg() string { return "Ed25519" }

func init() {
	jwt.RegisterSigningMethod(SigningMethodEd25519.Alg(), func() jwt.SigningMethod { return SigningMethodEd25519 })
}
