package docs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// What differs from run to run, and stands in a document as an example. The
// order matters: what is longer comes first. A token may be shortened with an
// ellipsis, and is by -update.
var volatile = []struct {
	pattern *regexp.Regexp
	name    string
}{
	{regexp.MustCompile(`\beyJ[\w-]+(\.[\w-]+\.[\w-]+|…)`), "<jwt>"},
	{regexp.MustCompile(`\b[a-z0-9]+(_[a-z0-9]+)*_([0-9A-Za-z]{71}\b|[0-9A-Za-z]{6}…)`), "<token>"},
	{regexp.MustCompile(`\bhmac-sha256:([0-9a-f]{64}|[0-9a-f]{12}…|[0-9a-f]{6}…)`), "<hmac>"},
	{regexp.MustCompile(`\bhv[sb]\.([\w-]+|…)`), "<vault token>"},
	{regexp.MustCompile(`\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b`), "<uuid>"},
	{regexp.MustCompile(`(?s)-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----`), "<public key>"},
	{regexp.MustCompile(`\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?Z`), "<time>"},
	{regexp.MustCompile(`\b(1[7-9]|2[01])\d{8}\b`), "<seconds>"},
	{regexp.MustCompile(`(^|[^\w-])[\w-]{43}([^\w-]|$)`), "$1<thumbprint>$2"},
	{regexp.MustCompile(`(/)[0-9A-Za-z]{24}\b`), "$1<lease>"},
	{regexp.MustCompile(`\b[0-9A-Za-z]{22}\b`), "<id>"},
	{regexp.MustCompile(`\b[0-9a-f]{64}\b`), "<sha256>"},
	{regexp.MustCompile(`\b(auth_\w+?)_[0-9a-f]{8}\b`), "$1_<accessor>"},
	{regexp.MustCompile(`https://127\.0\.0\.1:\d+`), "https://127.0.0.1:8200"},
}

func normal(text string) string {
	for _, v := range volatile {
		text = v.pattern.ReplaceAllString(text, v.name)
	}
	return text
}

// shortened is what -update writes: what was printed, without whole tokens.
func shortened(text string) string {
	text = regexp.MustCompile(`\b(eyJ[\w-]{12})[\w-]+\.[\w-]+\.[\w-]+`).ReplaceAllString(text, "$1…")
	text = regexp.MustCompile(`\b([a-z0-9]+(?:_[a-z0-9]+)*_[0-9A-Za-z]{6})[0-9A-Za-z]{65}\b`).ReplaceAllString(text, "$1…")
	text = regexp.MustCompile(`\b(hmac-sha256:[0-9a-f]{6})[0-9a-f]{58}`).ReplaceAllString(text, "$1…")
	text = regexp.MustCompile(`\b(hv[sb]\.)[\w-]+`).ReplaceAllString(text, "$1…")
	return regexp.MustCompile(`https://127\.0\.0\.1:\d+`).ReplaceAllString(text, "https://127.0.0.1:8200")
}

// compare returns what is wrong with what was printed, or "".
func (a *answer) compare(printed string) string {
	if a.json {
		return a.compareJSON(printed)
	}
	shown, got := textLines(a.text), textLines(printed)
	if matchLines(shown, got) {
		return ""
	}
	return fmt.Sprintf("the document shows\n%s\nbut it prints\n%s", strings.Join(shown, "\n"), strings.Join(got, "\n"))
}

func textLines(text string) []string {
	lines := strings.Split(strings.TrimSpace(normal(text)), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return lines
}

// matchLines compares line by line. A line … stands for any lines, and … in a
// line for any characters.
func matchLines(shown, got []string) bool {
	if len(shown) == 0 {
		return len(got) == 0
	}
	if shown[0] == "…" {
		return slices.ContainsFunc(slices.Collect(suffixes(got)), func(rest []string) bool { return matchLines(shown[1:], rest) })
	}
	if len(got) == 0 {
		return false
	}
	pattern := strings.ReplaceAll(regexp.QuoteMeta(shown[0]), "…", ".*")
	return regexp.MustCompile("^"+pattern+"$").MatchString(got[0]) && matchLines(shown[1:], got[1:])
}

// suffixes yields lines, then lines without the first, and so on to none.
func suffixes(lines []string) func(yield func([]string) bool) {
	return func(yield func([]string) bool) {
		for i := range len(lines) + 1 {
			if !yield(lines[i:]) {
				return
			}
		}
	}
}

// compareJSON compares all that the document shows. It may leave out parts of
// the envelope that Vault puts around every answer, but nothing of the data.
func (a *answer) compareJSON(printed string) string {
	shown, err := decodeNormal(a.text)
	if err != nil {
		return fmt.Sprintf("the document's JSON: %v", err)
	}
	got, err := decodeNormal(printed)
	if err != nil {
		return fmt.Sprintf("%v: %s", err, normal(printed))
	}
	got = withoutEnvelope(got, shown)
	if bytes.Equal(encodeJSON(shown), encodeJSON(got)) {
		return ""
	}
	return fmt.Sprintf("the document shows\n%s\nbut the answer is\n%s", encodeJSON(shown), encodeJSON(got))
}

var envelope = []string{"request_id", "lease_id", "lease_duration", "renewable", "wrap_info", "warnings", "auth", "mount_type"}

func withoutEnvelope(got, shown any) any {
	object, isObject := got.(map[string]any)
	example, ok := shown.(map[string]any)
	if !isObject || !ok {
		return got
	}
	for _, name := range envelope {
		if _, wanted := example[name]; !wanted {
			delete(object, name)
		}
	}
	return object
}

func decodeNormal(text string) (any, error) {
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		return nil, err
	}
	if decoder.More() {
		return nil, fmt.Errorf("more than one JSON value")
	}
	return normalJSON(value), nil
}

