package format

import (
	"crypto/ed25519"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"
)

var someClaims = Claims{
	Issuer:     "https://vault.example.com/v1/tokens",
	Subject:    "billing",
	Audience:   jwt.ClaimStrings{"https://orders.example.com"},
	ExpiresAt:  1795448400,
	NotBefore:  1795444770,
	IssuedAt:   1795444800,
	ID:         "07IL5T8g0w8ovmiQHlVyw8",
	ClientID:   "entity-1",
	Scope:      "orders:read orders:write",
	Status:     Status{StatusListReference{Index: 7, URI: "https://vault.example.com/v1/tokens/status/07IL5T8g0w8ovmiQHlVyw9"}},
	Cnf:        &Confirmation{X5T: "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2"},
	BoundCIDRs: []string{"10.0.0.0/8"},
	Metadata:   map[string]string{"team": "payments"},
}

func TestClaimsRoundTrip(t *testing.T) {
	raw, err := json.Marshal(&someClaims)
	if err != nil {
		t.Fatal(err)
	}
	var got Claims
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, someClaims) {
		t.Errorf("got  %+v\nwant %+v", got, someClaims)
	}
}

func TestExtraClaimsAreWritten(t *testing.T) {
	claims := someClaims
	claims.Extra = map[string]json.RawMessage{"tenant": json.RawMessage(`{"id":1}`), "a": json.RawMessage(`true`)}
	raw, err := json.Marshal(&claims)
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]any
	if err := json.Unmarshal(raw, &all); err != nil {
		t.Fatalf("%v: %s", err, raw)
	}
	if all["a"] != true || !reflect.DeepEqual(all["tenant"], map[string]any{"id": 1.0}) || all["sub"] != "billing" {
		t.Errorf("written as %s", raw)
	}
}

// A claim of another spelling must not pass for a registered one (RFC 7519
// §10.1.1: names are case-sensitive).
func TestClaimsAreReadByExactNames(t *testing.T) {
	var got Claims
	if err := json.Unmarshal([]byte(`{"exp":1,"EXP":2,"Scope":"admin","SUB":"root","Cnf":{"jkt":"x"}}`), &got); err != nil {
		t.Fatal(err)
	}
	if want := (Claims{ExpiresAt: 1}); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestValidThumbprint(t *testing.T) {
	good := strings.Repeat("A", 42) + "E"
	for s, want := range map[string]bool{
		good:                           true,
		"":                             false,
		good[:42]:                      false,
		good + "A":                     false,
		good[:42] + "=":                false,
		good[:42] + "F":                false, // bits beyond the hash
		good[:41] + "+E":               false, // of the other alphabet
		good[:20] + "\n" + good[21:]:   false,
		good[:20] + "\r\n" + good[20:]: false,
	} {
		if got := ValidThumbprint(s); got != want {
			t.Errorf("ValidThumbprint(%q) = %v", s, got)
		}
	}
}

func TestEd25519IsRegistered(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := jwt.NewWithClaims(SigningMethodEd25519, jwt.RegisteredClaims{Subject: "s"}).SignedString(private)
	if err != nil {
		t.Fatal(err)
	}
	parse := func(algorithms ...string) error {
		_, err := jwt.Parse(signed, func(*jwt.Token) (any, error) { return public, nil }, jwt.WithValidMethods(algorithms))
		return err
	}
	if err := parse("Ed25519"); err != nil {
		t.Error(err)
	}
	if parse("EdDSA") == nil {
		t.Error("Ed25519 passes for EdDSA")
	}
}
