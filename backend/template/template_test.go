package template

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/usererror"
)

type source struct{ lookups int }

func (s *source) EntityInfo(id string) (*logical.Entity, error) {
	s.lookups++
	return &logical.Entity{
		ID: id, Name: `bil"ling\`,
		Metadata: map[string]string{"team": `päy"ments`, "empty": "", "lines": "a\u2028b", "turned": "a\u202eb", "colour": "\x1b[31m"},
		Aliases:  []*logical.Alias{{MountAccessor: "auth_approle_1", Name: "app-7", Metadata: map[string]string{"role": "r"}}},
	}, nil
}

func (s *source) GroupsForEntity(string) ([]*logical.Group, error) {
	return []*logical.Group{{ID: "g1", Name: "ops"}, {ID: "g2", Name: "dev"}}, nil
}

func renderer() (*Renderer, *source) {
	s := &source{}
	return NewRenderer(Caller{EntityID: "e1", Source: s}, time.Unix(1000, 0)), s
}

func TestObject(t *testing.T) {
	for tmpl, want := range map[string]string{
		`{"name": {{identity.entity.name}}}`:                                `{"name":"bil\"ling\\"}`,
		`{"name": "x-{{ identity.entity.name }}-y"}`:                        `{"name":"x-bil\"ling\\-y"}`,
		`{"team": {{identity.entity.metadata.team}}}`:                       `{"team":"päy\"ments"}`,
		`{"groups": {{identity.entity.groups.names}}}`:                      `{"groups":["ops","dev"]}`,
		`{"a": {"b": {{identity.entity.aliases.auth_approle_1.metadata}}}}`: `{"a":{"b":{"role":"r"}}}`,
		`{"app": {{identity.entity.aliases.auth_approle_1.metadata.role}}}`: `{"app":"r"}`,
		`{"now": {{time.now}}, "then": "{{time.now.plus.60s}}"}`:            `{"now":1000,"then":"1060"}`,
		`{"group": {{identity.groups.names.ops.id}}}`:                       `{"group":"g1"}`,
		`{"plain": [1, "}}", {"x": {"y": 1}}]}`:                             `{"plain":[1,"}}",{"x":{"y":1}}]}`,
	} {
		r, _ := renderer()
		if _, err := CheckObject("f", tmpl); err != nil {
			t.Errorf("%s: %v", tmpl, err)
			continue
		}
		object, err := r.Object("f", tmpl)
		if err != nil {
			t.Errorf("%s: %v", tmpl, err)
			continue
		}
		var got, wanted any
		encoded, _ := json.Marshal(object)
		if json.Unmarshal(encoded, &got) != nil || json.Unmarshal([]byte(want), &wanted) != nil {
			t.Fatalf("%s: %s", tmpl, encoded)
		}
		gotText, _ := json.Marshal(got)
		wantText, _ := json.Marshal(wanted)
		if string(gotText) != string(wantText) {
			t.Errorf("%s renders to %s, want %s", tmpl, gotText, wantText)
		}
	}
}

// What has no value refuses, rather than leaving a claim empty.
func TestNoValueRefuses(t *testing.T) {
	for _, tmpl := range []string{
		`{"x": {{identity.entity.metadata.absent}}}`,
		`{"x": "{{identity.entity.metadata.absent}}"}`,
		`{"x": {{identity.entity.aliases.auth_absent.name}}}`,
		`{"x": {{identity.groups.names.absent.id}}}`,
		`{"x": {{identity.entity.metadata.empty}}}`,
		`{"x": {{identity.entity.aliases.auth_absent.metadata}}}`,
		`{"x": {{identity.entity.aliases.auth_absent.custom_metadata}}}`,
		`{"x": {{identity.entity.aliases.auth_approle_1.custom_metadata}}}`, // the alias has none
	} {
		if _, err := CheckObject("f", tmpl); err != nil {
			t.Errorf("%s is refused when written: %v", tmpl, err)
		}
		r, _ := renderer()
		var mistake *usererror.Error
		if object, err := r.Object("f", tmpl); !errors.As(err, &mistake) {
			t.Errorf("%s renders to %s, %v", tmpl, object, err)
		}
	}
	r := NewRenderer(Caller{}, time.Now())
	var mistake *usererror.Error
	if s, err := r.String("f", "{{identity.entity.id}}"); !errors.As(err, &mistake) {
		t.Errorf("a caller without entity renders to %q, %v", s, err)
	}
}

// Whoever may write an entity's metadata must not garble what verifiers log.
func TestControlCharactersOfIdentitiesRefuse(t *testing.T) {
	for _, tmpl := range []string{
		`{"x": {{identity.entity.metadata.lines}}}`,
		`{"x": "a {{identity.entity.metadata.turned}}"}`,
		`{"x": {{identity.entity.metadata.colour}}}`,
		`{"x": {{identity.entity.metadata}}}`,
	} {
		r, _ := renderer()
		var mistake *usererror.Error
		if object, err := r.Object("f", tmpl); !errors.As(err, &mistake) {
			t.Errorf("%s renders to %s, %v", tmpl, object, err)
		}
	}
}

// lonely is an entity without anything: no groups, no metadata.
type lonely struct{ entity *logical.Entity }

func (l lonely) EntityInfo(string) (*logical.Entity, error)     { return l.entity, nil }
func (lonely) GroupsForEntity(string) ([]*logical.Group, error) { return nil, nil }

// That a caller is in no group is an answer; that it has no metadata is none, since
// a mistyped accessor looks the same.
func TestEmptyCollections(t *testing.T) {
	r := NewRenderer(Caller{EntityID: "e1", Source: lonely{&logical.Entity{ID: "e1"}}}, time.Now())
	for _, groups := range []string{"names", "ids"} {
		object, err := r.Object("f", `{"groups": {{identity.entity.groups.`+groups+`}}}`)
		if err != nil || string(object["groups"]) != "[]" {
			t.Errorf("no groups render to %s, %v", object, err)
		}
	}
	var mistake *usererror.Error
	if object, err := r.Object("f", `{"x": {{identity.entity.metadata}}}`); !errors.As(err, &mistake) {
		t.Errorf("no metadata render to %s, %v", object, err)
	}
}

func TestDeletedEntityIsNoDefect(t *testing.T) {
	r := NewRenderer(Caller{EntityID: "e1", Source: lonely{}}, time.Now())
	var mistake *usererror.Error
	if s, err := r.String("subject", "{{identity.entity.id}}"); !errors.As(err, &mistake) || mistake.Field != "subject" {
		t.Errorf("renders to %q, %v", s, err)
	}
}

// A template is held to what fixed claims are, also once it is rendered.
func TestRenderedJSONIsChecked(t *testing.T) {
	deep := strings.Repeat(`{"a":`, 40) + "{{identity.entity.name}}" + strings.Repeat("}", 40)
	for _, tmpl := range []string{
		deep,
		`{"a": {"b": {{identity.entity.name}}, "b": 2}}`,
		`{"a": 1, "\u0061": {{identity.entity.name}}}`,
		`{"app-7": 1, "{{identity.entity.aliases.auth_approle_1.name}}": 2}`,
	} {
		r, _ := renderer()
		var mistake *usererror.Error
		if object, err := r.Object("f", tmpl); !errors.As(err, &mistake) {
			t.Errorf("%.60s renders to %s, %v", tmpl, object, err)
		}
		if names, err := CheckObject("f", tmpl); !errors.As(err, &mistake) {
			t.Errorf("%.60s passes with %v, %v", tmpl, names, err)
		}
	}
	many := `{"l": [` + strings.Repeat(`{"a":1},`, 300) + `{"a":{{identity.entity.name}}}]}`
	if _, err := CheckObject("f", many); err != nil {
		t.Errorf("equal names in different objects: %v", err)
	}
}

func TestCheck(t *testing.T) {
	for _, tmpl := range []string{
		`{"x": {{identity.entity.nmae}}}`, `{"x": {{}}}`, `{"x": {{identity.entity.name}`, `{"x": {{time.now.plus.soon}}}`,
		`{"{{identity.entity.name}}": 1}`, `{"a": [{"x{{ identity.entity.name }}y": 1}]}`, `{"a":1}}`, `{"a":1}{}`,
		`[]`, `null`, `{`, `"x"`, `{"x": {{identity.entity.name}} 1}`, `{"x": "` + strings.Repeat("y", MaxLength) + `"}`,
	} {
		var mistake *usererror.Error
		if names, err := CheckObject("f", tmpl); !errors.As(err, &mistake) || mistake.Field != "f" {
			t.Errorf("%.40s passes with %v, %v", tmpl, names, err)
		}
	}
	if CheckString("f", "{{identity.entity.groups.names}}") == nil {
		t.Error("a list passes in text")
	}
}

func TestString(t *testing.T) {
	r, s := renderer()
	got, err := r.String("f", "svc:{{identity.entity.id}}:{{identity.entity.aliases.auth_approle_1.name}}")
	if err != nil || got != "svc:e1:app-7" {
		t.Errorf("renders to %q, %v", got, err)
	}
	if s.lookups != 1 {
		t.Errorf("the entity was looked up %d times", s.lookups)
	}
	r, s = renderer()
	if got, err := r.String("f", "fixed"); err != nil || got != "fixed" || s.lookups != 0 {
		t.Errorf("a template without directives renders to %q, %v with %d lookups", got, err, s.lookups)
	}
}
