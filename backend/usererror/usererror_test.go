package usererror

import (
	"errors"
	"fmt"
	"strings"
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

// Whatever a check repeats, the answer and the logs stay short and hold no token.
func TestFieldIsBoundedAndRedacted(t *testing.T) {
	token := "vtk_4109mqr7D1iAczWyKVT0JgUp0s2Sge6nXIg5jfuW6FedimywKBBTDpckWW47FKACi29GYva"
	for _, value := range []string{token, strings.Repeat("a ", 1<<19), strings.Repeat("x ", 1000) + token, token + strings.Repeat("é", 1<<19)} {
		text := Field(value, "%q is not a field here", value).Error()
		if len(text) > 1200 || strings.Contains(text, token[30:40]) {
			t.Errorf("%d bytes: %.100s", len(text), text)
		}
	}
}
