package config

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/usererror"
)

const issuer = "https://vault.example.com/v1/tokens"

func TestIssuer(t *testing.T) {
	for given, want := range map[string]string{
		"":                            "",
		issuer:                        issuer,
		issuer + "/":                  issuer,
		issuer + "//":                 issuer,
		"https://vault.example.com":   "https://vault.example.com",
		"https://vault.example.com/":  "https://vault.example.com",
		"https://192.0.2.1:8200/v1/t": "https://192.0.2.1:8200/v1/t",
		"https://[2001:db8::1]:8200":  "https://[2001:db8::1]:8200",
		"https://h/a%20b":             "https://h/a%20b",
		"https://h/%C3%A9":            "https://h/%C3%A9",
		"https://h/a-b_c.d~e/f":       "https://h/a-b_c.d~e/f",
		"https://h:65535":             "https://h:65535",
		"http://localhost:8200/v1/t":  "http://localhost:8200/v1/t",
		"http://127.0.0.1:8200":       "http://127.0.0.1:8200",
		"http://127.1.2.3":            "http://127.1.2.3",
		"http://[::1]:8200":           "http://[::1]:8200",
		"https://" + strings.Repeat("a", 512-len("https://")): "https://" + strings.Repeat("a", 512-len("https://")),
	} {
		c := Default()
		c.Issuer = given
		if err := c.Validate(); err != nil || c.Issuer != want {
			t.Errorf("%q becomes %q, %v; want %q", given, c.Issuer, err, want)
		}
	}
	for name, bad := range map[string]string{
		"no scheme":               "vault.example.com/v1/tokens",
		"path":                    "/v1/tokens",
		"no host":                 "https:///v1/tokens",
		"port without host":       "https://:8200/v1/tokens",
		"plain http":              "http://vault.example.com",
		"host like a loopback's":  "http://localhost.example.com",
		"address like a loopback": "http://127.0.0.1.example.com",
		"another scheme":          "ftp://vault.example.com",
		"opaque":                  "urn:vault",
		"query":                   issuer + "?a=b",
		"empty query":             issuer + "?",
		"fragment":                issuer + "#a",
		"empty fragment":          issuer + "#",
		"user":                    "https://user@vault.example.com",
		"password":                "https://user:secret@vault.example.com",
		"space":                   "https://h/a b",
		"leading space":           " " + issuer,
		"line break":              issuer + "\n",
		"not ASCII":               "https://h/é",
		"port of letters":         "https://h:https",
		"port too large":          "https://h:65536",
		"negative port":           "https://h:-1",
		"more than 512 bytes":     "https://" + strings.Repeat("a", 513-len("https://")),
		"broken percent-encoding": "https://h/%zz",
		"broken IPv6":             "https://[::1",
		"backslash before a host": `https://h\@evil`,
		"scheme in capitals":      "HTTPS://vault.example.com/v1/tokens",
		"host in capitals":        "https://Vault.example.com/v1/tokens",
		"dot segments":            "https://vault.example.com/v1/x/../tokens",
		"a dot":                   "https://vault.example.com/./v1/tokens",
		"dots at the end":         "https://vault.example.com/v1/tokens/..",
		"empty segments":          "https://vault.example.com//v1//tokens",
		"backslash":               `https://vault.example.com/v1\tokens`,
		"escaped NUL":             "https://vault.example.com/%00",
		"escaped line break":      "https://vault.example.com/v1%0atokens",
		"escaped dots":            "https://vault.example.com/v1/%2e%2E/tokens",
		"escaped slash":           "https://vault.example.com/v1%2Ftokens",
		"escaped backslash":       "https://vault.example.com/v1%5ctokens",
		"escaped letter":          "https://vault.example.com/v1/%74okens",
		"port 0":                  "https://vault.example.com:0/v1/tokens",
		"port with zeros":         "https://vault.example.com:08200/v1/tokens",
		"port that is empty":      "https://vault.example.com:/v1/tokens",
		"IPv6 zone":               "https://[fe80::1%25eth0]/v1/tokens",
		"IPv6 zone of a loopback": "http://[::1%25lo]:8200/v1/tokens",
		"escape in the host":      "https://vault%2eexample.com/v1/tokens",
		"quotes":                  `https://vault.example.com/"><script>`,
	} {
		c := Default()
		c.Issuer = bad
		err := c.Validate()
		wantMistake(t, name, err, "issuer")
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error repeats the password: %v", name, err)
		}
	}
}

