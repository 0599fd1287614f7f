package main

import (
	"slices"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
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
				if mib, err := vaulttest.ResidentMiB(pid); err == nil {
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
