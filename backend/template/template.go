// Package template renders Vault's identity templates into subjects and
// claims. Unlike Vault's own rendering into JSON, a directive without a value
// is an error: a token is refused rather than issued without a claim.
//
// A list of groups may be empty, since the caller may be in none. A map may not:
// Vault's rendering gives an empty one for an accessor that does not exist, too.
package template

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/helper/identitytpl"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/text"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/usererror"
)

// MaxLength bounds the source of a template, and what it renders to, in bytes.
const MaxLength = 8 * 1024

// Source looks entities up; Vault's system view is one.
type Source interface {
	EntityInfo(entityID string) (*logical.Entity, error)
	GroupsForEntity(entityID string) ([]*logical.Group, error)
}

// Caller is who a token is issued to.
type Caller struct {
	EntityID    string // empty for a Vault token without an entity
	DisplayName string
	Source      Source
}

// Known directives. A list or a map can only be rendered into JSON; time.now
// only as digits.
var (
	collection = regexp.MustCompile(`^identity\.entity\.(metadata|groups\.(names|ids)|aliases\.[^.\s]+\.(metadata|custom_metadata))$`)
	single     = regexp.MustCompile(`^(identity\.entity\.(id|name|metadata\.\S+|aliases\.[^.\s]+\.(id|name|metadata\.\S+|custom_metadata\.\S+))|identity\.groups\.(names|ids)\.[^.]+\.(id|name|metadata\.\S+))$`)
	clock      = regexp.MustCompile(`^time\.now(\.(plus|minus)\.(\S+))?$`)
)

// part is a piece of a template: literal text, or a directive.
type part struct {
	literal   string
	directive string
	quoted    bool // the directive is inside a JSON string
}

// parse splits a template at its {{directives}}.
func parse(field, tmpl string) ([]part, error) {
	if len(tmpl) > MaxLength {
		return nil, usererror.Field(field, "is %d bytes long; at most %d are allowed", len(tmpl), MaxLength)
	}
	var parts []part
	quoted := false
	for rest := tmpl; rest != ""; {
		literal, after, found := strings.Cut(rest, "{{")
		quoted = inString(literal, quoted)
		if literal != "" {
			parts = append(parts, part{literal: literal})
		}
		if !found {
			break
		}
		directive, after, closed := strings.Cut(after, "}}")
		directive = strings.TrimSpace(directive)
		if !closed {
			return nil, usererror.Field(field, "has a {{ without }}")
		}
		if err := checkDirective(field, directive); err != nil {
			return nil, err
		}
		parts = append(parts, part{directive: directive, quoted: quoted})
		rest = after
	}
	return parts, nil
}

// inString follows JSON's quotes through a literal.
func inString(literal string, quoted bool) bool {
	for i := 0; i < len(literal); i++ {
		switch {
		case literal[i] == '"':
			quoted = !quoted
		case literal[i] == '\\' && quoted:
			i++
		}
	}
	return quoted
}

func checkDirective(field, directive string) error {
	if collection.MatchString(directive) || single.MatchString(directive) {
		return nil
	}
	if m := clock.FindStringSubmatch(directive); m != nil {
		if m[3] == "" {
			return nil
		}
		if _, err := time.ParseDuration(m[3]); err == nil {
			return nil
		}
	}
	return usererror.Field(field, "{{%s}} is not a field that can be rendered; use Vault identity templating, such as identity.entity.name, identity.entity.metadata.<key>, identity.entity.groups.names or identity.entity.aliases.<accessor>.name", directive)
}

// CheckString checks a template that renders to text.
func CheckString(field, tmpl string) error {
	parts, err := parse(field, tmpl)
	if err != nil {
		return err
	}
	for _, p := range parts {
		if collection.MatchString(p.directive) {
			return usererror.Field(field, "{{%s}} is a list or a map and cannot be rendered into text", p.directive)
		}
	}
	return nil
}

// placeholder stands for a directive while a template is checked. No literal can
// have it, since {{ begins a directive.
const placeholder = "{{}}"

// CheckObject checks a template that renders to a JSON object, and returns
// the object's top-level names. A name cannot have a directive: what an identity
// is called must not decide how a claim is.
func CheckObject(field, tmpl string) ([]string, error) {
	object, err := renderObject(field, tmpl, func(p part) (string, error) {
		if p.quoted {
			return placeholder, nil
		}
		return "null", nil
	})
	if err != nil {
		return nil, err
	}
	return slices.Collect(maps.Keys(object)), nil
}

// Renderer renders templates for one caller. It looks the entity up once, and
// only if a directive needs it.
type Renderer struct {
	caller Caller
	now    time.Time
	entity *logical.Entity
	groups []*logical.Group
}

// NewRenderer returns a renderer for a caller at a moment.
func NewRenderer(caller Caller, now time.Time) *Renderer {
	return &Renderer{caller: caller, now: now}
}

// String renders a template to text.
func (r *Renderer) String(field, tmpl string) (string, error) {
	parts, err := parse(field, tmpl)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	for _, p := range parts {
		out.WriteString(p.literal)
		if p.directive == "" {
			continue
		}
		value, err := r.text(field, p.directive)
		if err != nil {
			return "", err
		}
		out.WriteString(value)
	}
	return out.String(), nil
}

