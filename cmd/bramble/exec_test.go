package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestLeading(t *testing.T) {
	tests := []struct {
		args, own, rest string
	}{
		{"get pods --config x", "", "get pods --config x"},
		{"--data-dir /d get pods", "--data-dir /d", "get pods"},
		{"--data-dir=/d --config c get --data-dir y", "--data-dir=/d --config c", "get --data-dir y"},
		{"-- --data-dir /d", "", "--data-dir /d"},
		{"--data-dir", "--data-dir", ""},
		{"-n kube-system get pods", "", "-n kube-system get pods"},
		{"", "", ""},
	}
	for _, tt := range tests {
		own, rest := leading(strings.Fields(tt.args), "data-dir", "config")
		if !slices.Equal(own, strings.Fields(tt.own)) || !slices.Equal(rest, strings.Fields(tt.rest)) {
			t.Errorf("%q: own %q, rest %q", tt.args, own, rest)
		}
	}
}

func TestWithoutKubeconfig(t *testing.T) {
	for args, want := range map[string]bool{
		"": true, "get pods": false, "get pods --kubeconfig x": true, "--kubeconfig=x get pods": true, "get --help": true,
		"version": false, "version --client": true, "exec p -- sh -h --kubeconfig x": false, "help get": true, "-s https://a get pods": true,
	} {
		if got := withoutKubeconfig(strings.Fields(args)); got != want {
			t.Errorf("%q: %v", args, got)
		}
	}
}

// TestKubectlFindsTheInstance: the data folder of kubectl is that of the other commands, and where no server has been, the
// missing file is named.
func TestKubectlFindsTheInstance(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(file, []byte("data-dir: /nope/file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		env  map[string]string
		args []string
		want string
	}{
		{name: "file by the environment", env: map[string]string{"BRAMBLE_CONFIG": file}, args: []string{"get", "pods"}, want: "/nope/file/kubeconfig"},
		{name: "file by a flag", args: []string{"--config", file, "get", "pods"}, want: "/nope/file/kubeconfig"},
		{name: "environment beats the file", env: map[string]string{"BRAMBLE_CONFIG": file, "BRAMBLE_DATA_DIR": "/nope/env"}, args: []string{"get", "pods"}, want: "/nope/env/kubeconfig"},
		{name: "flag", env: map[string]string{"BRAMBLE_DATA_DIR": "/nope/env"}, args: []string{"--data-dir=/nope/flag", "get", "pods"}, want: "/nope/flag/kubeconfig"},
		{name: "flag without a value", args: []string{"--data-dir"}, want: "--data-dir"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("KUBECONFIG", "")
			for k, v := range tt.env {
				t.Setenv(k, v)
			}
			cmd := kubectlCommand()
			cmd.SetArgs(tt.args)
			cmd.SilenceErrors, cmd.SilenceUsage = true, true
			if err := cmd.Execute(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("error %v, want one with %s", err, tt.want)
			}
		})
	}
}

// TestResetOfNothing: a mistyped folder is not reported as done, and a folder of somebody else is not removed.
func TestResetOfNothing(t *testing.T) {
	other := t.TempDir()
	if err := os.Mkdir(filepath.Join(other, "photos"), 0o700); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]string{filepath.Join(other, "typo"): "nothing is there", other: "no agent and no server"} {
		cmd := resetCommand()
		cmd.SetArgs([]string{"--purge", "--data-dir", dir})
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		if err := cmd.Execute(); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v", dir, err)
		}
	}
	if _, err := os.Stat(filepath.Join(other, "photos")); err != nil {
		t.Error(err)
	}
}
