package docs

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/suite"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/test/vaulttest"
)

var updateDocs = flag.Bool("update-docs", false, "write what is really printed into README.md and docs/")

// TestDocuments runs every command of README.md and docs/, taken from the
// documents, and compares what it prints with what they show.
func TestDocuments(t *testing.T) {
	for _, name := range documentNames(t) {
		t.Run(name, func(t *testing.T) {
			doc, err := readDocument(name)
			if err != nil {
				t.Fatal(err)
			}
			if name == "README.md" {
				testReadme(t, doc)
				return
			}
			for program, skip := range map[string]suite.Skip{"node": suite.SkipNode, "npm": suite.SkipNode, "promtool": suite.SkipPrometheus} {
				if doc.runs(program) {
					suite.Program(t, skip, program)
				}
			}
			s := startForDocument(t, vaulttest.Options{Metrics: true})
			runDocument(t, doc, doc.steps, &shell{
				dir: suite.Repository(),
				env: append(s.CLIEnv(), withVault(t, plainEnv(t))...),
				instead: map[string]string{
					"/var/log/vault/audit.log": filepath.Join(t.TempDir(), "audit.log"),
					"/etc/tokenwatch":          t.TempDir(),
					"/var/lib/tokenwatch":      t.TempDir(),
					"/run/tokenwatch":          t.TempDir(),
					"127.0.0.1:9468":           suite.FreeAddress(t),
					"127.0.0.1:8250":           suite.FreeAddress(t),
				},
			}, s)
		})
	}
}

// production is the section of the README that is for a server which has
// neither the plugin nor the engine.
const production = "Install in production"

func testReadme(t *testing.T, doc *document) {
	env := cloneable(t, plainEnv(t))
	byHand, install := partition(doc.steps, func(s *step) bool { return s.section != production })
	if len(install) == 0 {
		t.Fatalf("README.md has no section %q with commands", production)
	}
	runDocument(t, doc, byHand, &shell{
		dir: t.TempDir(),
		env: env,
		instead: map[string]string{
			"make dev":  "docs_dev",
			"make test": "make -n test", // the documents are tested by it
		},
	}, nil)

	dir := clone(t, env)
	s, pluginDir := startBare(t)
	runDocument(t, doc, install, &shell{
		dir: dir,
		env: append(s.CLIEnv(), withVault(t, env)...),
		instead: map[string]string{
			"https://vault.example.com:8200": s.Addr,
			"/opt/vault/tls/ca.pem":          s.CAFile,
			"/opt/vault/plugins":             pluginDir,
			"/var/log/vault/audit.log":       filepath.Join(t.TempDir(), "audit.log"),
		},
	}, s)
}

