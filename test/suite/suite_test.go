package suite

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

func TestSkipIsWrittenDown(t *testing.T) {
	file := filepath.Join(t.TempDir(), "skipped")
	t.Setenv("SKIPPED_LOG", file)
	for _, value := range []string{"", "1"} {
		t.Setenv(string(SkipBrowser), value)
		went := t.Run("a page", func(t *testing.T) {
			SkipBrowser.Check(t)
			if value != "" {
				t.Error("the test goes on")
			}
		})
		if !went {
			return
		}
	}
	raw, err := os.ReadFile(file)
	if want := "TestSkipIsWrittenDown/a_page#01 (SKIP_BROWSER)\n"; err != nil || string(raw) != want {
		t.Errorf("written down is %q, want %q; %v", raw, want, err)
	}
}

// TestNothingElseSkips makes sure that no test can be skipped without being
// named in the end.
func TestNothingElseSkips(t *testing.T) {
	skips := regexp.MustCompile(`\.(Skip|Skipf|SkipNow)\(|testing\.Short\(`)
	root := filepath.Join(Repository(), "test")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || filepath.Dir(path) == filepath.Join(root, "suite") {
			return err
		}
		raw, err := os.ReadFile(path)
		if at := skips.FindString(string(raw)); at != "" {
			t.Errorf("%s has %s: use suite.Skip", path, at)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestPortsAreOnesOwn makes sure that neither this process nor another is given
// a port twice.
func TestPortsAreOnesOwn(t *testing.T) {
	if text := os.Getenv("SUITE_TEST_PORT"); text != "" {
		port, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		mine, err := reserve(port)
		fmt.Printf("reserved=%t %v\n", mine, err)
		return
	}
	ports, err := Ports(2)
	if err != nil {
		t.Fatal(err)
	}
	for _, port := range ports {
		if mine, err := reserve(port); mine || err != nil {
			t.Errorf("port %d is reserved a second time: %v", port, err)
		}
		other := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestPortsAreOnesOwn$", "-test.count=1")
		other.Env = append(os.Environ(), fmt.Sprintf("SUITE_TEST_PORT=%d", port))
		out, err := other.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "reserved=false <nil>") {
			t.Errorf("another process and port %d: %v\n%s", port, err, out)
		}
	}
}
