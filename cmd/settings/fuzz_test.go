package settings

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzApply: a file is refused with its name, or what it says is what the flags have, and what it leaves out has its default.
func FuzzApply(f *testing.F) {
	for _, text := range []string{
		"", "null", "data-dir: /f\nreplicas: 3\nbroker: [mqtts://a, b]\nlabel: {site: hut}\n", "replicas: 0x10", "replicas: 1e3", "replicas: '3'", "broker: a,b", "broker: [[a]]", "label: a=b", "label: {a: {b: c}}", "label: []", "data-dir: null", "data-dir: [1]",
		"config: /other", "data-dir: a\ndata-dir: b", "1: 2", "? [a]\n: b", "a: &a [*a]", "&a {label: *a}", "broker: ['\"']", "label: ['=']", "\x00", "max-pods: x", "---\n---\n", "{", strings.Repeat("[", 10000), "help: true",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		file := filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		all := flags()
		if err := all.Parse([]string{"--config=" + file}); err != nil {
			t.Fatal(err)
		}
		err := Apply(all, func(string) (string, bool) { return "", false })
		if err != nil {
			if !strings.Contains(err.Error(), file) {
				t.Fatalf("%q is refused without the file's name: %v", text, err)
			}
			return
		}
		again := flags() // what was set is a value that can be given on the command line
		for _, name := range []string{"data-dir", "replicas"} {
			flag := all.Lookup(name)
			if !flag.Changed && flag.Value.String() != flag.DefValue {
				t.Fatalf("%q: %s is %q", text, name, flag.Value)
			}
			if err := again.Set(name, flag.Value.String()); err != nil || again.Lookup(name).Value.String() != flag.Value.String() {
				t.Fatalf("%q: %s is %q, which cannot be given: %v", text, name, flag.Value, err)
			}
		}
		if all.Lookup("config").Value.String() != file {
			t.Fatalf("%q names another file", text)
		}
	})
}
