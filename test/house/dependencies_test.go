package house

import (
	"encoding/json"
	"os"
	"os/exec"
	"path"
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
