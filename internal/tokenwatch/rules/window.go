package rules

import (
	"math"
	"math/bits"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// parts is how many parts a window has. Events slide out of it a part at a time.
const parts = 8

// Window counts events in a sliding window of time. Its fields are exported for
// the checkpoint.
type Window struct {
	At   int64 // number of the latest part
	N    [parts]uint32
	Seen uint64 // which of 64 values a hash of the events' subjects took, since it was last empty
	Over bool   // the threshold has been reached, and not fallen below since
}

// add counts an event. Events that come late count as of now.
func (w *Window) add(t time.Time, length time.Duration, subject string) (total uint32) {
	part := t.UnixNano() / (int64(length) / parts)
	if part > w.At {
		for i := max(w.At+1, part-parts+1); i <= part; i++ {
			w.N[i%parts] = 0
		}
		w.At = part
	}
	for _, n := range w.N {
		total += n
	}
	if total == 0 {
		w.Seen, w.Over = 0, false
	}
	if subject != "" {
		w.Seen |= 1 << (hash(subject) % 64)
	}
	w.N[w.At%parts]++
	return total + 1
}

// first is when the events in the window began, to a part of it.
func (w *Window) first(length time.Duration) time.Time {
	part := w.At - parts + 1
	for part < w.At && w.N[part%parts] == 0 {
		part++
	}
	return time.Unix(0, part*(int64(length)/parts)).UTC()
}

// distinct estimates how many different subjects there were, by how many of the
// 64 places they left free (linear counting). 0 if there are too many to tell.
func (w *Window) distinct() int {
	free := 64 - bits.OnesCount64(w.Seen)
	if free < 4 {
		return 0
	}
	return int(math.Round(-64 * math.Log(float64(free)/64)))
}

// bursts counts per client, for as many clients as there is room for: those
// that were seen least recently are forgotten.
type bursts struct {
	length    time.Duration
	threshold int
	clients   *simplelru.LRU[string, *Window]
}

func newBursts(length time.Duration, threshold, room int) *bursts {
	return &bursts{length: length, threshold: threshold, clients: newLRU[string, *Window](room)}
}

// burst is what add found: how many events have to be reported, and since when
// they came.
type burst struct {
	*Window
	events int64
	first  time.Time
}

func (b *bursts) add(client string, t time.Time, subject string) burst {
	w, ok := b.clients.Get(client)
	if !ok {
		w = &Window{}
		b.clients.Add(client, w)
	}
	total := w.add(t, b.length, subject)
	if int64(total) < int64(b.threshold) {
		w.Over = false
		return burst{Window: w}
	}
	if w.Over {
		return burst{Window: w, events: 1, first: t}
	}
	w.Over = true
	return burst{Window: w, events: int64(total), first: w.first(b.length)}
}

// burstsState is bursts in the checkpoint. The numbers of a window's parts mean
// something for one length only.
type burstsState struct {
	Length  time.Duration
	Clients dump[string, *Window]
}

func (b *bursts) state() burstsState { return burstsState{b.length, dumpOf(b.clients)} }

func (b *bursts) restore(s burstsState) {
	if s.Length == b.length {
		s.Clients.into(b.clients)
	}
}
