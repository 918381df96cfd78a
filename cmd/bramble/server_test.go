package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"bramble.dev/cmd/settings"
	"bramble.dev/server"
)

// TestFlagsAreShared: a file that serves server and agent may have every key of the server's.
func TestFlagsAreShared(t *testing.T) {
	upCommand().Flags().VisitAll(func(f *pflag.Flag) {
		if f.Name != "config" && !settings.Shared(f.Name) {
			t.Errorf("the flag %s is not in settings' list: an agent would refuse a file with it", f.Name)
		}
	})
}

// TestLocalAgent: ps shows nothing of the broker's password, and the agent reads the file that the server was given.
func TestLocalAgent(t *testing.T) {
	const url = "mqtts://user:secret@broker.example:8883"
	c := server.Config{DataDir: t.TempDir(), Broker: url, BrokerCA: "/etc/broker.crt", Logger: slog.New(slog.DiscardHandler)}
	if err := os.MkdirAll(filepath.Join(c.DataDir, "agent"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.DataDir, "agent", "node.crt"), nil, 0o600); err != nil { // it has joined
		t.Fatal(err)
	}
	agent, err := localAgent(t.Context(), c, server.Info{MQTTURL: url}, "/bin/bramble-agent", "pi", "/etc/board.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if args := strings.Join(agent.args, " "); args != "--data-dir "+c.DataDir+" --log-level ERROR --node-name pi" {
		t.Errorf("arguments %s", args)
	}
	if !slices.Equal(agent.env, []string{"BRAMBLE_SERVER=" + url, "BRAMBLE_BROKER_CA=/etc/broker.crt", "BRAMBLE_CONFIG=/etc/board.yaml"}) {
		t.Errorf("environment %v", agent.env)
	}
}

func TestNodeName(t *testing.T) {
	for name, want := range map[string]bool{"pi-1": true, "pi.shed": true, "Pi": false, "pi_1": false, "-pi": false, "a..b": false, "pi one": false, strings.Repeat("p", 64): false} {
		if err := checkNodeName(name); (err == nil) != want || err != nil && !strings.Contains(err.Error(), "--node-name") {
			t.Errorf("%q: %v", name, err)
		}
	}
}
