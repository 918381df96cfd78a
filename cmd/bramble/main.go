// Command bramble is the server and the user's commands: flags and wiring, nothing else.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"bramble.dev/cmd/settings"
	"bramble.dev/cmd/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := root().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(exitCode(err))
	}
}

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:           "bramble",
		Short:         "A cluster of small boards that speaks the Kubernetes API",
		Version:       version.Version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	cmd.AddCommand(upCommand(), serverCommand(), agentCommand(), tokenCommand(), secretsKeyCommand(), imageCommand(), backupCommand(), restoreCommand(),
		kubectlCommand(), checkCommand(), resetCommand(), versionCommand())
	return cmd
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) { fmt.Fprintln(cmd.OutOrStdout(), version.String()) },
	}
}

// only is a command that has commands and does nothing itself. Cobra would answer a name that it does not have with its help and
// success, and a script would take the help for a token.
func only(cmd *cobra.Command, commands ...*cobra.Command) *cobra.Command {
	cmd.AddCommand(commands...)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return fmt.Errorf("unknown command %q for %q: see %s --help", args[0], cmd.CommandPath(), cmd.CommandPath())
		}
		return cmd.Help()
	}
	return cmd
}

// defaultDataDir holds everything of an instance.
const defaultDataDir = "/var/lib/bramble"

// dataDir declares --data-dir, which every command of an instance shares, and returns its absolute form when asked.
func dataDir(cmd *cobra.Command) func() (string, error) {
	dir := cmd.Flags().String("data-dir", defaultDataDir, "folder that holds everything of this instance")
	return func() (string, error) {
		if *dir == "" {
			return "", fmt.Errorf("--data-dir is empty: name a folder")
		}
		return filepath.Abs(*dir)
	}
}

// logger writes to standard error, where systemd and a terminal expect it.
func logger(cmd *cobra.Command) func() (*slog.Logger, error) {
	level := cmd.Flags().String("log-level", "info", "debug, info, warn or error")
	return func() (*slog.Logger, error) {
		var l slog.Level
		if err := l.UnmarshalText([]byte(*level)); err != nil {
			return nil, fmt.Errorf("--log-level %q: want debug, info, warn or error", *level)
		}
		return slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: l})), nil
	}
}

// beside finds an executable that is built and installed beside this one.
func beside(name string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	if self, err = filepath.EvalSymlinks(self); err != nil {
		return "", err
	}
	path := filepath.Join(filepath.Dir(self), name)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%s is not beside %s: `scripts/build` puts all executables into one folder", name, self)
	}
	return path, nil
}

func configured(cmd *cobra.Command) *cobra.Command {
	settings.Bind(cmd)
	return cmd
}
