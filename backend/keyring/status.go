package keyring

import (
	"maps"
	"slices"
	"time"
)

// Status is what this node knows of a key.
type Status struct {
	Name    string
	Key     *Key   // nil if it cannot be decoded
	Problem string // as Keyring.Problem has it
}

// Status returns what is in memory of the keys, in the order of their names. It does
// not read the storage: a node that rotates keys has all of them, another one those
// that it was asked for.
func (k *Keyring) Status() []Status {
	k.mu.Lock()
	var all []Status
	for _, name := range slices.Sorted(maps.Keys(k.slots)) {
		if s := k.slots[name]; s.loaded && (s.key != nil || s.err != nil) {
			all = append(all, Status{Name: name, Key: s.key})
		}
	}
	k.mu.Unlock()
	for i := range all {
		all[i].Problem = k.Problem(all[i].Name)
	}
	return all
}

// LastRotation returns when the version that signs took over from another one; zero
// if none has.
func (k *Key) LastRotation() (at time.Time) {
	if signing, err := k.Signing(); err == nil && signing.Number > 1 {
		at = signing.SigningSince
	}
	return at
}
