package statuslist

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Revocation is an entry that makes tokens of a list revoked. Entries are added
// and never changed, so that no two writes can undo each other. What they revoke
// is in their names, so that loading a list reads none of them:
//
//	<index>.<expiry>                 one token
//	role.<blocks>.<expiry>.<role>    all of a role's tokens in the first blocks
//	unnamed.<expiry>                 the Places, which no record names
//
// The expiry, in seconds since 1970, is of the last of these tokens, so that
// tidying need not read them either.
type Revocation struct {
	TokenID   string    `json:"token_id,omitempty"`
	RevokedAt time.Time `json:"revoked_at"`
	Places    string    `json:"places,omitempty"` // as format.StatusList encodes them
}

// What the name of a revocation begins with, unless it is an index.
const (
	roleMark    = "role"
	unnamedMark = "unnamed"
)

// mark is what the name of a revocation says.
type mark struct {
	index   int    // of one token; -1 if it is of more
	role    string // of which all tokens in the first blocks are revoked
	blocks  int
	unnamed bool
	expires time.Time // zero for format 0, which had none
}

func (m mark) name() string {
	expires := strconv.FormatInt(m.expires.Unix(), 10)
	switch {
	case m.role != "":
		return roleMark + "." + strconv.Itoa(m.blocks) + "." + expires + "." + m.role
	case m.unnamed:
		return unnamedMark + "." + expires
	default:
		return strconv.Itoa(m.index) + "." + expires
	}
}

func parseMark(name string) (mark, error) {
	m := mark{index: -1}
	first, rest, dotted := strings.Cut(name, ".")
	var err error
	switch first {
	case roleMark:
		var blocks, expires string
		blocks, rest, _ = strings.Cut(rest, ".")
		expires, m.role, dotted = strings.Cut(rest, ".")
		if m.blocks, err = strconv.Atoi(blocks); err == nil && (m.blocks < 1 || m.role == "") {
			err = strconv.ErrRange
		}
		rest = expires
	case unnamedMark:
		m.unnamed = true
	default:
		if m.index, err = strconv.Atoi(first); err == nil && (m.index < 0 || m.index >= listSize) {
			err = strconv.ErrRange
		}
	}
	if err == nil && dotted {
		var seconds int64
		seconds, err = strconv.ParseInt(rest, 10, 64)
		m.expires = time.Unix(seconds, 0)
	}
	if err != nil || !dotted && m.index < 0 {
		return mark{}, fmt.Errorf("%q is not the name of a revocation", name)
	}
	return m, nil
}