func TestValidate(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*Config)
		field  string // that is refused; empty: none
	}{
		"default":                     {func(*Config) {}, ""},
		"no scopes":                   {func(c *Config) { c.AllowedScopes = nil }, ""},
		"patterns":                    {func(c *Config) { c.AllowedScopes = []string{"orders:*", "a"} }, ""},
		"not a scope":                 {func(c *Config) { c.AllowedScopes = []string{"a b"} }, "allowed_scopes"},
		"no audiences":                {func(c *Config) { c.AllowedAudiences = nil }, ""},
		"patterns of audiences":       {func(c *Config) { c.AllowedAudiences = []string{"https://*.example.com", "größe"} }, ""},
		"empty audience":              {func(c *Config) { c.AllowedAudiences = []string{""} }, "allowed_audiences"},
		"audience with a control":     {func(c *Config) { c.AllowedAudiences = []string{"a\n"} }, "allowed_audiences"},
		"local introspection":         {func(c *Config) { c.StandbyIntrospection = Local }, ""},
		"no such introspection":       {func(c *Config) { c.StandbyIntrospection = "" }, "standby_introspection"},
		"max_ttl":                     {func(c *Config) { c.MaxTTL = time.Second }, ""},
		"negative max_ttl":            {func(c *Config) { c.MaxTTL = -1 }, "max_ttl"},
		"shortest status list TTL":    {func(c *Config) { c.StatusListTTL = time.Second }, ""},
		"too short a status list TTL": {func(c *Config) { c.StatusListTTL = time.Second - 1 }, "status_list_ttl"},
		"longest status list TTL":     {func(c *Config) { c.StatusListTTL, c.StatusListLifetime = time.Hour, 2*time.Hour }, ""},
		"too long a status list TTL":  {func(c *Config) { c.StatusListTTL, c.StatusListLifetime = time.Hour+1, 24*time.Hour }, "status_list_ttl"},
		"shortest lifetime":           {func(c *Config) { c.StatusListLifetime = time.Minute }, ""},
		"too short a lifetime":        {func(c *Config) { c.StatusListLifetime = time.Minute - 1 }, "status_list_lifetime"},
		"less than twice the TTL":     {func(c *Config) { c.StatusListTTL, c.StatusListLifetime = time.Hour, 2*time.Hour-1 }, "status_list_lifetime"},
		"longest lifetime":            {func(c *Config) { c.StatusListLifetime = 24 * time.Hour }, ""},
		"too long a lifetime":         {func(c *Config) { c.StatusListLifetime = 24*time.Hour + 1 }, "status_list_lifetime"},
	} {
		c := Default()
		test.change(c)
		if err := c.Validate(); test.field != "" {
			wantMistake(t, name, err, test.field)
		} else if err != nil {
			t.Errorf("%s: refused: %v", name, err)
		}
	}
}

