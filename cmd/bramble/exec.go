package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
)

// kubectlCommand becomes the kubectl that is built beside bramble, pointed at this instance unless the user
// points elsewhere.
func kubectlCommand() *cobra.Command {
	return &cobra.Command{
		Use:                "kubectl [ARGUMENT...]",
		Short:              "Run the kubectl that is built beside bramble, as the administrator of this instance",
		Long:               "Run kubectl. BRAMBLE_DATA_DIR (default " + defaultDataDir + ") says of which instance; KUBECONFIG or --kubeconfig point elsewhere.",
		DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			env := os.Environ()
			if os.Getenv("KUBECONFIG") == "" {
				dir := os.Getenv("BRAMBLE_DATA_DIR")
				if dir == "" {
					dir = defaultDataDir
				}
				env = append(env, "KUBECONFIG="+filepath.Join(dir, "kubeconfig"))
			}
			if len(args) > 0 && args[0] == "--" {
				args = args[1:]
			}
			return become("kubectl", args, env)
		},
	}
}

// agentCommand becomes bramble-agent: what a worker board runs, under the name that users look for.
func agentCommand() *cobra.Command {
	return &cobra.Command{
		Use:                "agent [FLAG...]",
		Short:              "Run the node of this board (the same as bramble-agent)",
		DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			return become("bramble-agent", args, os.Environ())
		},
	}
}

// resetCommand removes what the agent of an instance made on this board.
func resetCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reset",
		Short: "Stop the pods of this board and remove their mounts, interfaces, nftables table and cgroups",
		Long:  "Stop the pods of this board and remove all that the agent made for them. The agent must not be running. The data folder stays, unless --purge is given.",
		Args:  cobra.NoArgs,
	}
	dir := dataDir(cmd)
	purge := cmd.Flags().Bool("purge", false, "remove the data folder too, with everything that the cluster knows")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		path, err := beside("bramble-agent")
		if err != nil {
			return err
		}
		d, err := dir()
		if err != nil {
			return err
		}
		c := exec.CommandContext(cmd.Context(), path, "--data-dir", d, "--teardown")
		c.Stdout, c.Stderr = cmd.OutOrStdout(), cmd.ErrOrStderr()
		if err := c.Run(); err != nil {
			return fmt.Errorf("tear down the node: %w", err)
		}
		if *purge {
			return os.RemoveAll(d)
		}
		return nil
	}
	return configured(cmd)
}

// become turns this process into a program that is built beside bramble.
func become(name string, args, env []string) error {
	path, err := beside(name)
	if err != nil {
		return err
	}
	err = syscall.Exec(path, append([]string{name}, args...), env)
	return fmt.Errorf("run %s: %w", path, err)
}

// exitCode of a child is ours too, so that scripts see it.
func exitCode(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 {
		return exit.ExitCode()
	}
	return 1
}
