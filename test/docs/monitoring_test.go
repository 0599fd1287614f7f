package docs

import (
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/suite"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

// TestMonitoringPageDescribesTheRules holds docs/monitoring.md against what
// tokenwatch says about its rules: each has a section with an alert and its
// settings, and there are no others.
func TestMonitoringPageDescribesTheRules(t *testing.T) {
	out, err := exec.Command(vaulttest.Tokenwatch(t), "rules", "-json").Output()
	if err != nil {
		t.Fatal(err)
	}
	var rules []struct {
		Name, Severity, Meaning string
		Settings                []struct{ Name, Default, Help string }
	}
	suite.Decode(t, out, &rules)
	page := suite.Read(t, "docs/monitoring.md")
	sections := map[string]string{}
	heading := regexp.MustCompile("(?m)^### `(\\w+)`$")
	found := heading.FindAllStringSubmatchIndex(page, -1)
	for i, at := range found {
		end := strings.Index(page[at[1]:], "\n## ") + at[1]
		if i+1 < len(found) {
			end = found[i+1][0]
		}
		sections[page[at[2]:at[3]]] = page[at[1]:end]
	}
	if len(rules) == 0 || len(sections) != len(rules) {
		t.Errorf("the page has %d rules, tokenwatch has %d", len(sections), len(rules))
	}
	for _, rule := range rules {
		section := sections[rule.Name]
		wants := []string{rule.Meaning, "alerts " + rule.Name, "[" + rule.Name + "]", "Severity: " + rule.Severity + "."}
		for _, s := range rule.Settings {
			wants = append(wants, fmt.Sprintf("| `%s` | `%s` | %s |", s.Name, s.Default, s.Help))
		}
		for _, want := range wants {
			if !strings.Contains(section, want) {
				t.Errorf("docs/monitoring.md, %s: %q is missing", rule.Name, want)
			}
		}
		if rows := strings.Count(section, "\n| `"); rows != len(rule.Settings) {
			t.Errorf("docs/monitoring.md, %s: %d settings, tokenwatch has %d", rule.Name, rows, len(rule.Settings))
		}
	}
}
