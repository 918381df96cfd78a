// Command conformance keeps the list of upstream's conformance specs and what passes of them: it merges JUnit reports
// into a results file and writes docs/conformance.md from it. A spec that a run did not touch keeps its last result.
//
//	go run ./test/conformance --suite conformance.yaml --junit report/ --results test/conformance/results.json --out docs/conformance.md
//
// Without a suite it only says what passed in the reports.
package main

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"

	"sigs.k8s.io/yaml"
)

// results: spec -> "passed" or "failed". What is not there was not run.
type results map[string]string

func main() {
	suite := flag.String("suite", "", "upstream's conformance.yaml: the specs; empty: any, and nothing is kept")
	junit := flag.String("junit", "", "folder with JUnit reports to merge")
	file := flag.String("results", "test/conformance/results.json", "file that keeps the results")
	out := flag.String("out", "docs/conformance.md", "page to write")
	flag.Parse()
	act := func() error { return run(*suite, *junit, *file, *out) }
	if *suite == "" {
		act = func() error { return say(*junit) }
	}
	if err := act(); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

func run(suite, junit, file, out string) error {
	specs, err := readSuite(suite)
	if err != nil {
		return err
	}
	known, err := readResults(file)
	if err != nil {
		return err
	}
	if junit != "" {
		now, err := readReports(junit)
		if err != nil {
			return err
		}
		passed, failed := merge(known, specs, now)
		for _, f := range failed {
			fmt.Println("FAILED", f)
		}
		fmt.Printf("%d passed, %d failed\n", passed, len(failed))
	}
	for spec := range known { // upstream renames and drops specs
		if !contains(specs, spec) {
			delete(known, spec)
		}
	}
	data, err := json.MarshalIndent(known, "", " ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, append(data, '\n'), 0o644); err != nil {
		return err
	}
	return os.WriteFile(out, []byte(page(specs, known)), 0o644)
}

// say prints the specs of a report that failed, and how many passed.
func say(junit string) error {
	ran, err := readReports(junit)
	if err != nil {
		return err
	}
	var failed []string
	for spec, outcome := range ran {
		if outcome != "passed" {
			failed = append(failed, spec)
		}
	}
	sort.Strings(failed)
	for _, f := range failed {
		fmt.Println("FAILED", f)
	}
	fmt.Printf("%d passed, %d failed\n", len(ran)-len(failed), len(failed))
	return nil
}

// readSuite lists the specs by their code names, sorted.
func readSuite(path string) ([]string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the suite: %w", err)
	}
	var entries []struct {
		Codename string `json:"codename"`
	}
	if err := yaml.Unmarshal(data, &entries); err != nil {
		return nil, fmt.Errorf("suite %s: %w", path, err)
	}
	var specs []string
	for _, e := range entries {
		specs = append(specs, strings.Join(strings.Fields(e.Codename), " "))
	}
	sort.Strings(specs)
	return specs, nil
}

func readResults(path string) (results, error) {
	known := results{}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return known, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the results: %w", err)
	}
	return known, json.Unmarshal(data, &known)
}

// testcase of a JUnit report, as Ginkgo writes it: name "[It] [sig-x] ... [Conformance] [sig-x, Conformance]".
type testcase struct {
	Name   string `xml:"name,attr"`
	Status string `xml:"status,attr"`
}

var labels = regexp.MustCompile(`( \[[^\[\]]*\])?$`)

// readReports gives the outcome of each spec that ran: its name and labels -> passed or failed.
func readReports(dir string) (results, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.xml"))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("no JUnit report in %s: the suite did not come to its end", dir)
	}
	ran := results{}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			return nil, fmt.Errorf("read a report: %w", err)
		}
		var doc struct {
			Suites []struct {
				Cases []testcase `xml:"testcase"`
			} `xml:"testsuite"`
		}
		if err := xml.Unmarshal(data, &doc); err != nil {
			return nil, fmt.Errorf("report %s: %w", f, err)
		}
		for _, s := range doc.Suites {
			for _, c := range s.Cases {
				note(ran, c)
			}
		}
	}
	return ran, nil
}

func note(ran results, c testcase) {
	name, isSpec := strings.CutPrefix(c.Name, "[It] ")
	if !isSpec || c.Status == "skipped" || c.Status == "pending" {
		return
	}
	name = strings.Join(strings.Fields(name), " ")
	outcome := "failed"
	if c.Status == "passed" {
		outcome = "passed"
	}
	ran[name] = outcome
}

// merge takes over what ran, and returns how much passed and what failed.
func merge(known results, specs []string, ran results) (passed int, failed []string) {
	outcomes := results{}
	for name, outcome := range ran {
		outcomes[name] = outcome
		outcomes[labels.ReplaceAllString(name, "")] = outcome
	}
	for _, spec := range specs {
		outcome, there := outcomes[spec]
		if !there {
			continue
		}
		known[spec] = outcome
		if outcome == "passed" {
			passed++
		} else {
			failed = append(failed, spec)
		}
	}
	return passed, failed
}

func contains(sorted []string, s string) bool {
	i := sort.SearchStrings(sorted, s)
	return i < len(sorted) && sorted[i] == s
}

var sig = regexp.MustCompile(`^\[(sig-[a-z-]+)\] `)

// page is docs/conformance.md.
func page(specs []string, known results) string {
	groups := map[string][]string{}
	total := map[string]int{}
	for _, s := range specs {
		g := "other"
		if m := sig.FindStringSubmatch(s); m != nil {
			g = m[1]
		}
		groups[g] = append(groups[g], s)
		total[outcome(known, s)]++
	}
	var names []string
	for g := range groups {
		names = append(names, g)
	}
	sort.Strings(names)

	var b strings.Builder
	b.WriteString("# Upstream's conformance specs\n\n")
	b.WriteString("Generated by `scripts/conformance [FOCUS]`, which runs upstream's own end-to-end suite against three hosts. Do not edit.\n\n")
	fmt.Fprintf(&b, "Of %d specs, at their last run: **%d passed**, %d failed; %d have not been run.\n\n", len(specs), total["passed"], total["failed"], total["not run"])
	b.WriteString("| group | specs | passed | failed | not run |\n|---|---|---|---|---|\n")
	for _, g := range names {
		count := map[string]int{}
		for _, s := range groups[g] {
			count[outcome(known, s)]++
		}
		fmt.Fprintf(&b, "| %s | %d | %d | %d | %d |\n", g, len(groups[g]), count["passed"], count["failed"], count["not run"])
	}
	for _, g := range names {
		fmt.Fprintf(&b, "\n## %s\n\n", g)
		for _, s := range groups[g] {
			short := strings.TrimSuffix(strings.TrimPrefix(s, "["+g+"] "), " [Conformance]")
			fmt.Fprintf(&b, "- %s: %s\n", outcome(known, s), short)
		}
	}
	return b.String()
}

func outcome(known results, spec string) string {
	if o, there := known[spec]; there {
		return o
	}
	return "not run"
}
