package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	kubelet "k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

// shouting is a container whose command repeats its input in capitals.
type shouting struct{}

func (shouting) ExecInContainer(_ context.Context, name, _, container string, cmd []string, in io.Reader, out, err io.WriteCloser, _ bool, _ <-chan kubelet.TerminalSize, _ time.Duration) error {
	text, e := io.ReadAll(in)
	fmt.Fprintf(out, "%s", strings.ToUpper(string(text)))
	fmt.Fprintf(err, "%s in %s of %s", strings.Join(cmd, " "), container, name)
	return e
}

// execHandler is a node.
func execHandler(container kubelet.Executor) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		o, err := kubelet.NewOptions(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		p := strings.Split(strings.Trim(r.URL.Path, "/"), "/") // exec/<namespace>/<pod>/<container>
		kubelet.ServeExec(w, r, container, p[2], "", p[3], r.URL.Query()["command"], o, time.Minute, time.Minute, kubelet.SupportedStreamingProtocols)
	}
}

// execURL asks for a command in a new pod on a node.
func execURL(t *testing.T, c *cluster, ns string) string {
	t.Helper()
	must(c.client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "pi"}}, metav1.CreateOptions{}))(t)
	p := pod("p")
	p.Spec.NodeName = "pi"
	must(c.client.CoreV1().Pods(ns).Create(t.Context(), p, metav1.CreateOptions{}))(t)
	query := url.Values{"command": {"cat", "-"}, "stdin": {"1"}, "stdout": {"1"}, "stderr": {"1"}, "container": {"c"}}
	return c.url + "/api/v1/namespaces/" + ns + "/pods/p/exec?" + query.Encode()
}

// Clients of both kinds, SPDY as kubectl before 1.31 speaks it and WebSocket as it does since, reach a node that speaks SPDY.
func TestExec(t *testing.T) {
	dial := listening(t, execHandler(shouting{}))
	c := start(t, t.TempDir(), func(c *Config) {
		c.NodeDialer = func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx) }
	})
	at := must(url.Parse(execURL(t, c, c.namespace(t))))(t)
	for name, make := range map[string]func(*rest.Config) (remotecommand.Executor, error){
		"spdy": func(config *rest.Config) (remotecommand.Executor, error) {
			return remotecommand.NewSPDYExecutor(config, "POST", at)
		},
		"websocket": func(config *rest.Config) (remotecommand.Executor, error) {
			return remotecommand.NewWebSocketExecutor(config, "GET", at.String())
		},
	} {
		t.Run(name, func(t *testing.T) {
			input := strings.Repeat("all of it ", 20_000)
			var out, stderr bytes.Buffer
			e := must(make(c.config))(t)
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			if err := e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: strings.NewReader(input), Stdout: &out, Stderr: &stderr}); err != nil {
				t.Fatal(err)
			}
			if out.String() != strings.ToUpper(input) || stderr.String() != "cat - in c of p" {
				t.Errorf("%d of %d bytes back, and %q", out.Len(), len(input), stderr.String())
			}
		})
	}
	nobody := must(c.as("nobody"))(t)
	e := must(remotecommand.NewWebSocketExecutor(nobody, "GET", at.String()))(t)
	if err := e.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard}); err == nil || !strings.Contains(err.Error(), "forbidden") {
		t.Errorf("without the right: %v", err)
	}
}

// endless is a container whose command says that it runs, and goes on until its input ends.
type endless struct{}

func (endless) ExecInContainer(_ context.Context, _, _, _ string, _ []string, in io.Reader, out, _ io.WriteCloser, _ bool, _ <-chan kubelet.TerminalSize, _ time.Duration) error {
	fmt.Fprint(out, "running")
	_, err := io.Copy(io.Discard, in)
	return err
}

// breaking is a connection that is lost when it is told so, as one is whose node's link ends.
type breaking struct {
	net.Conn
	lost chan struct{}
}

func (b *breaking) Read(p []byte) (int, error) {
	n, err := b.Conn.Read(p)
	select {
	case <-b.lost:
		return 0, errors.New("the node is not connected")
	default:
		return n, err
	}
}

// A command whose node is lost has not succeeded.
func TestExecOnANodeThatIsLost(t *testing.T) {
	conns, lost := make(chan net.Conn, 1), make(chan struct{})
	dial := listening(t, execHandler(endless{}))
	c := start(t, t.TempDir(), func(c *Config) {
		c.NodeDialer = func(ctx context.Context, _ string) (net.Conn, error) {
			conn, err := dial(ctx)
			conns <- conn
			return &breaking{conn, lost}, err
		}
	})
	e := must(remotecommand.NewWebSocketExecutor(c.config, "GET", execURL(t, c, c.namespace(t))))(t)
	input, typed := io.Pipe()
	defer typed.Close()
	output, shown := io.Pipe()
	ended := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	go func() {
		ended <- e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: input, Stdout: shown, Stderr: io.Discard})
	}()
	if _, err := io.ReadFull(output, make([]byte, len("running"))); err != nil {
		t.Fatal(err)
	}
	close(lost)
	_ = (<-conns).Close()
	if err := <-ended; err == nil || ctx.Err() != nil {
		t.Errorf("the command ended with %v", err)
	}
}

// What another server reaches through this one tells an end from a loss.
func TestDialThroughAServerWhoseNodeIsLost(t *testing.T) {
	for name, lose := range map[string]bool{"an end": false, "a loss": true} {
		t.Run(name, func(t *testing.T) {
			lost := make(chan struct{})
			dial := listening(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				io.WriteString(w, "half of it")
				w.(http.Flusher).Flush()
				<-lost
			}))
			c := start(t, t.TempDir(), func(c *Config) {
				c.Leads = func() bool { return true }
				c.NodeDialer = func(ctx context.Context, _ string) (net.Conn, error) {
					conn, err := dial(ctx)
					if lose {
						conn = &breaking{conn, lost}
					}
					return conn, err
				}
			})
			conn := must(DialThrough(t.Context(), c.pki, strings.TrimPrefix(c.url, "https://"), "pi", ""))(t)
			defer conn.Close()
			io.WriteString(conn, "GET / HTTP/1.1\r\nHost: pi\r\nConnection: close\r\n\r\n")
			head := make([]byte, 1)
			if _, err := io.ReadFull(conn, head); err != nil {
				t.Fatal(err)
			}
			close(lost)
			if _, err := io.Copy(io.Discard, conn); (err != nil) != lose {
				t.Errorf("it ended with %v", err)
			}
		})
	}
}