// runDocument runs steps of a document, all of them or those of some sections.
// No token that they print may be found in the server's log.
func runDocument(t *testing.T, doc *document, steps []*step, sh *shell, s *vaulttest.Server) {
	t.Helper()
	used := map[string]bool{}
	printed, err := sh.run(suite.Deadline(t, 10*time.Minute), doc.name, steps, used)
	if err != nil {
		t.Fatal(err)
	}
	for from := range sh.instead {
		if !used[from] && doc.name == "README.md" {
			t.Errorf("%s does not say %q any more, which the test puts something else for", doc.name, from)
		}
	}
	secrets := &vaulttest.Secrets{}
	for i, step := range steps {
		for _, token := range issuedTokens.FindAllString(printed[i], -1) {
			secrets.Add(token, "a token printed at "+doc.name)
		}
		if step.answer == nil {
			continue
		}
		problem := step.answer.compare(printed[i])
		switch {
		case problem != "" && *updateDocs:
			doc.update(step, step.answer.rewritten(printed[i]))
		case problem != "":
			t.Errorf("%s:%d: %s", doc.name, step.line, problem)
		}
	}
	if *updateDocs {
		if err := doc.write(); err != nil {
			t.Fatal(err)
		}
	}
	if s == nil {
		return
	}
	found, err := secrets.Find(s.LogFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, where := range found {
		t.Errorf("%s, %s", s.LogFile, where)
	}
}

var issuedTokens = regexp.MustCompile(`\beyJ[\w-]+\.[\w-]+\.[\w-]+|\b[a-z0-9_]+_[0-9A-Za-z]{71}\b`)

// startForDocument runs a Vault over TLS with the engine at tokens/.
func startForDocument(t *testing.T, opts vaulttest.Options) *vaulttest.Server {
	t.Helper()
	vault, plugin := vaulttest.Binaries(t)
	opts.Vault, opts.TLS = vault, true
	if opts.Plugin == nil {
		opts.Plugin = plugin
	}
	s, err := vaulttest.Start(suite.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// startBare runs a Vault with a plugin directory that is still empty, and an
// empty catalog.
func startBare(t *testing.T) (s *vaulttest.Server, pluginDir string) {
	t.Helper()
	_, plugin := vaulttest.Binaries(t)
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, vaulttest.PluginName)
	if err := os.Link(filepath.Join(plugin.Dir, vaulttest.PluginName), binary); err != nil {
		t.Fatal(err)
	}
	s = startForDocument(t, vaulttest.Options{Raft: true, Plugin: &vaulttest.Plugin{Dir: dir, SHA256: plugin.SHA256}})
	for _, path := range []string{"sys/mounts/" + vaulttest.MountPath, "sys/plugins/catalog/secret/" + vaulttest.PluginName} {
		if _, err := s.Root().Must(suite.Context(), "DELETE", path, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(binary); err != nil {
		t.Fatal(err)
	}
	return s, dir
}

// TestDocumentsNameWhatExists holds what the documents say in passing: links
// lead somewhere, commands in a sentence are run in a block of some document,
// and a make target exists.
func TestDocumentsNameWhatExists(t *testing.T) {
	var docs []*document
	var commands []string
	for _, name := range documentNames(t) {
		doc, err := readDocument(name)
		if err != nil {
			t.Fatal(err)
		}
		docs = append(docs, doc)
		for _, s := range doc.steps {
			commands = append(commands, strings.Split(s.command, "\n")...)
		}
	}
	makefile := suite.Read(t, "Makefile")
	isCommand := regexp.MustCompile(`^(vault|curl|make|scripts/\S+|git|go) \S`)
	for _, doc := range docs {
		for line, spans := range doc.spans() {
			for _, span := range spans {
				target, isMake := strings.CutPrefix(span, "make ")
				switch {
				case isMake && regexp.MustCompile(`(?m)^`+regexp.QuoteMeta(target)+`:`).MatchString(makefile):
				case isCommand.MatchString(span) && !slices.ContainsFunc(commands, func(c string) bool { return strings.Contains(c, span) }):
					t.Errorf("%s:%d: `%s` is run in no block", doc.name, line, span)
				}
			}
		}
		for _, l := range doc.links() {
			file := doc.name
			if l.file != "" {
				file = filepath.Join(filepath.Dir(doc.name), l.file)
			}
			if _, err := os.Stat(filepath.Join(suite.Repository(), file)); err != nil {
				t.Errorf("%s:%d: the link leads nowhere: %v", doc.name, l.line, err)
			} else if l.anchor != "" && !anchors(suite.Read(t, file))[l.anchor] {
				t.Errorf("%s:%d: %s has no heading #%s", doc.name, l.line, file, l.anchor)
			}
		}
	}
}

func documentNames(t *testing.T) []string {
	t.Helper()
	names := []string{"README.md"}
	found, err := filepath.Glob(filepath.Join(suite.Repository(), "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range found {
		names = append(names, "docs/"+filepath.Base(path))
	}
	if len(found) == 0 {
		t.Fatal("no documents in docs/")
	}
	return names
}

func partition(steps []*step, in func(*step) bool) (yes, no []*step) {
	for _, s := range steps {
		if in(s) {
			yes = append(yes, s)
		} else {
			no = append(no, s)
		}
	}
	return yes, no
}
