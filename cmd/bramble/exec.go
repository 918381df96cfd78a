package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"bramble.dev/cmd/settings"
)

// kubectlCommand becomes the kubectl that is built beside bramble, pointed at this instance unless the user
// points elsewhere.
func kubectlCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "kubectl [--data-dir DIR] [ARGUMENT...]",
		Short: "Run the kubectl that is built beside bramble, as the administrator of this instance",
		Long: "Run kubectl. --data-dir before its arguments, BRAMBLE_DATA_DIR or the key data-dir of the YAML file (--config, BRAMBLE_CONFIG, " + settings.DefaultFile + ") say of which instance" +
			" (default " + defaultDataDir + "); KUBECONFIG or --kubeconfig point elsewhere.",
		DisableFlagParsing: true, // the flags are kubectl's
	}
	dir := dataDir(cmd)
	cmd.Flags().String("config", "", "YAML file with one key a flag")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		own, args := leading(args, "data-dir", "config")
		if err := cmd.Flags().Parse(own); err != nil {
			return err
		}
		env := os.Environ()
		if os.Getenv("KUBECONFIG") == "" {
			if err := settings.Apply(cmd.Flags(), os.LookupEnv); err != nil {
				return err
			}
			d, err := dir()
			if err != nil {
				return err
			}
			path, err := kubeconfig(d)
			if err != nil && !withoutKubeconfig(args) {
				return err
			}
			env = append(env, "KUBECONFIG="+path)
		}
		return become("kubectl", args, env)
	}
	return cmd
}

// leading splits the flags of the given names that stand before the first other argument from the rest. A -- ends them.
func leading(args []string, names ...string) (own, rest []string) {
	for len(args) > 0 {
		if args[0] == "--" {
			return own, args[1:]
		}
		name, _, whole := strings.Cut(strings.TrimPrefix(args[0], "--"), "=")
		if !strings.HasPrefix(args[0], "--") || !slices.Contains(names, name) {
			break
		}
		n := 2
		if whole || len(args) == 1 {
			n = 1
		}
		own, args = append(own, args[:n]...), args[n:]
	}
	return own, args
}

// withoutKubeconfig says whether kubectl can do this with no file of ours: it is told of a server, or needs none.
func withoutKubeconfig(args []string) bool {
	if end := slices.Index(args, "--"); end >= 0 {
		args = args[:end] // what follows is for a program in a pod
	}
	if len(args) == 0 || slices.Contains([]string{"completion", "config", "help", "kustomize", "options", "plugin", "__complete", "__completeNoDesc"}, args[0]) {
		return true
	}
	return slices.ContainsFunc(args, func(a string) bool {
		name, _, _ := strings.Cut(a, "=")
		return name == "--kubeconfig" || name == "--server" || name == "-s" || a == "--help" || a == "-h" || a == "--dry-run=client" || name == "--client"
	})
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
		d, err := dir()
		if err != nil {
			return err
		}
		// Nothing is there to tear down: more likely the name is wrong than that all is well.
		if entries, err := os.ReadDir(d); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("--data-dir %s: nothing is there: name the folder of the instance", d)
		} else if err != nil {
			return fmt.Errorf("--data-dir: %w", err)
		} else if *purge && !ours(entries) {
			return fmt.Errorf("--data-dir %s: no agent and no server has been there, and it is not removed: name the folder of the instance", d)
		}
		path, err := beside("bramble-agent")
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

// ours says whether a folder is one of an instance: --purge must not remove somebody's home.
func ours(entries []fs.DirEntry) bool {
	return len(entries) == 0 || slices.ContainsFunc(entries, func(e fs.DirEntry) bool {
		return e.IsDir() && (e.Name() == "agent" || e.Name() == "server")
	})
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
