package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"bramble.dev/cmd/settings"
)

// TestFlagsAreShared: a file that serves server and agent may have every key of the agent's.
func TestFlagsAreShared(t *testing.T) {
	command().Flags().VisitAll(func(f *pflag.Flag) {
		if local := f.Name == "config" || f.Name == "teardown"; !local && !settings.Shared(f.Name) {
			t.Errorf("the flag %s is not in settings' list: a server would refuse a file with it", f.Name)
		}
	})
}

// TestRefusedJoin: what a person got wrong is named, and nothing is made.
func TestRefusedJoin(t *testing.T) {
	token := "bramble1." + strings.Repeat("a", 64) + ".id.secret"
	tests := []struct {
		name string
		args []string
		want string
	}{
		{"no token", []string{"--server", "mqtts://s"}, "bramble token create"},
		{"no server", []string{"--token", token}, "--server mqtts://"},
		{"a server without scheme", []string{"--token", token, "--server", "10.99.0.1:8883"}, "did you mean mqtts://10.99.0.1:8883?"},
		{"not a token", []string{"--token", "secret", "--server", "mqtts://s"}, "bramble1."},
		{"a missing file", []string{"--token-file", "/nope", "--server", "mqtts://s"}, "--token-file: /nope does not exist"},
		{"no pods", []string{"--token", token, "--server", "mqtts://s", "--max-pods", "-3"}, "--max-pods -3: "},
		{"no address", []string{"--token", token, "--server", "mqtts://s", "--node-ip", "eth0"}, "--node-ip \"eth0\": "},
		{"a label that none can have", []string{"--token", token, "--server", "mqtts://s", "--node-label", "a b=c"}, "--node-label a b=c: "},
		{"a label's value", []string{"--token", token, "--server", "mqtts://s", "--node-label", "a=b c"}, "--node-label a=b c: "},
		{"another's label", []string{"--token", token, "--server", "mqtts://s", "--node-label", "node-restriction.kubernetes.io/safe=yes"}, "use kubectl label node"},
		{"a taint that none can have", []string{"--token", token, "--server", "mqtts://s", "--node-taint", "a b=c:NoSchedule"}, "--node-taint \"a b=c:NoSchedule\": "},
		{"a bad name", []string{"--token", token, "--server", "mqtts://s", "--node-name", "a_b"}, "--node-name"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "new")
			cmd := command()
			cmd.SetArgs(append(tt.args, "--data-dir", dir))
			if err := cmd.Execute(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %s", err, tt.want)
			}
			if _, err := os.Stat(dir); !os.IsNotExist(err) {
				t.Errorf("left behind: %v", err)
			}
		})
	}
}

// TestTokenFileOfANodeThatHasJoined: the file may be removed after the join.
func TestTokenFileOfANodeThatHasJoined(t *testing.T) {
	f := flags{level: "info", tokenFile: "/nope"}
	f.c.DataDir = t.TempDir()
	if err := os.Mkdir(filepath.Join(f.c.DataDir, "agent"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(f.c.DataDir, "agent", "node.crt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := f.config(); err != nil {
		t.Error(err)
	}
}
