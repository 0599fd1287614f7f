package docs

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/suite"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

// operation is one verb of one path, as a table of docs/api.md or Vault's
// OpenAPI document has it. Fields are name → type.
type operation struct {
	parameters, answers map[string]string
}

// TestDocumentsDescribeTheAPI holds docs/api.md against the OpenAPI document
// that the plugin gives to Vault: the same paths, verbs, parameters with their
// types, and fields of answers. Neither may have what the other has not.
func TestDocumentsDescribeTheAPI(t *testing.T) {
	s := startForDocument(t, vaulttest.Options{})
	described, err := readReference(suite.Read(t, "docs/api.md"))
	if err != nil {
		t.Fatal(err)
	}
	actual := readOpenAPI(t, s)
	if len(actual) == 0 {
		t.Fatal("Vault's OpenAPI document has no path of the engine")
	}
	for _, path := range slices.Sorted(maps.Keys(actual)) {
		verbs := actual[path]
		if _, ok := described[path]; !ok {
			t.Errorf("the path %s has no section", path)
			continue
		}
		// The answer may be described at one verb for all of them, or be said to
		// have the fields that can be written.
		answers, shown := map[string]string{}, map[string]string{}
		for verb, op := range verbs {
			if _, ok := described[path][verb]; !ok {
				t.Errorf("%s has no heading for %s", path, verb)
				continue
			}
			sameFields(t, verb+" "+path, described[path][verb].parameters, op.parameters)
			maps.Copy(answers, op.answers)
		}
		for verb, op := range described[path] {
			if _, ok := verbs[verb]; !ok {
				t.Errorf("%s %s is described and does not exist", verb, path)
			}
			maps.Copy(shown, op.answers)
		}
		if len(shown) == 0 && len(answers) > 0 {
			shown = described[path]["POST"].parameters
		}
		sameFields(t, "the answer of "+path, shown, answers)
	}
	for path := range described {
		if _, ok := actual[path]; !ok {
			t.Errorf("%s is described and does not exist", path)
		}
	}
}

