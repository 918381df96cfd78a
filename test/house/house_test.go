// Package house holds the rules of the house: which folder may import which, what only one package may use, that
// every package says what it is for. The rules are those of docs/architecture.md; a change of theirs is a change here.
//
//	go test ./test/house
package house

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

const module = "bramble.dev/"

// pkg is what `go list` says of a package.
type pkg struct {
	ImportPath   string
	Dir          string
	Name         string
	GoFiles      []string
	CgoFiles     []string
	TestGoFiles  []string
	XTestGoFiles []string
	Imports      []string
	Deps         []string
}

// folder is the first part of the package's path within the module: "server" of bramble.dev/server/store.
func (p pkg) folder() string {
	first, _, _ := strings.Cut(p.path(), "/")
	return first
}

func (p pkg) path() string { return strings.TrimPrefix(p.ImportPath, module) }

// all are the packages of this module, listed once.
var all = sync.OnceValues(func() ([]pkg, error) { return goList("./...") })

func list(t *testing.T, args ...string) []pkg {
	t.Helper()
	pkgs, err := all()
	if len(args) > 0 {
		pkgs, err = goList(args...)
	}
	if err != nil {
		t.Fatal(err)
	}
	return pkgs
}

// goList does not mind a package that does not build (-e): that is for the build to say.
func goList(args ...string) ([]pkg, error) {
	cmd := exec.Command("go", append([]string{"list", "-e", "-json=ImportPath,Dir,Name,GoFiles,CgoFiles,TestGoFiles,XTestGoFiles,Imports,Deps"}, args...)...)
	cmd.Dir = "../.."
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w: %s", err, errs.String())
	}
	var pkgs []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs, nil
		} else if err != nil {
			return nil, err
		}
		pkgs = append(pkgs, p)
	}
}

// mayImport: folder -> other folders of the module that its packages may import. cmd and test may import all, and all may
// import internal, which imports nobody.
var mayImport = map[string][]string{
	"server":   {"link", "internal"},
	"agent":    {"link", "runtime", "mesh", "storage", "internal"},
	"runtime":  {"internal"},
	"mesh":     {"internal"},
	"storage":  {"internal"},
	"link":     {"internal"},
	"internal": nil,
}

func TestImportsPointDown(t *testing.T) {
	for _, p := range list(t) {
		allowed, bound := mayImport[p.folder()]
		if !bound {
			continue
		}
		for _, imp := range p.Imports {
			target := pkg{ImportPath: imp}.folder()
			if strings.HasPrefix(imp, module) && target != p.folder() && !slices.Contains(allowed, target) {
				t.Errorf("%s imports %s: %s may import only %v of the other folders", p.path(), imp, p.folder(), allowed)
			}
		}
	}
}

// parts: what the parts of server/ may import of it and of link, by the longest path that fits. What lies below a part belongs to
// it. The wiring, in server/ itself, may import all.
var parts = map[string][]string{
	"server/store":               nil,
	"server/store/etcd":          {"server/store"},
	"server/auth":                nil,
	"server/ondemand":            {"server/store"},
	"server/admission":           {"server/store", "server/ondemand"},
	"server/api":                 {"server/store", "server/auth", "server/admission", "link"},
	"server/api/aggregator":      {"server/store", "server/ondemand", "server/api/informer", "server/api/openapi"},
	"server/api/customresources": {"server/store", "server/ondemand", "server/api/informer", "server/api/openapi"},
	"server/api/audit":           nil,
	"server/api/fairness":        nil,
	"server/api/openid":          nil,
	"server/api/resourcemetrics": {"link"},
	"server/api/informer":        {"server/store"},
	"server/api/fields":          nil,
	"server/api/openapi":         nil,
	"server/api/spelling":        nil,
	"server/cache":               nil,
	"server/cache/cachetest":     {"server/cache", "server/controllers/pods"}, // for tests alone
	"server/controllers":         {"server/cache", "link"},
	"server/scheduler":           {"server/cache", "server/controllers", "link"},
	"server/dispatch":            {"server/cache", "server/broker", "link"},
	"server/broker":              {"link"},
}

