package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/config"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/rules"
)

func check(args []string, stdout io.Writer) error {
	set := flags("check", "-config FILE\n\nReads the configuration file and the files it names, and reports what is wrong.")
	configFile := set.String("config", "", "configuration `FILE`")
	if err := parse(set, args); err != nil {
		return err
	}
	if *configFile == "" || set.NArg() > 0 {
		return misused(set, "-config is required")
	}
	c, err := config.Load(*configFile)
	if err != nil {
		return err
	}
	opts, release, err := c.MonitorOptions(logger())
	if err != nil {
		return err
	}
	defer release()
	names := make([]string, len(opts.Rules))
	for i, r := range opts.Rules {
		names[i] = r.Name()
	}
	fmt.Fprintf(stdout, "%s is valid. Rules: %s.\n", *configFile, strings.Join(names, ", "))
	if c.State == "" && c.Source.File != "" {
		fmt.Fprintln(stdout, "Note: without state, every start reads the log from the beginning.")
	}
	return nil
}

func listRules(args []string, stdout io.Writer) error {
	set := flags("rules", "[-json]")
	asJSON := set.Bool("json", false, "write JSON")
	if err := parse(set, args); err != nil {
		return err
	}
	if set.NArg() > 0 {
		return misused(set, "unexpected arguments")
	}
	if *asJSON {
		e := json.NewEncoder(stdout)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		return e.Encode(rules.Catalog())
	}
	for _, r := range rules.Catalog() {
		fmt.Fprintf(stdout, "%s (%s)\n  %s\n  Do: %s\n", r.Name, r.Severity, r.Meaning, r.Advice)
		writeSettings(stdout, r.Settings)
		fmt.Fprintln(stdout)
	}
	fmt.Fprintln(stdout, "Every rule also has:")
	writeSettings(stdout, rules.CommonSettings())
	return nil
}

func writeSettings(w io.Writer, settings []rules.Setting) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, s := range settings {
		fmt.Fprintf(tw, "    %s\t%s\t%s\n", s.Name, s.Default, s.Help)
	}
	_ = tw.Flush()
}
