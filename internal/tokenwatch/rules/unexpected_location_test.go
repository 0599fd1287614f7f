package rules

import (
	"strings"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

func TestTravel(t *testing.T) {
	world := places{
		"1.1.1.1": {Country: "DE", Latitude: 52.5, Longitude: 13.4, HasCoordinates: true},
		"1.1.1.2": {Country: "DE", Latitude: 48.1, Longitude: 11.6, HasCoordinates: true}, // 500 km away
		"2.2.2.2": {Country: "AU", Latitude: -33.9, Longitude: 151.2, HasCoordinates: true},
		"3.3.3.3": {Country: "FR"},
	}
	use := func(at time.Duration, from string) tokenwatch.Event {
		e := introspection(at, true, "t")
		e.TokenType, e.ClientIP = "api_key", from
		return e
	}
	r := newRule(t, Defaults(), world, "unexpected_location")
	if a := observe(r, use(0, "1.1.1.1"), use(time.Hour, "1.1.1.2")); len(a) != 0 {
		t.Errorf("a train ride: %+v", a)
	}
	if a := observe(r, use(2*time.Hour, "2.2.2.2")); len(a) != 1 || !strings.Contains(a[0].Detail, "nobody travels that fast") {
		t.Errorf("to the other side of the world in an hour: %+v", a)
	}
	if a := observe(r, use(30*time.Hour, "1.1.1.1")); len(a) != 0 {
		t.Errorf("a flight: %+v", a)
	}
	if a := observe(r, use(8*24*time.Hour, "3.3.3.3")); len(a) != 2 || !strings.Contains(a[1].Detail, "The country is new: FR") {
		t.Errorf("a new country: %+v", a)
	}
	if a := observe(r, use(9*24*time.Hour, "3.3.3.3"), use(9*24*time.Hour, "3.3.3.77")); len(a) != 0 {
		t.Errorf("the same network again: %+v", a)
	}
}