func TestPartsOfTheServer(t *testing.T) {
	for _, p := range list(t) {
		if p.folder() != "server" || p.path() == "server" {
			continue
		}
		part := p.path()
		for _, known := parts[part]; !known && part != "."; _, known = parts[part] {
			part = filepath.Dir(part)
		}
		allowed, known := parts[part]
		if !known {
			t.Errorf("%s: nobody says what it may import: a new part of the server is a change of docs/architecture.md", p.path())
		}
		for _, imp := range p.Imports {
			target := strings.TrimPrefix(imp, module)
			if within(target, []string{"server", "link"}) && strings.HasPrefix(imp, module) && !within(target, append(allowed, part)) {
				t.Errorf("%s imports %s: %s may import only %v", p.path(), target, part, allowed)
			}
		}
	}
}

// What everybody may import brings nothing along, and is not where things go that have no place: each package is named here.
func TestInternalIsLeaves(t *testing.T) {
	leaves := []string{"internal/durable", "internal/golden", "internal/lockfile", "internal/mountinfo", "internal/upstream"}
	for _, p := range list(t, "./internal/...") {
		if !slices.Contains(leaves, p.path()) {
			t.Errorf("%s: internal holds %v; a new one is a change of docs/architecture.md", p.path(), leaves)
		}
		for _, imp := range p.Imports {
			if first, _, _ := strings.Cut(imp, "/"); strings.Contains(first, ".") {
				t.Errorf("%s imports %s: it may import only the standard library", p.path(), imp)
			}
		}
	}
}

// only: what matches may be imported by the packages named (and those below them) alone. Tests' own imports are free.
var only = []struct {
	what *regexp.Regexp
	by   []string
	why  string
}{
	{regexp.MustCompile(`^(database/sql|github\.com/mattn/go-sqlite3)`), []string{"server/store", "agent/state"}, "only a store contains SQL"},
	{regexp.MustCompile(`^github\.com/(eclipse/paho|mochi-mqtt)`), []string{"link", "server/broker", "agent/uplink"}, "only the link knows MQTT"},
	{regexp.MustCompile(`^k8s\.io/(kubernetes|apiextensions-apiserver|kube-aggregator)(/|$)`), []string{"server/api", "server/admission"}, "upstream's registries stay in server/api, its admission plugins in server/admission below it"},
	{regexp.MustCompile(`^k8s\.io/apiserver/`), []string{"server/api", "server/auth", "server/admission", "server/store"}, "upstream's API machinery stays in server/api; the store implements its storage interface"},
	{regexp.MustCompile(`^k8s\.io/apiserver/pkg/(server|endpoints|admission|registry)(/|$)`), []string{"server/api", "server/auth", "server/admission"}, "the store knows no more of k8s.io/apiserver than its storage"},
	{regexp.MustCompile(`^(go\.etcd\.io/|k8s\.io/apiserver/pkg/storage/etcd3)`), []string{"server/store/etcd"}, "only one store knows etcd"},
	{regexp.MustCompile(`^github\.com/vishvananda/|^github\.com/google/nftables`), []string{"mesh", "agent/check", "runtime", "test"}, "the kernel's network belongs to the mesh"},
}

func TestOneOwnerEach(t *testing.T) {
	for _, p := range list(t) {
		if p.folder() == "test" {
			continue
		}
		for _, imp := range p.Imports {
			for _, rule := range only {
				if rule.what.MatchString(imp) && !within(p.path(), rule.by) {
					t.Errorf("%s imports %s, which only %v may: %s", p.path(), imp, rule.by, rule.why)
				}
			}
		}
	}
}

func within(path string, folders []string) bool {
	return slices.ContainsFunc(folders, func(f string) bool { return path == f || strings.HasPrefix(path, f+"/") })
}