func TestStore(t *testing.T) {
	ctx, storage, s := context.Background(), &storetest.Storage{}, NewStore()
	get := func() *Config {
		t.Helper()
		c, err := s.Get(ctx, storage)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	if got := get(); !reflect.DeepEqual(got, Default()) {
		t.Errorf("a mount that nobody configured has %+v", got)
	}
	if reads, _ := storage.Count(func() { get() }); reads != 0 {
		t.Errorf("%d reads of a configuration that is in memory", reads)
	}

	before, after, err := s.Change(ctx, storage, func(c *Config) { c.Issuer = issuer + "/" })
	if err != nil || before.Issuer != "" || after.Issuer != issuer {
		t.Fatalf("changed %+v to %+v, %v", before, after, err)
	}
	if got := get(); !reflect.DeepEqual(got, after) {
		t.Errorf("read %+v, want %+v", got, after)
	}
	_, _, err = s.Change(ctx, storage, func(c *Config) { c.MaxTTL, c.StatusListTTL = time.Hour, 0 })
	wantMistake(t, "half of a change that is refused", err, "status_list_ttl")
	if got := get(); !reflect.DeepEqual(got, after) {
		t.Errorf("after a refused change: %+v, want %+v", got, after)
	}

	// Another node writes.
	if _, _, err := NewStore().Change(ctx, storage, func(c *Config) { c.MaxTTL = time.Hour }); err != nil {
		t.Fatal(err)
	}
	for key, ours := range map[string]bool{"configuration": false, "role/config": false, "config/config": true} {
		if got := s.Invalidate(key); got != ours {
			t.Errorf("Invalidate(%q) = %v", key, got)
		}
	}
	if got := get(); got.MaxTTL != time.Hour || got.Issuer != issuer {
		t.Errorf("after an invalidation: %+v", got)
	}
}

// What was stored before a field existed has that field's default.
func TestFieldsThatAreNotStoredHaveTheirDefaults(t *testing.T) {
	ctx := context.Background()
	for stored, want := range map[string]func(*Config){
		`{"issuer":"https://h"}`:                              func(c *Config) { c.Issuer = "https://h" },
		`{"issuer":"","allowed_scopes":null,"max_ttl":0}`:     func(c *Config) { c.AllowedScopes = nil },
		`{"allowed_scopes":["a","b"],"status_list_ttl":1000}`: func(c *Config) { c.AllowedScopes, c.StatusListTTL = []string{"a", "b"}, 1000 },
		`{"format":1,"allowed_audiences":[]}`:                 func(c *Config) { c.AllowedAudiences = []string{} },
	} {
		storage := &storetest.Storage{}
		if err := storage.Put(ctx, &logical.StorageEntry{Key: "config/config", Value: []byte(stored)}); err != nil {
			t.Fatal(err)
		}
		c, err := NewStore().Get(ctx, storage)
		expected := Default()
		want(expected)
		if err != nil || !reflect.DeepEqual(c, expected) {
			t.Errorf("%s is read as %+v, %v; want %+v", stored, c, err, expected)
		}
	}
}

func TestUnreadableConfiguration(t *testing.T) {
	ctx := context.Background()
	for stored, replaceable := range map[string]bool{
		`{"issuer":`:                true,
		`{"allowed_scopes":"all"}`:  true,
		`{"format":2}`:              false, // there may be a ceiling in it that this version does not know
		`{"format":2,"max_ttl":[]}`: false,
	} {
		storage, s := &storetest.Storage{}, NewStore()
		if err := storage.Put(ctx, &logical.StorageEntry{Key: "config/config", Value: []byte(stored)}); err != nil {
			t.Fatal(err)
		}
		if c, err := s.Get(ctx, storage); err == nil {
			t.Errorf("%s is read as %+v", stored, c)
		}
		if _, _, err := s.Change(ctx, storage, func(*Config) {}); err == nil {
			t.Errorf("%s was changed", stored)
		}
		_, err := s.Replace(ctx, storage, func(c *Config) { c.MaxTTL = time.Hour })
		if replaced := err == nil; replaced != replaceable {
			t.Errorf("%s: replaced is %v, %v", stored, replaced, err)
		}
		if !replaceable && (err == nil || !strings.Contains(err.Error(), "written by a newer version")) {
			t.Errorf("%s: the error does not tell why: %v", stored, err)
		}
		if c, err := s.Get(ctx, storage); replaceable && (err != nil || c.MaxTTL != time.Hour) {
			t.Errorf("after it was replaced: %+v, %v", c, err)
		}
	}
}

func TestStoreOnFaults(t *testing.T) {
	for name, test := range map[string]struct {
		fault  func(*storetest.Storage)
		stored bool
	}{
		"write refused": {func(s *storetest.Storage) { s.Before(storetest.Fail("config/", storetest.Put)) }, false},
		"reply lost":    {func(s *storetest.Storage) { s.After(storetest.Fail("config/", storetest.Put)) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, storage, s := context.Background(), &storetest.Storage{}, NewStore()
			test.fault(storage)
			if _, _, err := s.Change(ctx, storage, func(c *Config) { c.MaxTTL = time.Hour }); !errors.Is(err, storetest.ErrInjected) {
				t.Errorf("got %v", err)
			}
			storage.Heal()
			c, err := s.Get(ctx, storage)
			if err != nil || c.MaxTTL == time.Hour != test.stored {
				t.Errorf("in force is %+v, %v, and not what the storage has", c, err)
			}
		})
	}
	t.Run("read", func(t *testing.T) {
		ctx, storage, s := context.Background(), &storetest.Storage{}, NewStore()
		if _, _, err := NewStore().Change(ctx, storage, func(c *Config) { c.AllowedScopes = nil }); err != nil {
			t.Fatal(err)
		}
		storage.Before(storetest.Fail("", storetest.Get))
		if c, err := s.Get(ctx, storage); err == nil {
			t.Errorf("read %+v from a storage that fails", c)
		}
		if _, _, err := s.Change(ctx, storage, func(*Config) {}); err == nil {
			t.Error("changed what could not be read")
		}
		storage.Heal()
		cancelled, cancel := context.WithCancel(ctx)
		cancel()
		if c, err := s.Get(cancelled, storage); err == nil {
			t.Errorf("read %+v for a caller that is gone", c)
		}
		if c, err := s.Get(ctx, storage); err != nil || len(c.AllowedScopes) != 0 {
			t.Errorf("after the failures: %+v, %v; want no scopes", c, err)
		}
	})
}

func wantMistake(t *testing.T, name string, err error, field string) {
	t.Helper()
	var mistake *usererror.Error
	if !errors.As(err, &mistake) || mistake.Field != field {
		t.Errorf("%s: %v, want a mistake in %s", name, err, field)
	}
}
