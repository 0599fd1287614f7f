package keyring

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/big"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
)

// secretsOf returns a part of a version's private half as each way of printing
// would show it.
func secretsOf(t *testing.T, v *Version) []string {
	t.Helper()
	var private []byte
	var decimals []string
	switch key := v.private().(type) {
	case *ecdsa.PrivateKey:
		var err error
		if private, err = key.Bytes(); err != nil {
			t.Fatal(err)
		}
	case ed25519.PrivateKey:
		private = key.Seed()
	case *rsa.PrivateKey:
		private = key.D.Bytes()
		decimals = append(decimals, key.Primes[0].String())
	default:
		t.Fatalf("%T", key)
	}
	decimals = append(decimals, new(big.Int).SetBytes(private).String())
	pkcs8, err := x509.MarshalPKCS8PrivateKey(v.private())
	if err != nil {
		t.Fatal(err)
	}
	part := private[4:20]
	bytesAs := func(verb string) string { return strings.Trim(fmt.Sprintf(verb, part), "[]") }
	goSyntax := fmt.Sprintf("%#v", part)
	goSyntax = goSyntax[strings.IndexByte(goSyntax, '{')+1 : len(goSyntax)-1]
	return append(decimals, string(part), bytesAs("%d"), bytesAs("%x"), bytesAs("%X"), goSyntax, base64.StdEncoding.EncodeToString(pkcs8)[:40], base64.StdEncoding.EncodeToString(pkcs8)[30:60], base64.RawURLEncoding.EncodeToString(private)[:20])
}

// No way to print or encode what the package returns shows a private half: not
// fmt, not slog, not hclog in either format, not JSON as answers are encoded.
func TestPrivateHalvesAreRedacted(t *testing.T) {
	for _, algorithm := range []string{"ES256", "Ed25519", "RS256"} {
		f := everyAlgorithmFor(t)
		key := f.get(algorithm)
		version := key.Versions[0]
		printed := map[string]string{}
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
			printed["version "+verb] = fmt.Sprintf(verb, version)
			printed["version by value "+verb] = fmt.Sprintf(verb, *version)
			printed["key by value "+verb] = fmt.Sprintf(verb, *key)
			printed["versions "+verb] = fmt.Sprintf(verb, key.Versions)
			printed["key "+verb] = fmt.Sprintf(verb, key)
			printed["rotation "+verb] = fmt.Sprintf(verb, &Rotation{Key: key, Signing: version})
			printed["keyring "+verb] = fmt.Sprintf(verb, f.Keyring)
		}
		for name, handler := range map[string]func(*bytes.Buffer) slog.Handler{
			"text": func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
			"JSON": func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
		} {
			var log bytes.Buffer
			slog.New(handler(&log)).Info("m", "version", version)
			printed[name+" log of version"] = log.String()
		}
		for _, asJSON := range []bool{false, true} { // JSON is what a plugin logs
			var log bytes.Buffer
			logger := hclog.New(&hclog.LoggerOptions{Output: &log, JSONFormat: asJSON})
			logger.Info("m", "version", version, "value", *version, "versions", key.Versions, "key", key, "rotation", &Rotation{Key: key, Signing: version})
			printed[fmt.Sprint("log, in JSON: ", asJSON)] = log.String()
		}
		for name, value := range map[string]any{"version": version, "key": key, "rotation": &Rotation{Key: key, Signing: version}} {
			encoded, err := json.Marshal(value)
			if err != nil {
				t.Fatal(err)
			}
			printed[name+" in JSON"] = string(encoded)
		}
		public, err := json.Marshal(version.JWK())
		if err != nil {
			t.Fatal(err)
		}
		printed["JWK"] = string(public)
		for how, text := range printed {
			for _, secret := range secretsOf(t, version) {
				if strings.Contains(text, secret) {
					t.Errorf("%s, %s: the private half is in it", algorithm, how)
				}
			}
		}
		if text := fmt.Sprint(version); !strings.Contains(text, version.ID) || !strings.Contains(text, algorithm) {
			t.Errorf("shown as %q", text)
		}
	}
}
