package main

import (
	"io"
	"strings"
	"testing"
)

// TestUnknownCommands: a mistyped command is an error at every depth, and a command that only has others shows them.
func TestUnknownCommands(t *testing.T) {
	for _, tt := range []struct {
		args string
		want string // "": success
	}{
		{"nonsense", `unknown command "nonsense" for "bramble"`},
		{"token nonsense", `unknown command "nonsense" for "bramble token"`},
		{"image nonsense", `unknown command "nonsense" for "bramble image"`},
		{"token", ""},
		{"image", ""},
	} {
		cmd := root()
		cmd.SetArgs(strings.Fields(tt.args))
		cmd.SetOut(io.Discard)
		if err := cmd.Execute(); tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: error %v, want %q", tt.args, err, tt.want)
		}
	}
}
