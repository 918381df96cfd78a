package house

import (
	"encoding/json"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Each module that go.mod names as our own choice has a line in docs/dependencies.md that says why, and each line is for one that is
// still there.
func TestDependenciesHaveReasons(t *testing.T) {
	cmd := exec.Command("go", "mod", "edit", "-json")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var mod struct {
		Require []struct {
			Path     string
			Indirect bool
		}
		Tool []struct{ Path string } // which is built from its module: runc
	}
	if err := json.Unmarshal(out, &mod); err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile("../../docs/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	var direct []string
	for _, m := range mod.Require {
		if !m.Indirect {
			direct = append(direct, m.Path)
		}
	}
	for _, tool := range mod.Tool {
		direct = append(direct, tool.Path)
	}
	explained := modulesOf(string(doc))
	for _, name := range direct {
		if !slices.Contains(explained, name) {
			t.Errorf("go.mod requires %s, and docs/dependencies.md does not say why", name)
		}
	}
	for _, name := range explained {
		if !slices.Contains(direct, name) {
			t.Errorf("docs/dependencies.md has a line for %s, which go.mod does not require", name)
		}
	}
}

// Who goes by the column "used by" misses nobody who imports the module, and is sent nowhere for nothing.
func TestDependenciesAreUsedWhereItIsSaid(t *testing.T) {
	doc, err := os.ReadFile("../../docs/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	pkgs := list(t)
	for line := range strings.Lines(string(doc)) {
		modules := modulesOf(line)
		if len(modules) == 0 {
			continue
		}
		cell := strings.Split(line, "|")[2]
		if strings.Contains(cell, "everywhere") {
			continue
		}
		var folders []string
		for _, word := range strings.FieldsFunc(cell, func(r rune) bool { return strings.ContainsRune(" ,;'", r) }) {
			if _, err := os.Stat(filepath.Join("../..", word)); err == nil {
				folders = append(folders, word)
			}
		}
		for _, p := range pkgs {
			if uses(p, modules) && !within(p.path(), folders) {
				t.Errorf("docs/dependencies.md says that %v is used by%s, and %s imports it", modules, cell, p.path())
			}
		}
		for _, folder := range folders {
			if !slices.ContainsFunc(pkgs, func(p pkg) bool { return within(p.path(), []string{folder}) && names(t, p, modules) }) {
				t.Errorf("docs/dependencies.md says that %v is used by %s, where nothing names it", modules, folder)
			}
		}
	}
}

// uses tells whether a package imports one of the modules.
func uses(p pkg, modules []string) bool {
	return slices.ContainsFunc(p.Imports, func(imp string) bool { return within(imp, modules) })
}

// names tells whether a file of the package names one of the modules: a test, or a generator that reads its files, does not import it.
func names(t *testing.T, p pkg, modules []string) bool {
	for _, f := range slices.Concat(p.GoFiles, p.CgoFiles, p.TestGoFiles, p.XTestGoFiles) {
		data, err := os.ReadFile(filepath.Join(p.Dir, f))
		if err != nil {
			t.Fatal(err)
		}
		if slices.ContainsFunc(modules, func(m string) bool { return strings.Contains(string(data), `"`+m) }) {
			return true
		}
	}
	return false
}

var quoted = regexp.MustCompile("`([^`]+)`")

// modulesOf are those in the first column of the table. Behind one, its neighbours are named by their last part.
func modulesOf(doc string) (names []string) {
	for line := range strings.Lines(doc) {
		cells := strings.Split(line, "|")
		if len(cells) < 3 {
			continue
		}
		first := ""
		for _, m := range quoted.FindAllStringSubmatch(cells[1], -1) {
			name := m[1]
			if first == "" {
				first = name
			}
			if !strings.Contains(name, "/") {
				name = path.Join(path.Dir(first), name)
			}
			names = append(names, name)
		}
	}
	return names
}
