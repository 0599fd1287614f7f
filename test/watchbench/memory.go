package main

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// sample looks at a process's resident memory until the returned function is
// called, which gives the median in MiB.
func sample(pid int) func() float64 {
	stop, done := make(chan struct{}), make(chan float64)
	go func() {
		var seen []float64
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				if len(seen) == 0 {
					seen = []float64{0}
				}
				slices.Sort(seen)
				done <- seen[len(seen)/2]
				return
			case <-tick.C:
				if mib, ok := resident(pid); ok {
					seen = append(seen, mib)
				}
			}
		}
	}()
	return func() float64 {
		close(stop)
		return <-done
	}
}

func resident(pid int) (float64, bool) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, false
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "VmRSS:"); ok {
			var kib float64
			_, err := fmt.Sscan(rest, &kib)
			return kib / 1024, err == nil
		}
	}
	return 0, false
}
