package tokens

import (
	"encoding/json"
	"io"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-secure-stdlib/parseutil"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/template"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/usererror"
)

// maxDuration bounds every duration that a request can set.
const maxDuration = 100 * 365 * 24 * time.Hour

// schemas declares fields by name.
type schemas = map[string]*framework.FieldSchema

// bodyFields lists, for each path, the fields that a request's body may set:
// all but the path's own parameters.
func bodyFields(paths []*framework.Path) map[*framework.Path]schemas {
	all := map[*framework.Path]schemas{}
	for _, path := range paths {
		parameters := regexp.MustCompile(path.Pattern).SubexpNames()
		body := schemas{}
		for name, schema := range path.Fields {
			if !slices.Contains(parameters, name) {
				body[name] = schema
			}
		}
		all[path] = body
	}
	return all
}

// checkRequest refuses unknown fields, nulls and values of a wrong type before
// a handler runs. The framework would drop the first silently, read the second
// as an empty value, and repeat the third, perhaps a secret, in its message.
func (b *tokensBackend) checkRequest(req *logical.Request) error {
	if len(req.Data) == 0 {
		return nil
	}
	path := b.Route(req.Path)
	if path == nil {
		return nil
	}
	switch req.Operation {
	case logical.CreateOperation, logical.UpdateOperation, logical.PatchOperation:
	case logical.ReadOperation, logical.ListOperation, logical.DeleteOperation:
		if b.unauthenticated(req.Path) {
			req.Data = declaredParameters(path, req.Data)
			return nil
		}
	default:
		return nil
	}
	known := b.bodyFields[path]
	if isOAuth2(req.Path) { // unknown parameters must be ignored (RFC 6749 §3.1)
		maps.DeleteFunc(req.Data, func(name string, _ any) bool { return known[name] == nil })
	}
	return checkFields(known, req.Data, req.Operation)
}

// checkFields checks what a body says, or one item of a list in it: each field must
// be known and have a value of its type. It brings the values into the form that the
// framework reads without loss.
func checkFields(known schemas, data map[string]any, operation logical.Operation) error {
	for _, name := range slices.Sorted(maps.Keys(data)) {
		schema, ok := known[name]
		if !ok || !isWrite(operation) && !schema.Query {
			return unknownField(name, operation, known)
		}
		value, err := checkValue(name, schema, data[name], operation)
		if err != nil {
			return err
		}
		data[name] = value
	}
	return nil
}

// declaredParameters drops parameters that a path does not know, such as one that
// avoids a cache, and values that are no text.
func declaredParameters(path *framework.Path, given map[string]any) map[string]any {
	declared := map[string]any{}
	for name, schema := range path.Fields {
		value, ok := given[name]
		if !ok || !schema.Query {
			continue
		}
		text, _ := value.(string)
		declared[name] = text
	}
	return declared
}

// unauthenticated reports whether a path needs no Vault token.
func (b *tokensBackend) unauthenticated(path string) bool {
	return slices.ContainsFunc(b.PathsSpecial.Unauthenticated, func(special string) bool {
		prefix, isPrefix := strings.CutSuffix(special, "*")
		return path == special || isPrefix && strings.HasPrefix(path, prefix)
	})
}

func isWrite(operation logical.Operation) bool {
	switch operation {
	case logical.CreateOperation, logical.UpdateOperation, logical.PatchOperation:
		return true
	}
	return false
}

func unknownField(name string, operation logical.Operation, known schemas) error {
	if !isWrite(operation) {
		return usererror.Field(name, "is not a parameter of a %s here; parameters of a write belong in its body", operation)
	}
	names := slices.Sorted(maps.Keys(known))
	if len(names) == 0 {
		return usererror.Field(name, "is not a field here; this path has none")
	}
	return usererror.Field(name, "is not a field here; the fields are %s", strings.Join(names, ", "))
}

// checkValue checks the type of a value, and brings what has more than one
// spelling into the one that the framework reads without loss.
func checkValue(name string, schema *framework.FieldSchema, value any, operation logical.Operation) (any, error) {
	if value == nil {
		if operation == logical.PatchOperation {
			return nil, nil
		}
		return nil, usererror.Field(name, "is null; leave it out to keep its value, or use a patch to reset it")
	}
	switch schema.Type {
	case framework.TypeDurationSecond:
		return checkDuration(name, value)
	case framework.TypeInt:
		return checkInt(name, value)
	case framework.TypeMap:
		return checkObject(name, value)
	case framework.TypeBool:
		return checkBool(name, value)
	case framework.TypeString:
		if _, isString := value.(string); !isString {
			return nil, usererror.Field(name, "must be a string")
		}
	case framework.TypeKVPairs:
		if err := checkPairs(name, value, operation == logical.PatchOperation); err != nil {
			return nil, err
		}
	case framework.TypeCommaStringSlice:
		if err := checkList(name, value); err != nil {
			return nil, err
		}
	case framework.TypeSlice:
		return checkObjects(name, value)
	}
	data := framework.FieldData{
		Raw:    map[string]any{name: value},
		Schema: map[string]*framework.FieldSchema{name: schema},
	}
	if data.Validate() != nil { // its text may repeat the value
		return nil, usererror.Field(name, "must be %s", describe(schema.Type))
	}
	return value, nil
}

