package report

import (
	"cmp"
	"slices"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

// key identifies a row of a table.
type key [3]string

// counter keeps the rows with the most requests. When there are too many, it
// drops at least half of them, the smaller ones. missed bounds what a row may have
// lost that way: it is the sum of the largest counts that were dropped.
type counter struct {
	rows   map[key]*Row
	missed int64
}

// row adds to the row of k and returns it, so that the caller can fill in names.
func (c *counter) row(k key, e *tokenwatch.Event, one *Totals) *Row {
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

// prune drops all rows that have no more requests than the row at rank maxKeys,
// so that the result does not depend on map order.
func (c *counter) prune() {
	counts := make([]int64, 0, len(c.rows))
	for _, r := range c.rows {
		counts = append(counts, r.Requests)
	}
	slices.Sort(counts)
	limit := counts[len(counts)-1-maxKeys]
	c.missed += limit
	for k, r := range c.rows {
		if r.Requests <= limit {
			delete(c.rows, k)
		}
	}
}

type entry struct {
	key key
	row *Row
}

// sorted returns the rows, the largest figure first.
func (c *counter) sorted(figure func(*Totals) int64) []entry {
	list := make([]entry, 0, len(c.rows))
	for k, r := range c.rows {
		list = append(list, entry{k, r})
	}
	slices.SortFunc(list, func(x, y entry) int {
		return cmp.Or(cmp.Compare(figure(&y.row.Totals), figure(&x.row.Totals)), cmp.Compare(y.row.Requests, x.row.Requests), slices.Compare(x.key[:], y.key[:]))
	})
	return list
}

func (c *counter) table(rows int, figure func(*Totals) int64) Table {
	t := Table{Rows: []Row{}, Missed: c.missed}
	list := c.sorted(figure)
	for _, e := range list[:min(rows, len(list))] {
		t.Rows = append(t.Rows, *e.row)
	}
	t.More = len(list) - len(t.Rows)
	return t
}
