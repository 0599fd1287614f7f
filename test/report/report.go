// Package report has what the programs that measure print: progress, figures,
// JSON.
package report

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"
)

var (
	onTerminal   = isTerminal(os.Stderr)
	lastProgress time.Time
)

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// Progress writes to stderr what is being done. It replaces the line on a terminal.
// Elsewhere it would fill a log, so it writes a line only every ten seconds. It is
// not for use in several goroutines.
func Progress(format string, args ...any) {
	switch text := fmt.Sprintf(format, args...); {
	case onTerminal:
		fmt.Fprintf(os.Stderr, "\r\033[K%s", text)
	case time.Since(lastProgress) > 10*time.Second:
		lastProgress = time.Now()
		fmt.Fprintln(os.Stderr, text)
	}
}

// Clear removes the line that Progress has left on a terminal.
func Clear() {
	if onTerminal {
		fmt.Fprint(os.Stderr, "\r\033[K")
	}
}

// JSON writes a value as indented JSON.
func JSON(w io.Writer, value any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

// Quantile reads a sorted list, zero if it is empty.
func Quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// Milliseconds is a duration in milliseconds.
func Milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// ExitCode prints an error of a program, and returns 130 after an interrupt, whose
// consequences are no failures.
func ExitCode(program string, interrupted bool, err error) int {
	if interrupted {
		fmt.Fprintln(os.Stderr, "\ninterrupted")
		return 130
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, program+":", err)
		return 1
	}
	return 0
}
