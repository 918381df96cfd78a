package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"bramble.dev/server/auth"
)

// tokenTTL is how long a board has to join. An hour is enough to carry a token to a shelf, and little to lose.
const tokenTTL = time.Hour

func tokenCommand() *cobra.Command {
	return only(&cobra.Command{Use: "token", Short: "Tokens with which boards join"}, tokenCreateCommand())
}

func tokenCreateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make a token with which boards join this cluster, and print it",
		Long:  "Make a token with which boards join this cluster, and print it. It pins the cluster's certificate authority, so that a board cannot join another by mistake.",
		Args:  cobra.NoArgs,
	}
	dir := dataDir(cmd)
	ttl := cmd.Flags().Duration("ttl", tokenTTL, "how long the token may be used; 0: until it is deleted (kubectl -n kube-system delete secret bootstrap-token-ID)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *ttl < 0 {
			return fmt.Errorf("--ttl %s: want a positive duration such as 1h, or 0 for no end", *ttl)
		}
		d, err := dir()
		if err != nil {
			return err
		}
		admin, err := adminConfig(d)
		if err != nil {
			return err
		}
		hash, err := caHash(admin.CAData)
		if err != nil {
			return err
		}
		client, err := kubernetes.NewForConfig(admin)
		if err != nil {
			return err
		}
		token, err := auth.NewJoinToken(cmd.Context(), client, *ttl, hash)
		if err != nil {
			return err
		}
		fmt.Fprintln(cmd.OutOrStdout(), token)
		return nil
	}
	return configured(cmd)
}

// adminConfig is the administrator's way to the API of the instance in dir.
func adminConfig(dir string) (*rest.Config, error) {
	path, err := kubeconfig(dir)
	if err != nil {
		return nil, err
	}
	c, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		return nil, fmt.Errorf("read the administrator's kubeconfig: %w", err)
	}
	return c, nil
}

// kubeconfig is the path of the file that the server of the instance in dir has written for its administrator.
func kubeconfig(dir string) (string, error) {
	path := filepath.Join(dir, "kubeconfig")
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return path, fmt.Errorf("no server has written %s yet: start one with `bramble up`, or name its --data-dir", path)
	}
	if errors.Is(err, fs.ErrPermission) {
		return path, fmt.Errorf("%w: only its owner may read it; use sudo", err)
	}
	if err != nil {
		return path, err
	}
	return path, f.Close()
}

func caHash(caPEM []byte) (string, error) {
	block, _ := pem.Decode(caPEM)
	if block == nil {
		return "", errors.New("the kubeconfig holds no certificate authority")
	}
	sum := sha256.Sum256(block.Bytes)
	return hex.EncodeToString(sum[:]), nil
}
