// Package format implements the formats that both sides speak: the engine, which
// issues tokens, and the API servers that verify them.
package format

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
)

// Widths of the parts of an opaque token, in base62 digits.
const (
	IDLength       = 22 // 128 random bits
	secretLength   = 43 // 256 random bits
	checksumLength = 6  // CRC-32 (IEEE) of all that precedes it

	// MaxPrefixLength bounds the prefix of an opaque token.
	MaxPrefixLength = 32

	bodyLength = IDLength + secretLength + checksumLength
)

// OpaquePattern is a regular expression (RE2) that finds opaque tokens in
// text, for secret scanners. What it finds is then confirmed offline by the
// checksum, through ParseOpaque.
const OpaquePattern = `\b[a-z0-9]+(?:_[a-z0-9]+)*_[0-9A-Za-z]{71}\b`

// ErrMalformed reports that a string is not an opaque token: wrong length,
// alphabet, prefix or checksum. Its text has nothing of the string.
var ErrMalformed = errors.New("not an opaque token: wrong shape or checksum")

// Opaque is an opaque token in its parts:
//
//	<prefix>_<id:22><secret:43><checksum:6>
//
// It redacts itself when printed; Encode returns the token.
type Opaque struct {
	Prefix string // [a-z0-9]+(_[a-z0-9]+)*, at most MaxPrefixLength
	ID     string // 22 base62 digits; public, the token_id
	secret string // 43 base62 digits
}

// NewOpaque draws a new token with the given prefix from random. It fails
// when random does, or when the prefix is not valid.
func NewOpaque(random io.Reader, prefix string) (Opaque, error) {
	if !ValidPrefix(prefix) {
		return Opaque{}, fmt.Errorf("invalid prefix %q", prefix)
	}
	var bits [48]byte
	if _, err := io.ReadFull(random, bits[:]); err != nil {
		return Opaque{}, fmt.Errorf("read random bits: %w", err)
	}
	return Opaque{
		Prefix: prefix,
		ID:     encodeBase62(bits[:16], IDLength),
		secret: encodeBase62(bits[16:], secretLength),
	}, nil
}

// NewID draws a token id: 128 random bits as 22 base62 digits.
func NewID(random io.Reader) (string, error) {
	var bits [16]byte
	if _, err := io.ReadFull(random, bits[:]); err != nil {
		return "", fmt.Errorf("read random bits: %w", err)
	}
	return encodeBase62(bits[:], IDLength), nil
}

// ValidID reports whether s has the shape of a token id.
func ValidID(s string) bool { return len(s) == IDLength && isBase62(s) }

// ValidPrefix reports whether s can be the prefix of an opaque token:
// [a-z0-9]+(_[a-z0-9]+)*, at most MaxPrefixLength long.
func ValidPrefix(s string) bool {
	if s == "" || len(s) > MaxPrefixLength {
		return false
	}
	afterUnderscore := true // so that a leading underscore is refused
	for i := range len(s) {
		c := s[i]
		switch {
		case c == '_':
			if afterUnderscore {
				return false
			}
			afterUnderscore = true
		case (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'):
			afterUnderscore = false
		default:
			return false
		}
	}
	return !afterUnderscore
}

// ParseOpaque splits an opaque token into its parts and checks its checksum, so
// that a mistyped token is refused without a lookup. The error is ErrMalformed.
func ParseOpaque(s string) (Opaque, error) {
	// From the right: the prefix may itself contain underscores.
	separator := len(s) - bodyLength - 1
	if separator < 1 || separator > MaxPrefixLength || s[separator] != '_' {
		return Opaque{}, ErrMalformed
	}
	prefix, body := s[:separator], s[separator+1:]
	if !ValidPrefix(prefix) || !isBase62(body) {
		return Opaque{}, ErrMalformed
	}
	checksumAt := len(s) - checksumLength
	if checksum(s[:checksumAt]) != s[checksumAt:] {
		return Opaque{}, ErrMalformed
	}
	return Opaque{
		Prefix: prefix,
		ID:     body[:IDLength],
		secret: body[IDLength : IDLength+secretLength],
	}, nil
}

// Encode returns the token as its bearer presents it.
func (t Opaque) Encode() Secret {
	s := t.Prefix + "_" + t.ID + t.secret
	return Secret(s + checksum(s))
}

// SecretHash returns SHA-256 of the secret part: all that may be stored of it.
// The secret has 256 bits of entropy, so a fast hash is enough.
func (t Opaque) SecretHash() [sha256.Size]byte { return sha256.Sum256([]byte(t.secret)) }

// Format shows the public parts only, under every verb.
func (t Opaque) Format(state fmt.State, _ rune) { _, _ = io.WriteString(state, t.String()) }

// String shows the public parts only.
func (t Opaque) String() string { return t.Prefix + "_" + t.ID + redacted }

// GoString shows the public parts only.
func (t Opaque) GoString() string { return t.String() }

// LogValue shows the public parts only.
func (t Opaque) LogValue() slog.Value { return slog.StringValue(t.String()) }

func checksum(s string) string {
	var sum [4]byte
	binary.BigEndian.PutUint32(sum[:], crc32.ChecksumIEEE([]byte(s)))
	return encodeBase62(sum[:], checksumLength)
}