func normalJSON(value any) any {
	switch v := value.(type) {
	case string:
		return normal(v)
	case json.Number:
		if n := normal(v.String()); n != v.String() {
			return n
		}
		return v
	case []any:
		for i := range v {
			v[i] = normalJSON(v[i])
		}
	case map[string]any:
		named := make(map[string]any, len(v))
		for _, name := range slices.Sorted(maps.Keys(v)) {
			key := normal(name) // of key_info, ids are the names
			for named[key] != nil {
				key += ", <another>"
			}
			named[key] = normalJSON(v[name])
			if name == "idx" { // of a status list; drawn at random
				named[key] = "<index>"
			}
		}
		return named
	}
	return value
}

func encodeJSON(value any) []byte {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(value); err != nil {
		return []byte(err.Error())
	}
	return bytes.TrimSpace(out.Bytes())
}

// rewritten is what the document should show.
func (a *answer) rewritten(printed string) string {
	if !a.json {
		return shortened(strings.TrimSpace(printed))
	}
	var shown, got any
	if json.Unmarshal([]byte(a.text), &shown) != nil {
		shown = map[string]any{}
	}
	decoder := json.NewDecoder(strings.NewReader(printed))
	decoder.UseNumber()
	if decoder.Decode(&got) != nil {
		return printed
	}
	return shortened(inOneLine(string(encodeJSON(withoutEnvelope(got, shown)))))
}

// inOneLine joins short lists of strings.
func inOneLine(indented string) string {
	return regexp.MustCompile(`\[\s+"[^\[\]{}]{1,100}"\s+\]`).ReplaceAllStringFunc(indented, func(list string) string {
		return "[" + regexp.MustCompile(`\s*\n\s*`).ReplaceAllString(strings.Trim(list[1:len(list)-1], " \n"), " ") + "]"
	})
}

func TestDocumentsAnswersAreCompared(t *testing.T) {
	token := "vtk_" + strings.Repeat("aB3", 23) + "xy"
	id := strings.Repeat("7", 22)
	for name, tc := range map[string]struct {
		json           bool
		shown, printed string
		same           bool
	}{
		"the same":                  {false, "a\nb", "a\nb\n", true},
		"another line":              {false, "a\nb", "a\nc", false},
		"a line too many":           {false, "a", "a\nb", false},
		"a line too few":            {false, "a\nb", "a", false},
		"lines left out":            {false, "a\n…\nd", "a\nb\nc\nd", true},
		"lines left out, wrong end": {false, "a\n…\nd", "a\nb\nc", false},
		"the rest of a line":        {false, "a: …", "a: b", true},
		"another start of a line":   {false, "a: …", "b: b", false},
		"another id":                {false, "token_id  " + id, "token_id  " + strings.Repeat("z", 22), true},
		"an id that is a word":      {false, "token_id  " + id, "token_id  none", false},
		"a shortened token":         {false, "token  vtk_1234ab…", "token  " + token, true},
		"a token that is missing":   {false, "token  vtk_1234ab…", "token  ", false},
		"JSON, in another order":    {true, `{"data":{"a":1,"b":[true]}}`, `{"data":{"b":[true],"a":1}}`, true},
		"JSON, another value":       {true, `{"data":{"a":1}}`, `{"data":{"a":2}}`, false},
		"JSON, a field too few":     {true, `{"data":{"a":1}}`, `{"data":{"a":1,"b":2}}`, false},
		"JSON, a field too many":    {true, `{"data":{"a":1,"b":2}}`, `{"data":{"a":1}}`, false},
		"JSON, no envelope":         {true, `{"data":{}}`, `{"data":{},"request_id":"x","lease_id":""}`, true},
		"JSON, wrong envelope":      {true, `{"data":{},"lease_id":"x"}`, `{"data":{},"lease_id":""}`, false},
		"JSON, another time":        {true, `{"data":{"exp":1790000000}}`, `{"data":{"exp":1795444682}}`, true},
		"JSON, not a time":          {true, `{"data":{"exp":1790000000}}`, `{"data":{"exp":0}}`, false},
		"JSON, no JSON":             {true, `{"data":{}}`, `404 page not found`, false},
	} {
		t.Run(name, func(t *testing.T) {
			problem := (&answer{json: tc.json, text: tc.shown}).compare(tc.printed)
			if (problem == "") != tc.same {
				t.Errorf("same = %v, want %v: %s", problem == "", tc.same, problem)
			}
		})
	}
}
