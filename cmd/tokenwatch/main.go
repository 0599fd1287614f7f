// Command tokenwatch reads Vault's audit log and raises alerts about the tokens
// engine.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
)

const version = "v0.1.0"

const usage = `tokenwatch reads Vault's audit log and raises alerts about the tokens engine:
stolen, guessed and revoked tokens in use, refused requests, changes that widen
permissions, and a log that has gone quiet.

usage: tokenwatch [follow] [flags]      follow the log and raise alerts
       tokenwatch replay [flags] FILE…  raise alerts for existing logs; - is standard input
       tokenwatch report [flags] FILE…  summarize what happened, as text, JSON or HTML
       tokenwatch check [flags]         check the configuration file
       tokenwatch rules [flags]         list the rules, what they mean and their settings
       tokenwatch version

tokenwatch COMMAND --help lists the flags of a command.
`

// errUsage is an error that has already been printed.
var errUsage = errors.New("usage")

// The heap may grow to three times what is in use, which makes reading a log a
// tenth faster, up to a total that a small machine can spare.
const (
	garbagePercent = 200
	memoryLimit    = 150 << 20
)

func main() {
	if os.Getenv("GOGC") == "" && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetGCPercent(garbagePercent)
		debug.SetMemoryLimit(memoryLimit)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout)
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "tokenwatch:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	command := "follow"
	if len(args) > 0 && args[0] != "" && args[0][0] != '-' {
		command, args = args[0], args[1:]
	} else if len(args) > 0 && (args[0] == "-h" || args[0] == "-help" || args[0] == "--help") {
		command = "help"
	}
	switch command {
	case "follow":
		return follow(ctx, args, stdout)
	case "replay":
		return replay(ctx, args, stdout)
	case "report":
		return summarize(ctx, args, stdout)
	case "check":
		return check(args, stdout)
	case "rules":
		return listRules(args, stdout)
	case "version":
		fmt.Fprintln(stdout, "tokenwatch", version)
		return nil
	case "help":
		fmt.Fprint(stdout, usage)
		return nil
	}
	fmt.Fprintf(os.Stderr, "tokenwatch: unknown command %q\n\n%s", command, usage)
	return errUsage
}

// flags returns a flag set with the usage of a command.
func flags(name, synopsis string) *flag.FlagSet {
	set := flag.NewFlagSet("tokenwatch "+name, flag.ContinueOnError)
	set.Usage = func() {
		fmt.Fprintf(set.Output(), "usage: tokenwatch %s %s\n\nflags:\n", name, synopsis)
		set.PrintDefaults()
	}
	return set
}

func parse(set *flag.FlagSet, args []string) error {
	switch err := set.Parse(args); {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return err
	}
	return errUsage // the flag package has printed why
}

// misused prints what is wrong with the arguments.
func misused(set *flag.FlagSet, problem string) error {
	fmt.Fprintf(set.Output(), "%s: %s\n\n", set.Name(), problem)
	set.Usage()
	return errUsage
}

func logger() *slog.Logger { return slog.New(slog.NewTextHandler(os.Stderr, nil)) }