// sameFields compares names and types; an empty type is not given.
func sameFields(t *testing.T, where string, described, actual map[string]string) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(actual)) {
		got, ok := described[name]
		switch {
		case !ok:
			t.Errorf("%s: docs/api.md has no row for %s", where, name)
		case got != "" && got != actual[name]:
			t.Errorf("%s: docs/api.md says that %s is of type %q, the plugin %q", where, name, got, actual[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(described)) {
		if _, ok := actual[name]; !ok {
			t.Errorf("%s: docs/api.md has a row for %s, which does not exist", where, name)
		}
	}
}

// readReference reads the tables of docs/api.md. A heading of level two that is
// all code starts a path, `### VERB, VERB` its verbs, and a table whose first
// column is "name" or "answer" lists parameters or fields of an answer.
func readReference(text string) (map[string]map[string]operation, error) {
	paths := map[string]map[string]operation{}
	pathHeading := regexp.MustCompile("^## `([^`]+)`$")
	verbHeading := regexp.MustCompile(`^### ((?:LIST|GET|POST|PATCH|DELETE)(?:, (?:LIST|GET|POST|PATCH|DELETE))*)\b`)
	path, verbs, columns := "", []string(nil), []string(nil)
	for i, line := range strings.Split(text, "\n") {
		switch {
		case strings.HasPrefix(line, "## "):
			path, verbs = "", nil
			if m := pathHeading.FindStringSubmatch(line); m != nil {
				path = m[1]
				paths[path] = map[string]operation{}
			}
		case strings.HasPrefix(line, "### "):
			verbs = nil
			if m := verbHeading.FindStringSubmatch(line); m != nil && path != "" {
				verbs = strings.Split(m[1], ", ")
				op := operation{map[string]string{}, map[string]string{}}
				for _, verb := range verbs {
					paths[path][verb] = op // the same maps
				}
			}
		case !strings.HasPrefix(line, "|"):
			columns = nil
		case columns == nil:
			columns = cells(line)
		case len(verbs) > 0 && (columns[0] == "name" || columns[0] == "answer") && !strings.HasPrefix(line, "|---"):
			row := cells(line)
			if len(row) != len(columns) {
				return nil, fmt.Errorf("line %d has %d columns, its table %d", i+1, len(row), len(columns))
			}
			into := paths[path][verbs[0]].parameters
			if columns[0] == "answer" {
				into = paths[path][verbs[0]].answers
			}
			addRow(into, row[0], row[slices.Index(columns, "type")])
		}
	}
	return paths, nil
}

func cells(line string) []string {
	parts := strings.Split(strings.Trim(line, "|"), "|")
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	return parts
}

// addRow takes a row that may name several fields, and a type for each of them
// or one for all.
func addRow(into map[string]string, names, types string) {
	all := codeSpan.FindAllStringSubmatch(names, -1)
	each := strings.Split(types, ", ")
	for i, m := range all {
		into[m[1]] = types
		if len(each) == len(all) {
			into[m[1]] = each[i]
		}
	}
}

// readOpenAPI asks Vault for its OpenAPI document and returns the engine's
// part of it, with paths and verbs as docs/api.md writes them.
func readOpenAPI(t *testing.T, s *vaulttest.Server) map[string]map[string]operation {
	t.Helper()
	resp, err := s.Root().Must(suite.Deadline(t, time.Minute), "GET", "sys/internal/specs/openapi", nil)
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Paths      map[string]map[string]json.RawMessage `json:"paths"`
		Components struct {
			Schemas map[string]struct {
				Properties map[string]schema `json:"properties"`
			} `json:"schemas"`
		} `json:"components"`
	}
	suite.Decode(t, resp.Raw, &doc)
	fieldsOf := func(operationID, suffix string) map[string]string {
		fields := map[string]string{}
		for name, property := range doc.Components.Schemas[camelCase(operationID)+suffix].Properties {
			fields[name] = property.String()
		}
		return fields
	}
	paths := map[string]map[string]operation{}
	for full, item := range doc.Paths {
		path, ours := strings.CutPrefix(full, "/"+vaulttest.MountPath+"/")
		if !ours {
			continue
		}
		path = strings.NewReplacer("{", "<", "}", ">").Replace(strings.TrimSuffix(path, "/"))
		for method, raw := range item {
			if !slices.Contains([]string{"get", "post", "patch", "delete"}, method) {
				continue
			}
			var op struct {
				OperationID string `json:"operationId"`
				Parameters  []struct {
					Name   string `json:"name"`
					Schema schema `json:"schema"`
				} `json:"parameters"`
			}
			suite.Decode(t, raw, &op)
			verb := strings.ToUpper(method)
			parameters := fieldsOf(op.OperationID, "Request")
			for _, parameter := range op.Parameters {
				if parameter.Name == "list" {
					verb = "LIST"
					continue
				}
				parameters[parameter.Name] = parameter.Schema.String()
			}
			if paths[path] == nil {
				paths[path] = map[string]operation{}
			}
			paths[path][verb] = operation{parameters, fieldsOf(op.OperationID, "Response")}
		}
	}
	return paths
}

// schema is an OpenAPI schema, as far as the plugin uses it.
type schema struct {
	Type   string  `json:"type"`
	Format string  `json:"format"`
	Items  *schema `json:"items"`
}

// String is the type's name in docs/api.md.
func (s schema) String() string {
	switch {
	case s.Type == "array" && s.Items != nil && s.Items.Type == "object":
		return "list of objects"
	case s.Type == "array":
		return "list"
	case s.Type == "boolean":
		return "bool"
	case s.Format == "duration":
		return "duration"
	case s.Format == "kvpairs":
		return "map"
	default:
		return s.Type
	}
}

func camelCase(dashed string) string {
	var out strings.Builder
	for word := range strings.SplitSeq(dashed, "-") {
		out.WriteString(strings.ToUpper(word[:1]) + word[1:])
	}
	return out.String()
}

// TestDocumentsTellTheKindsOfEachRoleField writes every field of a role with
// every kind: a kind that docs/api.md does not list for it must be refused.
func TestDocumentsTellTheKindsOfEachRoleField(t *testing.T) {
	s := startForDocument(t, vaulttest.Options{})
	ctx := suite.Deadline(t, time.Minute)
	samples := vaulttest.Fields{
		"token_type": nil, "allowed_scopes": "a", "default_scopes": "a", "ttl": 60, "max_ttl": 3600, "audiences": "api",
		"subject": "app", "claims": vaulttest.Fields{"a": 1}, "claims_template": `{"b":1}`, "key": "default", "not_before_leeway": 1,
		"prefix": "abc", "max_tokens": 1, "bound_cidrs": "192.0.2.0/24", "metadata": vaulttest.Fields{"a": "b"}, "generate_lease": false,
		"allowed_metadata": "a", "require_cnf": true, "track": true,
	}
	kinds := []string{"api_key", "bearer", "jwt"}
	rows := roleFieldKinds(t)
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		sample, ok := samples[name]
		if !ok {
			t.Errorf("the test has no sample of %s", name)
			continue
		}
		for _, kind := range kinds {
			body := vaulttest.Fields{"token_type": kind, "allowed_scopes": "a", "audiences": "api"}
			if sample != nil {
				body[name] = sample
			}
			resp, err := s.Root().Do(ctx, "POST", "tokens/roles/"+kind+"-"+name, body)
			if err != nil {
				t.Fatal(err)
			}
			listed := rows[name] == "all" || slices.Contains(strings.Split(strings.ReplaceAll(rows[name], "`", ""), ", "), kind)
			switch {
			case listed && resp.Status >= http.StatusBadRequest:
				t.Errorf("docs/api.md lists %s for %s, but: %d %s", kind, name, resp.Status, resp.Raw)
			case !listed && (resp.Status != http.StatusBadRequest || !vaulttest.ErrorNames(resp, name)):
				t.Errorf("docs/api.md does not list %s for %s, but: %d %s", kind, name, resp.Status, resp.Raw)
			}
		}
	}
}

// roleFieldKinds reads the column "kinds" of the table of role fields.
func roleFieldKinds(t *testing.T) map[string]string {
	t.Helper()
	kinds := map[string]string{}
	column := -1
	for line := range strings.SplitSeq(suite.Read(t, "docs/api.md"), "\n") {
		switch row := cells(line); {
		case !strings.HasPrefix(line, "|"):
			column = -1
		case column < 0:
			column = slices.Index(row, "kinds")
			if column < 0 {
				column = len(row) + 1 // another table: skip its rows
			}
		case column < len(row) && !strings.HasPrefix(line, "|---"):
			kinds[strings.Trim(row[0], "`")] = row[column]
		}
	}
	if len(kinds) == 0 {
		t.Fatal("docs/api.md has no table of role fields with the column kinds")
	}
	return kinds
}
