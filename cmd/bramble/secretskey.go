package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"bramble.dev/server"
)

func secretsKeyCommand() *cobra.Command {
	return only(&cobra.Command{Use: "secrets-key", Short: "The key that encrypts the Secrets in the database"}, secretsKeyRotateCommand())
}

func secretsKeyRotateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Add a new key, which the server uses from its next start on",
		Long: "Add a new key, which the server uses from its next start on: it then writes every Secret anew, and takes the older key away when that is done. " +
			"Its log says so. Backups from before need the older key, and have it.",
		Args: cobra.NoArgs,
	}
	dir := dataDir(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		d, err := dir()
		if err != nil {
			return err
		}
		if err := server.AddSecretsKey(d); err != nil {
			return err
		}
		fmt.Fprintln(cmd.OutOrStdout(), "A new key is there. Restart the server, and make a new backup when its log says that the older key is gone.")
		return nil
	}
	return configured(cmd)
}
