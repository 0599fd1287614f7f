package rules

// What rules remember: bounded while they run, and kept in the checkpoint over a
// restart. Names of fields that are exported only for the checkpoint are part of
// its format.

import (
	"bytes"
	"encoding/gob"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// maxMounts bounds how many mounts are counted separately.
const maxMounts = 1000

func newLRU[K comparable, V any](room int) *simplelru.LRU[K, V] {
	l, err := simplelru.NewLRU[K, V](room, nil)
	if err != nil {
		panic(err) // only for a size below 1, which Validate refuses
	}
	return l
}

// dump is the content of an LRU in the checkpoint, oldest first.
type dump[K comparable, V any] struct {
	Keys   []K
	Values []V
}

func dumpOf[K comparable, V any](l *simplelru.LRU[K, V]) dump[K, V] {
	return dump[K, V]{l.Keys(), l.Values()}
}

func (d dump[K, V]) into(l *simplelru.LRU[K, V]) {
	for i := range min(len(d.Keys), len(d.Values)) {
		l.Add(d.Keys[i], d.Values[i])
	}
}

func encode(state any) ([]byte, error) {
	var b bytes.Buffer
	err := gob.NewEncoder(&b).Encode(state)
	return b.Bytes(), err
}

func decode(state []byte, into any) error {
	return gob.NewDecoder(bytes.NewReader(state)).Decode(into)
}

// stateless is for rules that remember nothing.
type stateless struct{}

func (stateless) Save() ([]byte, error) { return nil, nil }
func (stateless) Restore([]byte) error  { return nil }

// hash is FNV-1a: the same in every process, as checkpoints keep its values.
func hash(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}
