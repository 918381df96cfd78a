package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"bramble.dev/agent/check"
)

func checkCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Say what this board lacks of what a node needs, and how to mend it",
		Args:  cobra.NoArgs,
	}
	dir := dataDir(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		d, err := dir()
		if err != nil {
			return err
		}
		missing := 0
		for _, r := range check.Run(check.System(d)) {
			fmt.Fprintln(cmd.OutOrStdout(), r)
			if r.Level == check.Missing {
				missing++
			}
		}
		if missing > 0 {
			return errors.New("this board cannot be a node yet: mend what is missing above")
		}
		return nil
	}
	return configured(cmd)
}
