package statuslist

import "slices"

// fewBits is the number of bits above which an array is smaller than a list of
// the indexes.
const fewBits = listSize / 32

// bits is a set of indexes that costs memory by what is in it: at most 16 KiB.
type bits struct {
	few []uint32 // sorted; nil once all is there
	all []uint64
	n   int
}

func (b *bits) has(index int) bool {
	if b.all != nil {
		return b.all[index/64]>>(index%64)&1 == 1
	}
	_, found := slices.BinarySearch(b.few, uint32(index))
	return found
}

// add reports whether the index is new.
func (b *bits) add(index int) bool {
	if b.has(index) {
		return false
	}
	b.n++
	if b.all == nil && len(b.few) >= fewBits {
		b.all = make([]uint64, listSize/64)
		for _, i := range b.few {
			b.all[i/64] |= 1 << (i % 64)
		}
		b.few = nil
	}
	if b.all != nil {
		b.all[index/64] |= 1 << (index % 64)
		return true
	}
	at, _ := slices.BinarySearch(b.few, uint32(index))
	b.few = slices.Insert(b.few, at, uint32(index))
	return true
}

// bytes is what the set takes in memory.
func (b *bits) bytes() int { return 4*cap(b.few) + 8*len(b.all) }

func (b *bits) clone() bits { return bits{few: slices.Clone(b.few), all: slices.Clone(b.all), n: b.n} }

// each visits the indexes.
func (b *bits) each(visit func(index int)) {
	for _, i := range b.few {
		visit(int(i))
	}
	for at, word := range b.all {
		for i := range 64 {
			if word>>i&1 == 1 {
				visit(at*64 + i)
			}
		}
	}
}
