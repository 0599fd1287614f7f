package usererror

import (
	"errors"
	"fmt"
	"testing"
)

func TestField(t *testing.T) {
	err := fmt.Errorf("change role: %w", Field("ttl", "is %ds, longer than %s", 90, "1m"))
	var mistake *Error
	if !errors.As(err, &mistake) {
		t.Fatalf("%v is not found through a wrapper", err)
	}
	if mistake.Field != "ttl" || mistake.Problem != "is 90s, longer than 1m" || mistake.Error() != "ttl: is 90s, longer than 1m" {
		t.Errorf("got %+v, which reads %q", mistake, mistake)
	}
	if errors.As(errors.New("ttl: too long"), &mistake) {
		t.Error("any error passes for a caller's mistake")
	}
}
