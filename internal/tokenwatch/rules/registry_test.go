package rules

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestCatalogIsComplete(t *testing.T) {
	for _, info := range Catalog() {
		if info.Name == "" || info.Meaning == "" || info.Advice == "" || info.Severity == "" {
			t.Errorf("incomplete: %+v", info)
		}
		for _, s := range info.Settings {
			if s.Name == "" || s.Help == "" || s.Type == "" || s.Default == "" {
				t.Errorf("%s: incomplete: %+v", info.Name, s)
			}
		}
	}
	fields := reflect.TypeFor[Settings]()
	if fields.NumField() != len(Catalog()) {
		t.Fatalf("%d settings for %d rules", fields.NumField(), len(Catalog()))
	}
	for i, info := range Catalog() {
		if key := yamlName(fields.Field(i)); key != info.Name {
			t.Errorf("rule %d is %s, its settings are %s", i, info.Name, key)
		}
	}
	rules := newRules(t, Defaults(), nil)
	for i, info := range Catalog() {
		if rules[i].Name() != info.Name {
			t.Errorf("rule %d is %s, in the catalog %s", i, rules[i].Name(), info.Name)
		}
	}
}

func TestValidateNamesTheSetting(t *testing.T) {
	for name, change := range map[string]func(*Settings){
		"rules.failed_access.threshold":         func(s *Settings) { s.FailedAccess.Threshold = 0 },
		"rules.failed_access.window":            func(s *Settings) { s.FailedAccess.Window = 0 },
		"rules.silence.severity":                func(s *Settings) { s.Silence.Severity = "loud" },
		"rules.unexpected_location.ipv4_prefix": func(s *Settings) { s.UnexpectedLocation.IPv4Prefix = 33 },
		"rules.issuance_spike.factor":           func(s *Settings) { s.IssuanceSpike.Factor = 0.5 },
		"rules.signing_key.rotated_severity":    func(s *Settings) { s.SigningKey.RotatedSeverity = "" },
		"rules.revoked_token.grace":             func(s *Settings) { s.RevokedToken.Grace = -1 },
		"rules.revoked_token.max_tokens":        func(s *Settings) { s.RevokedToken.MaxTokens = -5 },
	} {
		s := Defaults()
		change(&s)
		if err := s.Validate(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// No rule uses another one's file, and what rules share uses none of them: so a
// rule can be read, changed or removed alone.
func TestRulesAreApart(t *testing.T) {
	owner := map[string]string{} // rule's file by what it declares
	for _, info := range Catalog() {
		file := info.Name + ".go"
		for _, name := range declared(parse(t, file)) {
			owner[name] = file
		}
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") || file == "registry.go" {
			continue
		}
		for _, name := range parse(t, file).Unresolved {
			if of := owner[name.Name]; of != "" && of != file {
				t.Errorf("%s uses %s of %s", file, name.Name, of)
			}
		}
	}
}

func parse(t *testing.T, name string) *ast.File {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// declared lists what a file declares at top level, without methods.
func declared(file *ast.File) (names []string) {
	for _, declaration := range file.Decls {
		switch d := declaration.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil {
				names = append(names, d.Name.Name)
			}
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
