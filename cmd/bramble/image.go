package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"bramble.dev/agent/control"
	"bramble.dev/runtime/image"
)

func imageCommand() *cobra.Command {
	return only(&cobra.Command{Use: "image", Short: "The container images on this board"},
		imageListCommand(), imageImportCommand(), imagePullCommand(), imageRemoveCommand())
}

// images is one image command: it is given a client of the agent that owns the images.
func images(cmd *cobra.Command, run func(cmd *cobra.Command, c *control.Client, args []string) error) *cobra.Command {
	dir := dataDir(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		d, err := dir()
		if err != nil {
			return err
		}
		err = run(cmd, control.NewClient(control.Socket(d)), args)
		if errors.Is(err, control.ErrNoAgent) {
			return fmt.Errorf("%w: start it first (`bramble up` or `bramble agent`), or name its --data-dir (this is %s)", control.ErrNoAgent, d)
		}
		return err
	}
	return configured(cmd)
}

func imageListCommand() *cobra.Command {
	return images(&cobra.Command{Use: "ls", Short: "List the images", Args: cobra.NoArgs},
		func(cmd *cobra.Command, c *control.Client, _ []string) error {
			list, err := c.List(cmd.Context())
			if err != nil {
				return err
			}
			return printImages(cmd.OutOrStdout(), list)
		})
}

func imageImportCommand() *cobra.Command {
	return images(&cobra.Command{Use: "import FILE...", Short: "Import images from archives of `docker save` or the OCI layout; - is standard input", Args: cobra.MinimumNArgs(1)},
		func(cmd *cobra.Command, c *control.Client, args []string) error {
			for _, name := range args {
				if err := importFile(cmd, c, name); err != nil {
					return fmt.Errorf("import %s: %w", name, err)
				}
			}
			return nil
		})
}

func importFile(cmd *cobra.Command, c *control.Client, name string) error {
	in := cmd.InOrStdin()
	if name != "-" {
		f, err := os.Open(filepath.Clean(name))
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	list, err := c.Import(cmd.Context(), in)
	if err != nil {
		return err
	}
	for _, i := range list {
		fmt.Fprintln(cmd.OutOrStdout(), "imported", display(i))
	}
	return nil
}

func imagePullCommand() *cobra.Command {
	return images(&cobra.Command{Use: "pull NAME...", Short: "Pull images from their registries, or from the mirrors that the agent has", Args: cobra.MinimumNArgs(1)},
		func(cmd *cobra.Command, c *control.Client, args []string) error {
			for _, name := range args {
				list, err := c.Pull(cmd.Context(), name)
				if err != nil {
					return fmt.Errorf("pull %s: %w", name, err)
				}
				for _, i := range list {
					fmt.Fprintln(cmd.OutOrStdout(), "pulled", display(i))
				}
			}
			return nil
		})
}

func imageRemoveCommand() *cobra.Command {
	return images(&cobra.Command{Use: "rm NAME...", Short: "Remove images", Args: cobra.MinimumNArgs(1)},
		func(cmd *cobra.Command, c *control.Client, args []string) error {
			for _, name := range args {
				err := c.Remove(cmd.Context(), name)
				if errors.Is(err, control.ErrNoImage) {
					return fmt.Errorf("%w %s; `bramble image ls` lists them", control.ErrNoImage, name)
				}
				if err != nil {
					return fmt.Errorf("remove %s: %w", name, err)
				}
			}
			return nil
		})
}

func printImages(out io.Writer, list []image.Image) error {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "NAME\tID\tPLATFORM\tSIZE")
	for _, i := range list {
		id := strings.TrimPrefix(i.ID, "sha256:")
		fmt.Fprintf(w, "%s\t%s\t%s\t%.1f MiB\n", display(i), id[:min(12, len(id))], i.Platform, float64(i.Size)/(1<<20))
	}
	return w.Flush()
}

func display(i image.Image) string {
	if len(i.Names) == 0 {
		return i.Reference()
	}
	return strings.Join(i.Names, ", ")
}
