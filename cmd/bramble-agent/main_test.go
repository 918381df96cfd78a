package main

import (
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
