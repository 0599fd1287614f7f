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
		Metadata: map[string]string{"team": "päyments\u2028"},
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
		`{"team": {{identity.entity.metadata.team}}}`:                       `{"team":"päyments\u2028"}`,
		`{"groups": {{identity.entity.groups.names}}}`:                      `{"groups":["ops","dev"]}`,
		`{"a": {"b": {{identity.entity.metadata}}}}`:                        `{"a":{"b":{"team":"päyments\u2028"}}}`,
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

func TestCheck(t *testing.T) {
	for _, tmpl := range []string{
		`{"x": {{identity.entity.nmae}}}`, `{"x": {{}}}`, `{"x": {{identity.entity.name}`, `{"x": {{time.now.plus.soon}}}`,
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
