package clients

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// server is a running bramble, of one test.
type server struct {
	t    *testing.T
	dir  string // its data, and its log
	args []string

	process *exec.Cmd
	ended   chan error
}

// start runs a server until the end of the test, and waits until its namespaces have what pods need.
func start(t *testing.T) *server {
	t.Helper()
	s := &server{t: t, dir: t.TempDir()}
	s.args = []string{"server", "--data-dir", filepath.Join(s.dir, "data"), "--log-level", "warn",
		"--api-listen", freePort(t), "--mqtt-listen", freePort(t)}
	t.Cleanup(func() {
		s.stop()
		if said, err := os.ReadFile(s.log()); t.Failed() && err == nil {
			t.Logf("the server said:\n%s", said)
		}
	})
	s.run()
	return s
}

func (s *server) log() string { return filepath.Join(s.dir, "log") }

// run starts the process, for the first time or again, on the same ports and data.
func (s *server) run() {
	s.t.Helper()
	log, err := os.OpenFile(s.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command("../../bin/bramble", s.args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "BRAMBLE_CONFIG=/dev/null") // not what this machine's own server is told
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		s.t.Fatalf("%v (scripts/build bramble makes it)", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	s.process, s.ended = cmd, ended
	eventually(s.t, 30*time.Second, "the server is ready", func(ctx context.Context) error {
		select {
		case err := <-ended:
			s.process = nil
			s.t.Fatalf("the server ended: %v", err)
		default:
		}
		config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(s.dir, "data", "kubeconfig"))
		if err != nil {
			return err
		}
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			return err
		}
		_, err = client.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}

// stop ends the process as an operator does, and again does nothing.
func (s *server) stop() {
	s.t.Helper()
	if s.process == nil {
		return
	}
	_ = s.process.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-s.ended:
		if err != nil {
			s.t.Errorf("the server's end: %v", err)
		}
	case <-time.After(30 * time.Second):
		s.t.Error("the server does not end within 30 seconds of SIGTERM")
		_ = s.process.Process.Kill()
		<-s.ended
	}
	s.process = nil
}

// config is the administrator's, without client-go's own limit of requests.
func (s *server) config(t *testing.T) *rest.Config {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(s.dir, "data", "kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	config.QPS = -1
	return config
}

// client speaks protobuf, as Kubernetes' own programs do.
func (s *server) client(t *testing.T) kubernetes.Interface {
	t.Helper()
	config := s.config(t)
	config.AcceptContentTypes, config.ContentType = "application/vnd.kubernetes.protobuf,application/json", "application/vnd.kubernetes.protobuf"
	return must(kubernetes.NewForConfig(config))(t)
}

// namespace makes one, with the default account in it.
func (s *server) namespace(t *testing.T, name string) string {
	t.Helper()
	client := s.client(t)
	if _, err := client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the default account of "+name, func(ctx context.Context) error {
		_, err := client.CoreV1().ServiceAccounts(name).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	return name
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// must(f())(t) is what f returns; an error ends the test.
func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// eventually calls done until it has no error; the last one ends the test.
func eventually(t *testing.T, limit time.Duration, what string, done func(context.Context) error) {
	t.Helper()
	last := fmt.Errorf("never tried")
	err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, limit, true, func(ctx context.Context) (bool, error) {
		last = done(ctx)
		return last == nil, nil
	})
	if err != nil {
		t.Fatalf("%s: %v", what, last)
	}
}

func ptr[T any](v T) *T { return &v }
