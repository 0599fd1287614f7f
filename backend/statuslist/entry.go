package statuslist

import (
	"encoding/json"
	"errors"
	"slices"
	"sort"
	"strconv"
	"time"
)

// entry is one status list as stored. Its tokens have one owner, and are of any
// role.
type entry struct {
	ID string `json:"id"`
	Owner
	Instance  string    `json:"instance"` // of the engine that made the list, and alone extends it
	CreatedAt time.Time `json:"created_at"`
	// Until bounds the tokens on the list: none of them expires later.
	Until time.Time `json:"until"`
	// Size is how many indexes may be given out. The list is published at
	// listSize from the start; the rest of it reads as revoked.
	Size int `json:"size"`
	// Blocks are the reserved indexes, from zero on, one after the other. They are
	// of roles by their position in Roles.
	Blocks blocks   `json:"blocks"`
	Roles  []string `json:"roles"`

	starts []int32 // of the blocks, once indexed
}

// block is a run of indexes that one role has reserved.
type block struct{ role, size int }

// blocks are stored as pairs [role, size]. They are encoded by hand, since a list
// has thousands, and each new one writes them all.
type blocks []block

// MarshalJSON implements json.Marshaler.
func (b blocks) MarshalJSON() ([]byte, error) {
	out := make([]byte, 0, 12*len(b)+2)
	out = append(out, '[')
	for i, block := range b {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, '[')
		out = strconv.AppendInt(out, int64(block.role), 10)
		out = append(out, ',')
		out = strconv.AppendInt(out, int64(block.size), 10)
		out = append(out, ']')
	}
	return append(out, ']'), nil
}

// UnmarshalJSON implements json.Unmarshaler.
func (b *blocks) UnmarshalJSON(raw []byte) error {
	var pairs [][2]int
	if err := json.Unmarshal(raw, &pairs); err != nil {
		return err
	}
	*b = make(blocks, len(pairs))
	for i, pair := range pairs {
		(*b)[i] = block{role: pair[0], size: pair[1]}
	}
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
		e.Blocks = blocks{{role: 0, size: stored.Reserved}}
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

// until returns the entry as it lasts for a token until expires.
func (e *entry) until(expires time.Time) *entry {
	if !expires.After(e.Until) {
		return e
	}
	longer := *e
	longer.Until = expires.Add(reserveAhead)
	return &longer
}

// index prepares the look-up of blocks, in an entry that does not change any more.
func (e *entry) index() {
	e.starts = make([]int32, len(e.Blocks))
	from := 0
	for at, b := range e.Blocks {
		e.starts[at] = int32(from)
		from += b.size
	}
}

// blockOf returns which block an index is in, and its role: "" if it is in none.
func (e *entry) blockOf(index int) (role string, at int) {
	at = sort.Search(len(e.starts), func(i int) bool { return int(e.starts[i]) > index }) - 1
	if at < 0 || index >= int(e.starts[at])+e.Blocks[at].size {
		return "", -1
	}
	return e.Roles[e.Blocks[at].role], at
}

// blocksUntil returns how many of the first blocks hold all those of a role.
func (e *entry) blocksUntil(role string) int {
	of := slices.Index(e.Roles, role)
	for at := len(e.Blocks) - 1; of >= 0 && at >= 0; at-- {
		if e.Blocks[at].role == of {
			return at + 1
		}
	}
	return 0
}
