package tokens

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const modulePath = "github.com/vault-tokens/vault-plugin-secrets-tokens"

type arrow struct {
	room string
	may  []string
}

// arrows says, for each room, which packages of this repository and of Vault's
// SDK its packages may import. A room is a package and all below it; "" is the
// root package alone. The first room that fits a package is its own.
var arrows = []arrow{
	{"cmd/vault-plugin-secrets-tokens", []string{"", "backend", "verify/format", "sdk"}},
	{"cmd/tokenwatch", []string{"internal/tokenwatch"}},
	{"internal/tokenwatch", []string{"internal/tokenwatch"}},
	{"backend", []string{"backend", "verify/format", "sdk"}},
	{"", []string{"backend", "verify/format", "sdk"}},
}

// Imports run one way, so that a reader who knows a room need not know the
// rooms above it.
func TestArrows(t *testing.T) {
	for pkg, deps := range dependencies(t, ".", "./...") {
		room := slices.IndexFunc(arrows, func(a arrow) bool { return inRoom(pkg, a.room) })
		if room < 0 {
			t.Errorf("%s is in no room that this test knows", pkg)
			continue
		}
		for _, dep := range deps {
			if !slices.ContainsFunc(arrows[room].may, func(may string) bool { return inRoom(dep, may) }) {
				t.Errorf("%s depends on %s", pkg, dep)
			}
		}
	}
}

// The verifiers' module must never get a secrets engine's dependencies.
func TestArrowsOfVerify(t *testing.T) {
	for pkg, deps := range dependencies(t, "verify", "./...") {
		for _, dep := range deps {
			if !inRoom(dep, "verify") {
				t.Errorf("%s depends on %s", pkg, dep)
			}
		}
	}
}

// No door uses another: what several need is in request.go, fields.go,
// response.go or log.go.
func TestNoDoorUsesAnother(t *testing.T) {
	doors, err := filepath.Glob("path_*.go")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]*ast.File{}
	owner := map[string]string{} // by name, of what a door declares
	for _, door := range doors {
		if strings.HasSuffix(door, "_test.go") {
			continue
		}
		files[door] = parse(t, door)
		for _, name := range declared(files[door]) {
			owner[name] = door
		}
	}
	for door, file := range files {
		ast.Inspect(file, func(node ast.Node) bool {
			if name, ok := node.(*ast.Ident); ok && owner[name.Name] != "" && owner[name.Name] != door {
				t.Errorf("%s uses %s of %s", door, name.Name, owner[name.Name])
			}
			return true
		})
	}
}

// What is behind the doors knows nothing of paths and fields: of Vault's
// framework it uses how a TTL is computed, and that is all.
func TestBackendKnowsNoPaths(t *testing.T) {
	err := filepath.WalkDir("backend", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		ast.Inspect(parse(t, path), func(node ast.Node) bool {
			selector, ok := node.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if pkg, ok := selector.X.(*ast.Ident); ok && pkg.Name == "framework" && selector.Sel.Name != "CalculateTTL" {
				t.Errorf("%s uses framework.%s", path, selector.Sel.Name)
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func parse(t *testing.T, name string) *ast.File {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// declared lists what a file declares at top level, methods included.
func declared(file *ast.File) []string {
	var names []string
	for _, declaration := range file.Decls {
		switch d := declaration.(type) {
		case *ast.FuncDecl:
			names = append(names, d.Name.Name)
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch s := spec.(type) {
				case *ast.TypeSpec:
					names = append(names, s.Name.Name)
				case *ast.ValueSpec:
					for _, name := range s.Names {
						names = append(names, name.Name)
					}
				}
			}
		}
	}
	return names
}

// dependencies lists the packages of a module, by their path in the repository,
// with all that they depend on in the repository or in Vault's SDK.
func dependencies(t *testing.T, dir string, patterns ...string) map[string][]string {
	t.Helper()
	args := append([]string{"list", "-f", `{{.ImportPath}} {{join .Deps " "}}`}, patterns...)
	command := exec.CommandContext(t.Context(), "go", args...)
	command.Dir = dir
	output, err := command.Output()
	if err != nil {
		t.Fatalf("go list in %s: %v", dir, err)
	}
	all := map[string][]string{}
	for line := range strings.Lines(string(output)) {
		words := strings.Fields(line)
		for i, word := range words {
			words[i] = inRepository(word)
		}
		deps := slices.DeleteFunc(words[1:], func(dep string) bool { return dep == "-" })
		all[words[0]] = deps
	}
	return all
}

// inRepository returns the path of a package in the repository, "sdk" for one of
// Vault's SDK or API client, "vault" for one of Vault itself, whose licence keeps
// it out of what is shipped, and "-" for any other.
func inRepository(pkg string) string {
	if pkg == modulePath {
		return "."
	}
	if path, ok := strings.CutPrefix(pkg, modulePath+"/"); ok {
		return path
	}
	const vault = "github.com/hashicorp/vault"
	switch {
	case inRoom(pkg, vault+"/sdk"), inRoom(pkg, vault+"/api"):
		return "sdk"
	case inRoom(pkg, vault):
		return "vault"
	}
	return "-"
}

func inRoom(pkg, room string) bool {
	if room == "" {
		return pkg == "."
	}
	return pkg == room || strings.HasPrefix(pkg, room+"/")
}
