// Package scope checks OAuth 2.0 scopes and audiences, and matches them, as other
// names, against allow-lists.
package scope

import (
	"slices"
	"strings"

	"github.com/ryanuber/go-glob"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/text"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/usererror"
)

// Bounds on what one list may hold, so that tokens and audit lines stay small.
const (
	MaxCount  = 100
	MaxLength = 256
	MaxBytes  = 4 * 1024 // all scopes of a list together
)

// Validate checks a list of concrete scopes: scope-tokens of RFC 6749 §3.3,
// without "*", which only an allow-list may hold. Field is named in the error.
func Validate(field string, scopes []string) error {
	return validate(field, scopes, false)
}

// ValidatePatterns checks an allow-list: scope-tokens in which "*" matches any run
// of characters.
func ValidatePatterns(field string, patterns []string) error {
	return validate(field, patterns, true)
}

func validate(field string, scopes []string, patterns bool) error {
	if len(scopes) > MaxCount {
		return usererror.Field(field, "has %d entries; at most %d are allowed", len(scopes), MaxCount)
	}
	total := 0
	for i, s := range scopes {
		total += len(s)
		switch {
		case s == "":
			return usererror.Field(field, "entry %d is empty", i+1)
		case len(s) > MaxLength:
			return usererror.Field(field, "entry %d is %d bytes long; at most %d are allowed", i+1, len(s), MaxLength)
		case !isToken(s):
			return usererror.Field(field, "%q is not a scope: use printable ASCII without spaces, quotes or backslashes (RFC 6749, section 3.3)", usererror.Clip(s))
		case !patterns && strings.Contains(s, "*"):
			return usererror.Field(field, "%q has a wildcard; name each scope (wildcards belong in allowed_scopes)", usererror.Clip(s))
		case slices.Contains(scopes[:i], s):
			return usererror.Field(field, "%q is listed twice", usererror.Clip(s))
		}
	}
	if total > MaxBytes {
		return usererror.Field(field, "is %d bytes long; at most %d are allowed", total, MaxBytes)
	}
	return nil
}

// Bounds on lists of audiences.
const (
	MaxAudiences      = 20
	MaxAudienceLength = 512
)

// ValidateAudiences checks a list of audiences: StringOrURI of RFC 7519 §2.
func ValidateAudiences(field string, audiences []string) error {
	return ValidateNames(field, audiences, MaxAudiences, MaxAudienceLength)
}

// ValidateAudiencePatterns checks an allow-list of audiences, in which "*" matches
// any run of characters.
func ValidateAudiencePatterns(field string, patterns []string) error {
	return ValidateNames(field, patterns, MaxCount, MaxAudienceLength)
}

// ValidateNames checks a list of names, or of patterns of them, which may be any
// text.
func ValidateNames(field string, names []string, maxCount, maxLength int) error {
	if len(names) > maxCount {
		return usererror.Field(field, "has %d entries; at most %d are allowed", len(names), maxCount)
	}
	for i, name := range names {
		switch {
		case name == "" || len(name) > maxLength:
			return usererror.Field(field, "entry %d must be between 1 and %d bytes long", i+1, maxLength)
		case !text.Printable(name):
			return usererror.Field(field, "entry %d has control characters", i+1)
		case slices.Contains(names[:i], name):
			return usererror.Field(field, "%q is listed twice", usererror.Clip(name))
		}
	}
	return nil
}

// Outside returns the first of scopes that no pattern allows, and whether
// there is one. An empty allow-list allows nothing. A scope may itself be a
// pattern: it is inside if all that it allows is.
func Outside(patterns, scopes []string) (string, bool) {
	for _, s := range scopes {
		if !slices.ContainsFunc(patterns, func(p string) bool { return glob.Glob(p, s) }) {
			return s, true
		}
	}
	return "", false
}

// isToken reports whether s is a scope-token: 1*( %x21 / %x23-5B / %x5D-7E ).
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c < 0x21 || c > 0x7E || c == '"' || c == '\\' {
			return false
		}
	}
	return s != ""
}
