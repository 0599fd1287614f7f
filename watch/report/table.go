package report

import (
	"cmp"
	"slices"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/watch/event"
)

// key is what tells the rows of a table apart.
type key [3]string

// counter keeps the rows with the most requests. When there are too many, the
// smaller half is forgotten. What a row may have lost by that is bounded by the
// sum of the largest forgotten counts.
type counter struct {
	rows   map[key]*Row
	missed int64
}

// row adds to the row of k and returns it, for what it is called.
func (c *counter) row(k key, e *event.Event, one *Totals) *Row {
	r := c.rows[k]
	if r == nil {
		if c.rows == nil {
			c.rows = map[key]*Row{}
		}
		if len(c.rows) >= 2*maxKeys {
			c.prune()
		}
		r = &Row{}
		c.rows[k] = r
	}
	r.add(one)
	if e.Time.After(r.Last) {
		r.Last = e.Time
	}
	return r
}

func (c *counter) prune() {
	keys := c.sorted()
	c.missed += c.rows[keys[maxKeys]].Requests
	for _, k := range keys[maxKeys:] {
		delete(c.rows, k)
	}
}

func (c *counter) sorted() []key {
	keys := make([]key, 0, len(c.rows))
	for k := range c.rows {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(x, y key) int {
		return cmp.Or(cmp.Compare(c.rows[y].Requests, c.rows[x].Requests), slices.Compare(x[:], y[:]))
	})
	return keys
}

func (c *counter) table(rows int) Table {
	t := Table{Rows: []Row{}, Missed: c.missed}
	keys := c.sorted()
	for _, k := range keys[:min(rows, len(keys))] {
		t.Rows = append(t.Rows, *c.rows[k])
	}
	t.More = len(keys) - len(t.Rows)
	return t
}
