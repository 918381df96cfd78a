package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"bramble.dev/server"
)

func backupCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Write a verified copy of the cluster to a new file, also while the server runs",
		Long:  "Write a verified copy of the cluster's database and keys to a new file, also while the server runs. The file holds the private key of the cluster: keep it as you keep a password.",
		Args:  cobra.ExactArgs(1),
	}
	dir := dataDir(cmd)
	var objects storeFlags
	objects.declare(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		d, err := dir()
		if err != nil {
			return err
		}
		shared, err := objects.etcd()
		if err != nil {
			return err
		}
		if err := server.Backup(cmd.Context(), d, shared, args[0]); err != nil {
			return err
		}
		fmt.Fprintln(cmd.OutOrStdout(), "wrote", args[0])
		return nil
	}
	return configured(cmd)
}

func restoreCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Make an empty data folder, and with --store etcd an empty etcd, the cluster of a backup",
		Args:  cobra.ExactArgs(1),
	}
	dir := dataDir(cmd)
	var objects storeFlags
	objects.declare(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		d, err := dir()
		if err != nil {
			return err
		}
		shared, err := objects.etcd()
		if err != nil {
			return err
		}
		if err := server.Restore(cmd.Context(), args[0], d, shared); err != nil {
			return err
		}
		fmt.Fprintln(cmd.OutOrStdout(), "restored into", d, "- start it with: bramble server --data-dir", d)
		return nil
	}
	return configured(cmd)
}
