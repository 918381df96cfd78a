package settings

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

func flags() *pflag.FlagSet {
	f := pflag.NewFlagSet("test", pflag.ContinueOnError)
	f.String("config", "", "")
	f.String("data-dir", "/default", "")
	f.Int("replicas", 1, "")
	f.StringSlice("broker", nil, "")
	f.StringToString("label", nil, "")
	return f
}

func TestApply(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.yaml")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		name string
		file string
		args []string
		env  map[string]string
		want string // data-dir replicas broker label
		err  string
	}{
		{name: "defaults", want: "/default 1 [] []"},
		{name: "file", file: "data-dir: /f\nreplicas: 3\nbroker: [mqtts://a, mqtts://b]\nlabel: {site: hut}\n", want: "/f 3 [mqtts://a,mqtts://b] [site=hut]"},
		{name: "environment beats the file", file: "data-dir: /f\n", env: map[string]string{"BRAMBLE_DATA_DIR": "/e"}, want: "/e 1 [] []"},
		{name: "a flag beats both", file: "data-dir: /f\n", env: map[string]string{"BRAMBLE_DATA_DIR": "/e"}, args: []string{"--data-dir=/a"}, want: "/a 1 [] []"},
		{name: "keys of other commands", file: "data-dir: /f\napi-listen: 0.0.0.0:7443\nmax-pods: 5\n", want: "/f 1 [] []"},
		{name: "unknown key", file: "datadir: /f\n", err: `unknown key "datadir"`},
		{name: "wrong type", file: "replicas: many\n", err: `key "replicas"`},
		{name: "wrong type in the environment", env: map[string]string{"BRAMBLE_REPLICAS": "x"}, err: "BRAMBLE_REPLICAS"},
		{name: "not a map", file: "- a\n", err: "not a YAML map"},
		{name: "no value", file: "data-dir:\n", err: "has no value"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			write(tt.file)
			f := flags()
			if err := f.Parse(append(tt.args, "--config="+file)); err != nil {
				t.Fatal(err)
			}
			err := Apply(f, func(k string) (string, bool) { v, ok := tt.env[k]; return v, ok })
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v, want one with %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, n := range []string{"data-dir", "replicas", "broker", "label"} {
				got = append(got, f.Lookup(n).Value.String())
			}
			if s := strings.Join(got, " "); s != tt.want {
				t.Fatalf("got %q, want %q", s, tt.want)
			}
		})
	}
}

func TestMissingFileThatWasNamed(t *testing.T) {
	f := flags()
	if err := f.Parse([]string{"--config=/no/such/file"}); err != nil {
		t.Fatal(err)
	}
	if err := Apply(f, func(string) (string, bool) { return "", false }); err == nil {
		t.Fatal("a named file that is not there is no error")
	}
}

// Whoever reads docs/ finds every setting of the server and of the agent.
func TestSettingsAreDocumented(t *testing.T) {
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, flag := range regexp.MustCompile("--([a-z][a-z-]+)").FindAllSubmatch(text, -1) {
			named[string(flag[1])] = true
		}
	}
	for name := range shared {
		if !named[name] {
			t.Errorf("docs/ says nothing of --%s", name)
		}
	}
}
