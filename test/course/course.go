// Package course walks through the Kubernetes course that Bramble started from, chapter by chapter, on a running cluster: each of its
// manifests is applied as it is, and what the slides say must be seen. The walk is a program for people (scripts/course) and a
// test (test/e2e).
//
// Invariant: a step passes only if what the cluster showed matches what the course says; nothing is repaired on the way, and a step
// that failed does not stop the walk.
//
//	table, err := course.Walk(ctx, course.Options{Cluster: c, Manifests: dir, OldKubectl: path, Out: os.Stdout})
package course

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"bramble.dev/test/hosts"
)

// Options say where the walk goes.
type Options struct {
	Cluster    *hosts.Cluster // three hosts
	Manifests  string         // folder of the course's 13 manifests
	Images     string         // folder of the archives that scripts/images makes
	Mirror     *Mirror        // that the cluster's agents ask
	OldKubectl string         // Debian's kubectl 1.20
	Out        io.Writer      // what a reader of the walk sees
}

// Row is one line of the table at the end.
type Row struct {
	Chapter string
	Says    string // what the slides say
	Err     error  // nil: it was seen
	Took    time.Duration
}

// step is one statement of the course and what proves it.
type step struct {
	says string
	do   []action
}

// chapter of the course, under the name that its slides have.
type chapter struct {
	name  string
	steps []step
}

// chapters in the order of the slides. The CronJob is made in its chapter and looked at in the last: it takes up to a minute.
var chapters = []chapter{
	architecture, pods, replicaSets, deployments, statefulSets, daemonSets, jobs, configuration, secrets,
	services, storage, network, features, troubleshooting, later,
}

// walk is one walk under way.
type walk struct {
	Options
	ctx context.Context
}

// Walk goes through all chapters and prints the table. The error names the steps that failed.
func Walk(ctx context.Context, o Options) ([]Row, error) {
	w := &walk{o, ctx}
	var rows []Row
	var failed []error
	for _, c := range chapters {
		fmt.Fprintf(o.Out, "\n== %s\n", c.name)
		for _, s := range c.steps {
			fmt.Fprintf(o.Out, "\n-- %s\n", s.says)
			start := time.Now()
			err := w.do(s.do)
			rows = append(rows, Row{c.name, s.says, err, time.Since(start)})
			if err != nil {
				fmt.Fprintf(o.Out, "   FAILED: %v\n", err)
				failed = append(failed, fmt.Errorf("%s: %s: %w", c.name, s.says, err))
			}
			if ctx.Err() != nil {
				return rows, errors.Join(append(failed, ctx.Err())...)
			}
		}
	}
	printTable(o.Out, rows)
	return rows, errors.Join(failed...)
}

func printTable(out io.Writer, rows []Row) {
	fmt.Fprintln(out)
	seen := 0
	for _, r := range rows {
		result := "seen"
		if r.Err != nil {
			result = "FAILED"
		} else {
			seen++
		}
		fmt.Fprintf(out, "%-6s  %5.1f s  %-18s %s\n", result, r.Took.Seconds(), r.Chapter, r.Says)
	}
	fmt.Fprintf(out, "\n%d of %d statements of the course were seen\n", seen, len(rows))
}

// patience with a cluster on a machine that does other things too.
const patience = 90 * time.Second

// do takes actions in turn; the first that fails ends them.
func (w *walk) do(actions []action) error {
	for _, a := range actions {
		if err := a(w); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) run(program, name, stdin, args string, want []string) error {
	out, err := w.Cluster.KubectlWith(w.ctx, program, stdin, w.words(args)...)
	if err != nil {
		w.show(name, args, err.Error())
		return err
	}
	w.show(name, args, out)
	return match(out, want)
}

// output is what a command prints, for a step that goes on with it; it is not shown.
func (w *walk) output(args string) (string, error) {
	out, err := w.Cluster.KubectlWith(w.ctx, w.Cluster.Program("kubectl"), "", w.words(args)...)
	return strings.TrimSpace(out), err
}

func (w *walk) show(program, args, out string) {
	fmt.Fprintf(w.Out, "   $ %s %s\n%s\n", program, args, indent(head(strings.TrimSpace(out), 16)))
}

// words splits a command's arguments; a name of a manifest becomes its path, and '...' is one word.
func (w *walk) words(args string) []string {
	out := words(args)
	for i, a := range out {
		if manifestName.MatchString(a) {
			out[i] = filepath.Join(w.Manifests, a)
		}
	}
	return out
}

var manifestName = regexp.MustCompile(`^[01][0-9]-[a-z-]+\.yaml$`)

func words(args string) []string {
	var out []string
	for i, part := range strings.Split(args, "'") {
		if i%2 == 1 {
			out = append(out, part)
		} else {
			out = append(out, strings.Fields(part)...)
		}
	}
	return out
}

// match wants each pattern in the text; one that begins with "!" must not be there.
func match(text string, want []string) error {
	for _, p := range want {
		pattern, not := strings.CutPrefix(p, "!")
		if regexp.MustCompile(`(?s)`+pattern).MatchString(text) == not {
			return fmt.Errorf("%q was wanted in: %s", p, head(strings.TrimSpace(text), 20))
		}
	}
	return nil
}

func indent(s string) string { return "     " + strings.ReplaceAll(s, "\n", "\n     ") }

func head(s string, lines int) string {
	all := strings.Split(s, "\n")
	if len(all) <= lines {
		return s
	}
	return strings.Join(all[:lines], "\n") + fmt.Sprintf("\n... (%d lines more)", len(all)-lines)
}
