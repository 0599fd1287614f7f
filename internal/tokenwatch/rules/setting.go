package rules

// What the tags of a setting say: its name, its bounds, and its line in the
// manual.

import (
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

// Setting is one of a rule's, besides those in Common.
type Setting struct {
	Name    string `json:"name"`
	Type    string `json:"type"` // duration, integer, number, severity
	Default string `json:"default"`
	Help    string `json:"help"`
}

// settingsOf lists what a pointer to settings has, but for Common.
func settingsOf(settings any) (list []Setting) {
	v := reflect.ValueOf(settings).Elem()
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if f.Anonymous {
			continue
		}
		s := Setting{Name: yamlName(f), Help: f.Tag.Get("help")}
		switch value := v.Field(i).Interface().(type) {
		case time.Duration:
			s.Type, s.Default = "duration", shortDuration(value)
		case int:
			s.Type, s.Default = "integer", fmt.Sprint(value)
		case float64:
			s.Type, s.Default = "number", fmt.Sprint(value)
		case tokenwatch.Severity:
			s.Type, s.Default = "severity", string(value)
		case bool:
			s.Type, s.Default = "bool", fmt.Sprint(value)
		case []string:
			s.Type, s.Default = "list", "[]"
		}
		list = append(list, s)
	}
	return list
}

// shortDuration writes 5m instead of 5m0s.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// validate holds what a pointer to settings has, Common included, to the bounds
// in its tags. It writes severities in lower case.
func validate(rule string, settings any) []error {
	var problems []error
	v := reflect.ValueOf(settings).Elem()
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if f.Anonymous {
			problems = append(problems, validate(rule, v.Field(i).Addr().Interface())...)
			continue
		}
		name := rule + "." + yamlName(f)
		switch value := v.Field(i).Interface().(type) {
		case tokenwatch.Severity:
			if _, err := tokenwatch.ParseSeverity(string(value)); err != nil {
				problems = append(problems, fmt.Errorf("%s: %w", name, err))
			} else {
				v.Field(i).SetString(strings.ToLower(string(value)))
			}
		case int:
			low, high := bounds(f)
			if value < low || value > high {
				problems = append(problems, fmt.Errorf("%s: %d is not between %d and %d", name, value, low, high))
			}
		case float64:
			if !(value >= 1) {
				problems = append(problems, fmt.Errorf("%s: %v is less than 1", name, value))
			}
		case time.Duration:
			if least := leastDuration(f); value < least {
				problems = append(problems, fmt.Errorf("%s: %v is less than %v", name, value, least))
			}
		}
	}
	return problems
}

func bounds(f reflect.StructField) (low, high int) {
	low, high = 1, 10_000_000
	if tag := f.Tag.Get("range"); tag != "" {
		_, _ = fmt.Sscanf(tag, "%d-%d", &low, &high)
	}
	return low, high
}

func leastDuration(f reflect.StructField) time.Duration {
	if f.Tag.Get("range") == "0" {
		return 0
	}
	return time.Second
}

func yamlName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	return name
}