// The agent's budget (24 MiB resident, see scripts/bench) leaves no room for these, however they are reached.
func TestTheAgentStaysSmall(t *testing.T) {
	heavy := regexp.MustCompile(`^(k8s\.io/(kubernetes|apiserver|apiextensions-apiserver|client-go|kubectl)|github\.com/distribution/reference)(/|$)`)
	for _, p := range list(t, "./cmd/bramble-agent") {
		for _, dep := range p.Deps {
			if heavy.MatchString(dep) {
				t.Errorf("bramble-agent links %s", dep)
			}
		}
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	for _, p := range list(t) {
		files := slices.Concat(p.GoFiles, p.CgoFiles)
		if len(files) == 0 {
			files = slices.Concat(p.TestGoFiles, p.XTestGoFiles)
		}
		var commented []string
		for _, f := range files {
			file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, f), nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Errorf("%s: %v", f, err)
				continue
			}
			if file.Doc != nil && len(strings.TrimSpace(file.Doc.Text())) > 0 {
				commented = append(commented, f)
			}
		}
		if len(commented) != 1 {
			t.Errorf("%s: %d package comments (%v), want one: purpose, invariant, a short example", p.path(), len(commented), commented)
		}
	}
}

// Whoever changes a package that has no tests of its own is told which tests hold it: a line of its comment names their folders or files.
func TestPackagesWithoutTestsSayWhereTheyAre(t *testing.T) {
	linked := map[string]bool{}
	for _, p := range list(t, "./cmd/...") {
		for _, dep := range p.Deps {
			linked[dep] = true
		}
	}
	for _, p := range list(t) {
		if !linked[p.ImportPath] || p.folder() == "cmd" {
			continue
		}
		_, doc, err := declarationsOf(p)
		if err != nil {
			t.Error(err)
			continue
		}
		_, rest, said := strings.Cut(doc, "\nTests: ")
		if len(p.TestGoFiles)+len(p.XTestGoFiles) == 0 && !said {
			t.Errorf("%s has no tests, and its comment no line \"Tests: \" with the folders or files where they are", p.path())
		}
		line, _, _ := strings.Cut(rest, "\n")
		for _, word := range strings.FieldsFunc(line, func(r rune) bool { return strings.ContainsRune(" ,;()", r) }) {
			if !strings.Contains(word, "/") {
				continue
			}
			if _, err := os.Stat(filepath.Join("../..", word)); err != nil {
				t.Errorf("%s: its comment says that its tests are in %s, which is not there", p.path(), word)
			}
		}
	}
}

// The name runtime is the standard library's: a file there would make every reader look twice.
func TestNoGoFileInRuntime(t *testing.T) {
	if files, _ := filepath.Glob("../../runtime/*.go"); len(files) > 0 {
		t.Errorf("Go files in runtime/ itself: %v", files)
	}
}

// Names that say nothing collect what nobody owns.
func TestNoDrawerForEverything(t *testing.T) {
	for _, p := range list(t) {
		if slices.Contains([]string{"util", "utils", "common", "helpers", "misc", "shared"}, p.Name) {
			t.Errorf("%s: name the package after its concept", p.path())
		}
	}
}

// One key for each thing, so that one search finds it in every log.
func TestErrorsAreLoggedAsErr(t *testing.T) {
	other := regexp.MustCompile(`(?i)log(ger)?\.(Debug|Info|Warn|Error|Log)\(.*"(error|e|cause)", `)
	for _, p := range list(t) {
		for _, f := range p.GoFiles {
			data, err := os.ReadFile(filepath.Join(p.Dir, f))
			if err != nil {
				t.Fatal(err)
			}
			for _, line := range other.FindAllString(string(data), -1) {
				t.Errorf("%s/%s: the key of an error is \"err\": %s", p.path(), f, line)
			}
		}
	}
}

func TestScriptsAreDocumented(t *testing.T) {
	files, _ := filepath.Glob("../../scripts/*")
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Error(err)
			continue
		}
		lines := strings.SplitN(string(data), "\n", 3)
		if strings.HasSuffix(f, ".sh") { // sourced, no first line
			continue
		}
		if len(lines) < 3 || !strings.HasPrefix(lines[0], "#!") || !strings.HasPrefix(lines[1], "# ") {
			t.Errorf("%s: want an interpreter line and then a comment that says what it does", f)
		}
	}
}
