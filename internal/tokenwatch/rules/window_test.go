package rules

import (
	"fmt"
	"testing"
	"time"
)

func TestWindowSlides(t *testing.T) {
	var w Window
	total := uint32(0)
	for i := range 100 { // one a second, in a window of 8 s
		total = w.add(start.Add(time.Duration(i)*time.Second), 8*time.Second, "")
	}
	if total != 8 {
		t.Errorf("%d events in a window of 8 s with one a second", total)
	}
	if first := w.first(8 * time.Second); !first.Equal(start.Add(92 * time.Second)) {
		t.Errorf("the window begins at %v", first)
	}
	if total = w.add(start.Add(time.Hour), 8*time.Second, ""); total != 1 {
		t.Errorf("%d events after an hour of none", total)
	}
	if total = w.add(start, 8*time.Second, ""); total != 2 {
		t.Errorf("%d events with one that comes late", total)
	}
}

func TestDistinctIsAnEstimate(t *testing.T) {
	for _, n := range []int{1, 3, 10, 30} {
		var w Window
		for i := range 500 {
			w.add(start, time.Minute, fmt.Sprint("token", i%n))
		}
		if got := w.distinct(); got < n*6/10 || got > n*15/10 {
			t.Errorf("%d different ones are estimated as %d", n, got)
		}
	}
}
