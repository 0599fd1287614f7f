package suite

import (
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// Repository is the folder of the plugin's own module.
func Repository() string {
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		panic("no caller information") // as in no program that `go test` or `go run` makes
	}
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}

// Read returns a file of the repository.
func Read(t *testing.T, name string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(Repository(), name))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// Glob returns the paths of the files in the repository that match a pattern,
// of which there must be one at least.
func Glob(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(Repository(), pattern))
	if err != nil || len(files) == 0 {
		t.Fatalf("no file %s: %v", pattern, err)
	}
	return files
}

// Write writes a file and returns its path.
func Write(t *testing.T, dir, name, content string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Copy copies a file into a folder, under its own name.
func Copy(path, into string) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(into, filepath.Base(path)), raw, 0o600)
}

// Decode reads JSON.
func Decode(t *testing.T, raw []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(raw, into); err != nil {
		t.Fatal(err)
	}
}