// Object renders a template to a JSON object.
func (r *Renderer) Object(field, tmpl string) (map[string]json.RawMessage, error) {
	return renderObject(field, tmpl, func(p part) (string, error) {
		if collection.MatchString(p.directive) {
			if p.quoted {
				return "", usererror.Field(field, "{{%s}} is a list or a map and cannot be rendered into a string", p.directive)
			}
			return r.collection(field, p.directive)
		}
		value, err := r.text(field, p.directive)
		if err != nil || !p.quoted && clock.MatchString(p.directive) {
			return value, err
		}
		encoded := quote(value)
		if p.quoted {
			encoded = encoded[1 : len(encoded)-1]
		}
		return encoded, nil
	})
}

func quote(s string) string {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(s) // a string always encodes
	return strings.TrimSuffix(out.String(), "\n")
}

func renderObject(field, tmpl string, value func(part) (string, error)) (map[string]json.RawMessage, error) {
	parts, err := parse(field, tmpl)
	if err != nil {
		return nil, err
	}
	var out strings.Builder
	for _, p := range parts {
		out.WriteString(p.literal)
		if p.directive == "" {
			continue
		}
		rendered, err := value(p)
		if err != nil {
			return nil, err
		}
		out.WriteString(rendered)
		if out.Len() > MaxLength {
			return nil, usererror.Field(field, "renders to more than %d bytes", MaxLength)
		}
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal([]byte(out.String()), &object); err != nil || object == nil {
		return nil, usererror.Field(field, "does not render to a JSON object")
	}
	return object, CheckJSON(field, []byte(out.String()))
}

// maxNesting bounds how deep claims are nested: some JSON parsers accept no more.
const maxNesting = 32

// CheckJSON refuses JSON that verifiers may fail on or read differently: nested too
// deep, or with two members of one name in an object.
func CheckJSON(field string, raw []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var names []map[string]bool // of the open objects; nil for an array
	isName := false
	for {
		token, err := decoder.Token()
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return usererror.Field(field, "must be a JSON object")
		}
		innermost := len(names) - 1
		if name, ok := token.(string); ok && isName {
			if strings.Contains(name, placeholder) {
				return usererror.Field(field, "a claim's name must not have a directive")
			}
			if names[innermost][name] {
				return usererror.Field(field, "has two members called %q in one object", usererror.Clip(name))
			}
			names[innermost][name] = true
			isName = false
			continue
		}
		switch token {
		case json.Delim('{'):
			names = append(names, map[string]bool{})
		case json.Delim('['):
			names = append(names, nil)
		case json.Delim('}'), json.Delim(']'):
			names = names[:innermost]
		}
		if len(names) > maxNesting {
			return usererror.Field(field, "is nested more than %d levels deep", maxNesting)
		}
		isName = len(names) > 0 && names[len(names)-1] != nil
	}
}

// text renders a directive to text, which is never empty.
func (r *Renderer) text(field, directive string) (string, error) {
	value, err := r.populate(field, directive, identitytpl.ACLTemplating)
	if err != nil {
		return "", err
	}
	if value == "" {
		return "", noValue(field, directive)
	}
	return value, checkValue(field, directive, value)
}

// collection renders a directive to a JSON list, or to an object, which is never
// empty.
func (r *Renderer) collection(field, directive string) (string, error) {
	rendered, err := r.populate(field, directive, identitytpl.JSONTemplating)
	if err != nil {
		return "", err
	}
	switch rendered {
	case "null": // what it makes of no groups
		return "[]", nil
	case "{}":
		return "", noValue(field, directive)
	}
	decoder := json.NewDecoder(strings.NewReader(rendered))
	for {
		token, err := decoder.Token()
		if err == io.EOF {
			return rendered, nil
		}
		if err != nil {
			return "", fmt.Errorf("render {{%s}}: %w", directive, err)
		}
		if s, ok := token.(string); ok {
			if err := checkValue(field, directive, s); err != nil {
				return "", err
			}
		}
	}
}

func noValue(field, directive string) error {
	return usererror.Field(field, "{{%s}} has no value for this caller, so no token was issued", directive)
}

// checkValue refuses text of an identity that could garble a log line or a
// terminal. What is in the template itself is the operator's choice.
func checkValue(field, directive, value string) error {
	if !text.Printable(value) {
		return usererror.Field(field, "{{%s}} has control characters for this caller, so no token was issued", directive)
	}
	return nil
}

// populate renders one directive through Vault's own templating.
func (r *Renderer) populate(field, directive string, mode int) (string, error) {
	if !clock.MatchString(directive) {
		if err := r.lookUp(field, directive); err != nil {
			return "", err
		}
	}
	_, value, err := identitytpl.PopulateString(identitytpl.PopulateStringInput{
		String: "{{" + directive + "}}",
		Mode:   mode,
		Entity: r.entity,
		Groups: r.groups,
		Now:    r.now,
	})
	if err != nil {
		return "", noValue(field, directive)
	}
	return value, nil
}

// lookUp fetches the caller's entity and groups.
func (r *Renderer) lookUp(field, directive string) error {
	if r.entity != nil {
		return nil
	}
	if r.caller.EntityID == "" {
		return usererror.Field(field, "{{%s}} needs an identity entity; this Vault token has none (a root token never has one), so log in through an auth method", directive)
	}
	entity, err := r.caller.Source.EntityInfo(r.caller.EntityID)
	if err != nil {
		return fmt.Errorf("look up entity: %w", err)
	}
	if entity == nil { // deleted since the caller logged in
		return usererror.Field(field, "{{%s}} needs an identity entity, and that of this Vault token does not exist any more; log in again", directive)
	}
	groups, err := r.caller.Source.GroupsForEntity(r.caller.EntityID)
	if err != nil {
		return fmt.Errorf("look up groups: %w", err)
	}
	r.entity, r.groups = entity, groups
	return nil
}
