// Package etcd runs a real etcd for a test, built once from the nested module test/upstream/etcd. A test that asks for
// it fails when it cannot be had: nothing is skipped in silence.
//
//	server := etcd.Start(t, "--watch-progress-notify-interval=1s")
//	client, err := clientv3.NewFromURL(server.URL)
package etcd

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

// Server is a running etcd.
type Server struct {
	URL string // for clients
	PID int
	Dir string // of its data
}

// Start runs etcd until the end of the test.
func Start(t testing.TB, flags ...string) *Server {
	t.Helper()
	bin, err := Binary(t.Context())
	if err != nil {
		t.Fatalf("this test needs a real etcd: %v", err)
	}
	client, peer := freeURL(t), freeURL(t)
	dir := t.TempDir()
	log, err := os.Create(filepath.Join(dir, "etcd.log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, append([]string{
		"--data-dir", filepath.Join(dir, "data"),
		"--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default=" + peer,
		"--log-level", "warn",
	}, flags...)...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatalf("start etcd: %v", err)
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-ended
		log.Close()
	})
	if err := ready(client, ended); err != nil {
		said, _ := os.ReadFile(log.Name())
		t.Fatalf("etcd: %v\n%s", err, said)
	}
	return &Server{URL: client, PID: cmd.Process.Pid, Dir: dir}
}

// Binary builds etcd unless it was built before, below $BRAMBLE_CACHE (/var/tmp/bramble-cache).
func Binary(ctx context.Context) (string, error) {
	module, err := moduleDir()
	if err != nil {
		return "", err
	}
	sum, err := digest(filepath.Join(module, "go.mod"), filepath.Join(module, "go.sum"))
	if err != nil {
		return "", err
	}
	cache := os.Getenv("BRAMBLE_CACHE")
	if cache == "" {
		cache = "/var/tmp/bramble-cache"
	}
	bin := filepath.Join(cache, "etcd", "etcd-"+sum)
	if _, err := os.Stat(bin); err == nil {
		return bin, nil
	}
	if err := os.MkdirAll(filepath.Dir(bin), 0o755); err != nil {
		return "", err
	}
	tmp := fmt.Sprintf("%s.%d", bin, os.Getpid())
	cmd := exec.CommandContext(ctx, "go", "build", "-o", tmp, "go.etcd.io/etcd/server/v3")
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=mod", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build etcd in %s: %w\n%s", module, err, out)
	}
	return bin, os.Rename(tmp, bin)
}

// moduleDir looks upwards for the repository: a test runs in its package's folder.
func moduleDir() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		module := filepath.Join(dir, "test", "upstream", "etcd")
		if _, err := os.Stat(filepath.Join(module, "go.mod")); err == nil {
			return module, nil
		}
	}
	return "", fmt.Errorf("test/upstream/etcd/go.mod is not above the test's folder")
}

func digest(files ...string) (string, error) {
	h := sha256.New()
	io.WriteString(h, runtime.Version())
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			return "", err
		}
		h.Write(b)
	}
	return hex.EncodeToString(h.Sum(nil))[:16], nil
}

func freeURL(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}

func ready(url string, ended <-chan struct{}) error {
	deadline := time.After(20 * time.Second)
	for {
		res, err := http.Get(url + "/readyz")
		if err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ended:
			return fmt.Errorf("it has ended")
		case <-deadline:
			return fmt.Errorf("not ready after 20 s: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
