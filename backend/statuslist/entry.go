package statuslist

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// entry is one status list as stored. Its tokens are signed with one key, which
// signs the list as well, and name one issuer; they are of any role.
type entry struct {
	ID        string    `json:"id"`
	Owner               // key and issuer
	Instance  string    `json:"instance"` // of the engine that made the list, and alone extends it
	CreatedAt time.Time `json:"created_at"`
	// Until bounds the tokens on the list: none of them expires later.
	Until time.Time `json:"until"`
	// Size is how many indexes may be given out. The list is published at
	// listSize from the start; the rest of it reads as revoked.
	Size int `json:"size"`
	// Blocks are the reserved indexes, from zero on, one after the other. They are
	// of roles by their position in Roles.
	Blocks []block  `json:"blocks"`
	Roles  []string `json:"roles"`
}

// block is a run of indexes that one role has reserved, stored as [role, size].
type block struct{ role, size int }

// MarshalJSON implements json.Marshaler.
func (b block) MarshalJSON() ([]byte, error) { return json.Marshal([2]int{b.role, b.size}) }

// UnmarshalJSON implements json.Unmarshaler.
func (b *block) UnmarshalJSON(raw []byte) error {
	var pair [2]int
	if err := json.Unmarshal(raw, &pair); err != nil {
		return err
	}
	b.role, b.size = pair[0], pair[1]
	return nil
}

// UnmarshalJSON implements json.Unmarshaler. It also reads the lists of format 0,
// each of which was one role's.
func (e *entry) UnmarshalJSON(raw []byte) error {
	type plain entry // without this method
	stored := struct {
		*plain
		Role     string `json:"role"`
		Reserved int    `json:"reserved"`
	}{plain: (*plain)(e)}
	if err := json.Unmarshal(raw, &stored); err != nil {
		return err
	}
	if stored.Role != "" {
		e.Size, e.Roles = stored.Reserved, []string{stored.Role}
		e.Blocks = []block{{role: 0, size: stored.Reserved}}
	}
	return e.validate()
}

func (e *entry) validate() error {
	for _, b := range e.Blocks {
		if b.role < 0 || b.role >= len(e.Roles) || b.size < 0 || b.size > listSize {
			return errors.New("a block of the status list is not valid")
		}
	}
	if e.Size < 0 || e.Size > listSize || e.reserved() > e.Size {
		return errors.New("the size of the status list is not valid")
	}
	return nil
}

// reserved returns how many indexes are in blocks.
func (e *entry) reserved() int {
	n := 0
	for _, b := range e.Blocks {
		n += b.size
	}
	return n
}

// with returns a copy of the entry with a further block of a role.
func (e *entry) with(role string, size int) *entry {
	next := *e
	at := slices.Index(e.Roles, role)
	if at < 0 {
		at = len(e.Roles)
		next.Roles = append(slices.Clip(e.Roles), role)
	}
	next.Blocks = append(slices.Clip(e.Blocks), block{role: at, size: size})
	return &next
}

// Revocation is the entry of one revoked token. Its name, index.expiry, has all
// that a list needs, so that loading one reads no revocation.
type Revocation struct {
	TokenID   string    `json:"token_id"`
	RevokedAt time.Time `json:"revoked_at"`
}

// revocationName returns the name of a revocation below its list. It ends in the
// token's expiry, in seconds since 1970, so that tidying need not read it.
func revocationName(index int, expires time.Time) string {
	return strconv.Itoa(index) + "." + strconv.FormatInt(expires.Unix(), 10)
}

// parseRevocationName returns zero for the expiry of format 0, which had none.
func parseRevocationName(name string) (index int, expires time.Time, err error) {
	first, second, dotted := strings.Cut(name, ".")
	index, err = strconv.Atoi(first)
	if err == nil && dotted {
		var seconds int64
		seconds, err = strconv.ParseInt(second, 10, 64)
		expires = time.Unix(seconds, 0)
	}
	if err != nil || index < 0 || index >= listSize {
		return 0, time.Time{}, fmt.Errorf("%q is not the name of a revocation", name)
	}
	return index, expires, nil
}
