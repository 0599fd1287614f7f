package docs

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/suite"
)

// document is a Markdown file whose commands are run as they stand.
//
// Of fenced blocks there are three kinds. `sh` holds commands. `text` and
// `json` hold what the commands of the block before print. There are no
// others, so that nothing that looks like a command is left out.
type document struct {
	name  string // path in the repository
	lines []string
	steps []*step
}

// step is one block of commands with the answer that the document shows.
type step struct {
	section string // the nearest heading of level two
	line    int    // of the first command, from 1
	command string
	answer  *answer // nil: nothing is shown
}

// answer is what a document shows of the output of a step.
type answer struct {
	json        bool
	text        string
	first, last int // indexes of its lines in the document
}

// fails reports whether the document shows the commands failing.
func (a *answer) fails() bool {
	return a != nil && !a.json && regexp.MustCompile(`^(Error |No value found)`).MatchString(a.text)
}

// runs reports whether a program is among the document's commands.
func (d *document) runs(program string) bool {
	command := regexp.MustCompile(`(?m)(^|[|;&(] *)` + regexp.QuoteMeta(program) + ` `)
	return slices.ContainsFunc(d.steps, func(s *step) bool { return command.MatchString(s.command) })
}

func readDocument(name string) (*document, error) {
	raw, err := os.ReadFile(filepath.Join(suite.Repository(), name))
	if err != nil {
		return nil, err
	}
	d := &document{name: name, lines: strings.Split(string(raw), "\n")}
	section, heading := "", regexp.MustCompile(`^## (.+)$`)
	for i := 0; i < len(d.lines); i++ {
		line := d.lines[i]
		if m := heading.FindStringSubmatch(line); m != nil {
			section = m[1]
		}
		if strings.HasPrefix(line, "    ") || strings.HasPrefix(line, "~~~") {
			return nil, fmt.Errorf("%s:%d: code outside of a ``` block, which would not be run", name, i+1)
		}
		language, isFence := strings.CutPrefix(line, "```")
		if !isFence {
			continue
		}
		length := slices.Index(d.lines[i+1:], "```")
		if length < 0 {
			return nil, fmt.Errorf("%s:%d: the block has no end", name, i+1)
		}
		if err := d.addBlock(section, language, i+1, i+1+length); err != nil {
			return nil, err
		}
		i += length + 1
	}
	return d, nil
}

// addBlock takes the lines from first to before end.
func (d *document) addBlock(section, language string, first, end int) error {
	text := strings.Join(d.lines[first:end], "\n")
	switch language {
	case "sh":
		d.steps = append(d.steps, &step{section: section, line: first + 1, command: text})
	case "text", "json":
		if len(d.steps) == 0 || d.steps[len(d.steps)-1].answer != nil {
			return fmt.Errorf("%s:%d: an answer without a command before it", d.name, first)
		}
		d.steps[len(d.steps)-1].answer = &answer{json: language == "json", text: text, first: first, last: end}
	default:
		return fmt.Errorf("%s:%d: a block is sh, or text or json for what it prints; this one is %q", d.name, first, language)
	}
	return nil
}

// update puts what was really printed into the document.
func (d *document) update(s *step, printed string) {
	a := s.answer
	grown := strings.Count(printed, "\n") + 1 - (a.last - a.first)
	d.lines = slices.Replace(d.lines, a.first, a.last, strings.Split(printed, "\n")...)
	for _, other := range d.steps {
		if other.answer != nil && other.answer.first > a.first {
			other.answer.first += grown
			other.answer.last += grown
		}
	}
	a.last += grown
}

func (d *document) write() error {
	return os.WriteFile(filepath.Join(suite.Repository(), d.name), []byte(strings.Join(d.lines, "\n")), 0o644)
}

var codeSpan = regexp.MustCompile("`([^`]+)`")

// spans returns the inline code of the document, by line.
func (d *document) spans() map[int][]string {
	spans, fenced := map[int][]string{}, false
	for i, line := range d.lines {
		if strings.HasPrefix(line, "```") {
			fenced = !fenced
			continue
		}
		if fenced {
			continue
		}
		for _, m := range codeSpan.FindAllStringSubmatch(line, -1) {
			spans[i+1] = append(spans[i+1], m[1])
		}
	}
	return spans
}

// link is a link to a file of the repository, or to a heading (anchor) in it.
type link struct {
	line         int
	file, anchor string // file is "" for the document itself
}

func (d *document) links() []link {
	var links []link
	target := regexp.MustCompile(`\]\(([^)#]*)(?:#([^)]*))?\)`)
	for i, line := range d.lines {
		for _, m := range target.FindAllStringSubmatch(line, -1) {
			if !strings.Contains(m[1], "://") {
				links = append(links, link{i + 1, m[1], m[2]})
			}
		}
	}
	return links
}

// anchors returns the names that GitHub gives to the headings of a Markdown
// text: lower case, without punctuation, with - for spaces.
func anchors(markdown string) map[string]bool {
	names := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(markdown, -1) {
		plain := regexp.MustCompile(`[^\w\- ]`).ReplaceAllString(strings.ToLower(m[1]), "")
		names[strings.ReplaceAll(plain, " ", "-")] = true
	}
	return names
}
