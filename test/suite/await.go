package suite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"
)

// ErrTimeout is returned by Poll when the deadline passed.
var ErrTimeout = errors.New("the deadline passed")

// Poll calls check until it says true or the deadline passes. The last error
// of check is part of the answer, as it usually says why.
func Poll(ctx context.Context, limit time.Duration, check func() (bool, error)) error {
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		var ok bool
		if ok, last = check(); ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), last)
		case <-deadline.C:
			return errors.Join(fmt.Errorf("%w: %s", ErrTimeout, limit), last)
		case <-tick.C:
		}
	}
}

// Get reads a URL. Any status but 200 is an error.
func Get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, resp.Status, raw)
	}
	return raw, err
}

// AwaitJSON reads a URL until its JSON is as wanted, which it returns.
func AwaitJSON[T any](t *testing.T, ctx context.Context, url string, wanted func(T) bool) T {
	t.Helper()
	var last T
	if err := Poll(ctx, time.Minute, func() (bool, error) {
		raw, err := Get(ctx, url)
		if err != nil {
			return false, err
		}
		var answer T
		if err := json.Unmarshal(raw, &answer); err != nil {
			return false, fmt.Errorf("%w: %s", err, raw)
		}
		last = answer
		return wanted(answer), nil
	}); err != nil {
		t.Fatalf("%s: %v; the last answer: %+v", url, err, last)
	}
	return last
}
