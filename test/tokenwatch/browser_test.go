package tokenwatch

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/suite"
)

// visit is what browser/visit.mjs does in one Chromium of its own.
type visit struct {
	Executable string   `json:"executable"`
	Profile    string   `json:"profile"`
	URL        string   `json:"url"`
	Scheme     string   `json:"scheme"` // light or dark
	Width      int      `json:"width"`
	Height     int      `json:"height"`
	Steps      []fields `json:"steps"`
}

// visited is what it saw.
type visited struct {
	Values   []json.RawMessage `json:"values"`
	Problems []string          `json:"problems"`
	Requests []string          `json:"requests"`
}

// Steps of a visit.
func press(key string) fields          { return fields{"press": key} }
func until(expression string) fields   { return fields{"until": expression} }
func valueOf(expression string) fields { return fields{"value": expression} }
func resize(width, height int) fields  { return fields{"resize": []int{width, height}} }
func audited() fields                  { return fields{"audit": true} }

// pictures is where screenshots go, if somebody wants to look at them.
var pictures = os.Getenv("PICTURES")

// picture takes a screenshot if somebody wants to look.
func picture(name string) []fields {
	if pictures == "" {
		return nil
	}
	return []fields{{"screenshot": filepath.Join(pictures, name+".png")}}
}

// open does a visit and holds the page to what it must not do at all. It
// returns the values of the steps that have one, in order.
func (v visit) open(t *testing.T, ctx context.Context) visited {
	t.Helper()
	return v.openAllowing(t, ctx, "")
}

// openAllowing allows problems that begin with a text.
func (v visit) openAllowing(t *testing.T, ctx context.Context, allowed string) visited {
	t.Helper()
	script := filepath.Join(suite.NodeFolder(t, "browser"), "visit.mjs")
	v.Executable, v.Profile = chromium(t), t.TempDir()
	job, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, "node", script)
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(job), &stderr
	// Chromium keeps a few files outside of its profile.
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", v.URL, err, stderr.Bytes())
	}
	var seen visited
	suite.Decode(t, out, &seen)
	for _, problem := range seen.Problems {
		if allowed == "" || !strings.HasPrefix(problem, allowed) {
			t.Errorf("%s, %s: %s", v.URL, v.Scheme, problem)
		}
	}
	for _, url := range seen.Requests {
		if !strings.HasPrefix(url, v.URL) {
			t.Errorf("%s loads %s", v.URL, url)
		}
	}
	return seen
}

// audits fails for each problem that an audit step has found.
func (v visited) audits(t *testing.T, what string, at ...int) {
	t.Helper()
	for _, i := range at {
		var problems []string
		suite.Decode(t, v.Values[i], &problems)
		for _, problem := range problems {
			t.Errorf("%s: %s", what, problem)
		}
	}
}

func (v visited) text(t *testing.T, at int) string {
	t.Helper()
	var s string
	suite.Decode(t, v.Values[at], &s)
	return s
}

func chromium(t *testing.T) string {
	t.Helper()
	suite.SkipBrowser.Check(t)
	if chosen := os.Getenv("CHROMIUM_BIN"); chosen != "" {
		return chosen
	}
	return suite.Program(t, suite.SkipBrowser, "chromium", "chromium-browser", "google-chrome")
}

// TestTheBrowserSeesWhatIsWrong is the control of the other tests: a page on
// which everything is wrong that they look for.
func TestTheBrowserSeesWhatIsWrong(t *testing.T) {
	script := filepath.Join(suite.NodeFolder(t, "browser"), "visit.mjs")
	ctx := suite.Deadline(t, 3*time.Minute)
	page := filepath.Join(t.TempDir(), "bad.html")
	const bad = `<html><body><h2>No h1</h2><h4>Skips</h4><p style="color:#999;background:#fff">pale</p><button></button><i id=a></i><i id=a></i>
<svg><rect data-mark fill="#eee"/></svg><table aria-label=t><tr><th>x</table><div style="width:3000px">wide</div>
<script>console.log("said"); alert("loud"); nothing()</script></html>`
	if err := os.WriteFile(page, []byte(bad), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, "node", script)
	job, err := json.Marshal(visit{
		Executable: chromium(t), Profile: t.TempDir(), URL: "file://" + page, Scheme: "light", Width: 800, Height: 600, Steps: []fields{audited()},
	})
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin = bytes.NewReader(job)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var seen visited
	suite.Decode(t, out, &seen)
	var found []string
	suite.Decode(t, seen.Values[0], &found)
	found = append(found, seen.Problems...)
	for _, want := range []string{
		"contrast 2.8", "of a chart's mark", "no accessible name: <button", "neither an image nor hidden", "no language", "no title", "not one h1", "not one main",
		"skips a level", "the id a", "without scope", "wider than the window", "console: said", "dialog: loud", "error: nothing is not defined",
	} {
		if !slices.ContainsFunc(found, func(f string) bool { return strings.Contains(f, want) }) {
			t.Errorf("%q is not found in %q", want, found)
		}
	}
}
