package format

import (
	"bytes"
	"compress/zlib"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/golang-jwt/jwt/v5"
)

// StatusListType is the typ header of a Status List Token, and with
// "application/" before it its media type.
const StatusListType = "statuslist+jwt"

// StatusListClaims are the claims of a Status List Token
// (draft-ietf-oauth-status-list, Status List Token in JWT Format). sub is the
// URI that the list is published at; exp is for how long a copy may be used.
type StatusListClaims struct {
	jwt.RegisteredClaims
	TTL        int64             `json:"ttl"` // seconds until a copy should be fetched anew
	StatusList EncodedStatusList `json:"status_list"`
}

// EncodedStatusList is a status list as a claim: what StatusList.Encode returns
// and DecodeStatusList reads.
type EncodedStatusList struct {
	Bits int    `json:"bits"`
	List string `json:"lst"`
}

// Statuses of a token in a list (draft-ietf-oauth-status-list, Status Types).
const (
	StatusValid   = 0x00
	StatusInvalid = 0x01 // revoked
)

// ErrStatusList reports that a list cannot be decoded, or is larger than allowed.
var ErrStatusList = errors.New("invalid status list")

// StatusList is an array of statuses of 1, 2, 4 or 8 bits each
// (draft-ietf-oauth-status-list, Status List). The first entry of each byte is
// in its least significant bits.
type StatusList struct {
	bits  int
	bytes []byte
}

// NewStatusList returns a list of size entries, all valid. It panics on a
// number of bits that is not 1, 2, 4 or 8.
func NewStatusList(size, bits int) *StatusList {
	if !validBits(bits) {
		panic(fmt.Sprintf("status list of %d bits", bits))
	}
	return &StatusList{bits: bits, bytes: make([]byte, (size*bits+7)/8)}
}

func validBits(bits int) bool { return bits == 1 || bits == 2 || bits == 4 || bits == 8 }

// Bits returns how many bits a status has.
func (l *StatusList) Bits() int { return l.bits }

// Len returns how many entries the list has: a multiple of what a byte holds.
func (l *StatusList) Len() int { return len(l.bytes) * 8 / l.bits }

// Get returns the status at index, and false if the list does not reach there.
func (l *StatusList) Get(index int) (status byte, ok bool) {
	if index < 0 || index >= l.Len() {
		return 0, false
	}
	at, shift := l.locate(index)
	return l.bytes[at] >> shift & l.mask(), true
}

// Set sets the status at index, and returns false if the list does not reach
// there or the status has too many bits.
func (l *StatusList) Set(index int, status byte) bool {
	if index < 0 || index >= l.Len() || status&^l.mask() != 0 {
		return false
	}
	at, shift := l.locate(index)
	l.bytes[at] = l.bytes[at]&^(l.mask()<<shift) | status<<shift
	return true
}

func (l *StatusList) locate(index int) (at, shift int) {
	bit := index * l.bits
	return bit / 8, bit % 8
}

func (l *StatusList) mask() byte { return byte(1<<l.bits - 1) }

// Clone returns a copy.
func (l *StatusList) Clone() *StatusList {
	return &StatusList{bits: l.bits, bytes: bytes.Clone(l.bytes)}
}

// Encode returns the list compressed by zlib (RFC 1950) in base64url: the lst
// member of a status_list claim. The level is zlib's default: on a million
// entries the highest one takes about twenty times as long for a tenth less.
func (l *StatusList) Encode() (string, error) {
	var out strings.Builder
	encoder := base64.NewEncoder(base64.RawURLEncoding, &out)
	compressor := zlib.NewWriter(encoder)
	if _, err := compressor.Write(l.bytes); err != nil {
		return "", fmt.Errorf("compress status list: %w", err)
	}
	if err := errors.Join(compressor.Close(), encoder.Close()); err != nil {
		return "", fmt.Errorf("compress status list: %w", err)
	}
	return out.String(), nil
}

// DecodeStatusList reads a list from the bits and lst members of a status_list
// claim. A list that takes more than maxBytes decompressed is refused, since a
// small one can unpack to a huge one. The error wraps ErrStatusList.
func DecodeStatusList(bits int, lst string, maxBytes int64) (*StatusList, error) {
	if !validBits(bits) {
		return nil, fmt.Errorf("%w: %d bits", ErrStatusList, bits)
	}
	packed, err := base64.RawURLEncoding.Strict().DecodeString(lst)
	if err != nil || strings.ContainsAny(lst, "\r\n") { // which the decoder would skip
		return nil, fmt.Errorf("%w: not base64url", ErrStatusList)
	}
	rest := bytes.NewReader(packed)
	decompressor, err := zlib.NewReader(rest)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStatusList, err)
	}
	defer decompressor.Close()
	unpacked, err := io.ReadAll(io.LimitReader(decompressor, maxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStatusList, err)
	}
	switch {
	case int64(len(unpacked)) > maxBytes:
		return nil, fmt.Errorf("%w: more than %d bytes", ErrStatusList, maxBytes)
	case rest.Len() > 0:
		return nil, fmt.Errorf("%w: %d bytes after its end", ErrStatusList, rest.Len())
	}
	return &StatusList{bits: bits, bytes: unpacked}, nil
}