func describe(t framework.FieldType) string {
	switch t {
	case framework.TypeKVPairs:
		return "a map of strings: a JSON object, or key=value pairs"
	case framework.TypeCommaStringSlice:
		return "a list of strings, or one string with commas"
	default:
		return "a value of type " + t.String()
	}
}

func checkDuration(name string, value any) (any, error) {
	mistake := usererror.Field(name, "must be a duration: whole seconds, or a number with a unit, such as 90s, 15m, 24h or 30d, of at most 100 years")
	var d time.Duration
	if s, ok := value.(string); ok {
		if n, err := strconv.ParseFloat(s, 64); err == nil {
			value = n
		} else if d, err = parseutil.ParseDurationSecond(s); err != nil || s == "" {
			return nil, mistake
		}
	}
	if _, ok := value.(string); !ok {
		n, ok := wholeNumber(value)
		if !ok || math.Abs(n) > maxDuration.Seconds() {
			return nil, mistake
		}
		d = time.Duration(n) * time.Second
	}
	switch {
	case d < 0:
		return nil, usererror.Field(name, "must not be negative")
	case d > maxDuration, d%time.Second != 0:
		return nil, mistake
	}
	return int(d / time.Second), nil
}

// checkBool accepts true and false, and their text, as the command line sends it.
// The framework would read any number but zero as true.
func checkBool(name string, value any) (any, error) {
	switch value {
	case true, "true":
		return true, nil
	case false, "false":
		return false, nil
	}
	return nil, usererror.Field(name, "must be true or false")
}

func checkInt(name string, value any) (any, error) {
	if s, ok := value.(string); ok {
		n, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return nil, usererror.Field(name, "must be a whole number")
		}
		value = n
	}
	n, ok := wholeNumber(value)
	if !ok || math.Abs(n) > math.MaxInt32 {
		return nil, usererror.Field(name, "must be a whole number")
	}
	return int(n), nil
}

func wholeNumber(value any) (float64, bool) {
	var n float64
	switch v := value.(type) {
	case float64:
		n = v
	case int:
		n = float64(v)
	case int64:
		n = float64(v)
	case json.Number:
		var err error
		if n, err = v.Float64(); err != nil {
			return 0, false
		}
	default:
		return 0, false
	}
	return n, n == math.Trunc(n) // false for NaN
}

// checkObject accepts a JSON object, or its text, as the command line sends it.
func checkObject(name string, value any) (any, error) {
	mistake := usererror.Field(name, "must be a JSON object")
	if s, ok := value.(string); ok {
		return parseObject(name, s, mistake)
	}
	if _, ok := value.(map[string]any); !ok {
		return nil, mistake
	}
	return value, nil
}

// checkObjects accepts a list of JSON objects.
func checkObjects(name string, value any) (any, error) {
	list, ok := value.([]any)
	if !ok {
		return nil, usererror.Field(name, "must be a list of JSON objects")
	}
	for i, entry := range list {
		if _, isObject := entry.(map[string]any); !isObject {
			return nil, usererror.Field(name, "must be a list of JSON objects; entry %d is none", i+1)
		}
	}
	return list, nil
}

func parseObject(name, text string, mistake error) (any, error) {
	var object map[string]any
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	if decoder.Decode(&object) != nil || object == nil {
		return nil, mistake
	}
	if _, err := decoder.Token(); err != io.EOF { // More would pass over a bracket
		return nil, mistake
	}
	return object, template.CheckJSON(name, []byte(text)) // of two members the map has one
}

// checkPairs accepts only strings as values: the framework would turn others into
// strings of its own making. In a patch, null removes a member.
func checkPairs(name string, value any, patch bool) error {
	object, ok := value.(map[string]any)
	if !ok {
		return nil // key=value pairs, which the framework reads
	}
	for _, v := range object {
		if _, isString := v.(string); !isString && !(patch && v == nil) {
			return usererror.Field(name, "must be %s", describe(framework.TypeKVPairs))
		}
	}
	return nil
}

func checkList(name string, value any) error {
	mistake := usererror.Field(name, "must be %s", describe(framework.TypeCommaStringSlice))
	switch list := value.(type) {
	case string, []string:
		return nil
	case []any:
		for _, entry := range list {
			if _, ok := entry.(string); !ok {
				return mistake
			}
		}
		return nil
	}
	return mistake
}
