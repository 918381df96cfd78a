package kubelet

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"bramble.dev/agent/seam"
)

// Times of streams, the kubelet's.
const (
	streamIdle   = 4 * time.Hour
	streamCreate = remotecommand.DefaultStreamCreationTimeout
)

// session runs exec and attach for one request; the container has been found before.
type session struct {
	a  *api
	id string
}

func sizes(ctx context.Context, in <-chan remotecommand.TerminalSize) <-chan seam.TerminalSize {
	if in == nil {
		return nil
	}
	out := make(chan seam.TerminalSize)
	go func() { // ends with the client's stream, or the request
		defer close(out)
		for s := range in {
			select {
			case out <- seam.TerminalSize{Width: s.Width, Height: s.Height}:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// streams never holds a typed nil: a stream that the client did not ask for is none.
func streams(ctx context.Context, in io.Reader, out, err io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) seam.Streams {
	s := seam.Streams{TTY: tty, Resize: sizes(ctx, resize)}
	if in != nil {
		s.Stdin = in
	}
	if out != nil {
		s.Stdout = out
	}
	if err != nil {
		s.Stderr = err
	}
	return s
}

// ExecInContainer implements remotecommand.Executor.
func (s session) ExecInContainer(ctx context.Context, _, _, _ string, cmd []string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	code, err := s.a.Runtime.Exec(ctx, s.id, cmd, streams(ctx, in, out, errOut, tty, resize))
	if err == nil && code != 0 {
		return utilexec.CodeExitError{Err: fmt.Errorf("command terminated with exit code %d", code), Code: code}
	}
	return err
}

// AttachContainer implements remotecommand.Attacher.
func (s session) AttachContainer(ctx context.Context, _, _, _ string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return s.a.Runtime.Attach(ctx, s.id, streams(ctx, in, out, errOut, tty, resize))
}

func (a *api) exec(w http.ResponseWriter, r *http.Request) {
	opts, err := remotecommand.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	v, c, ok := a.find(w, r)
	if !ok {
		return
	}
	remotecommand.ServeExec(w, r, session{a, c.ID}, v.Pod.Name, string(v.Pod.UID), c.Name, r.URL.Query()["command"], opts, streamIdle, streamCreate, remotecommand.SupportedStreamingProtocols)
}

func (a *api) attach(w http.ResponseWriter, r *http.Request) {
	opts, err := remotecommand.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	v, c, ok := a.find(w, r)
	if !ok {
		return
	}
	remotecommand.ServeAttach(w, r, session{a, c.ID}, v.Pod.Name, string(v.Pod.UID), c.Name, opts, streamIdle, streamCreate, remotecommand.SupportedStreamingProtocols)
}

// run runs a command without streams and answers with what it printed.
func (a *api) run(w http.ResponseWriter, r *http.Request) {
	_, c, ok := a.find(w, r)
	if !ok {
		return
	}
	var out seam.Output
	code, err := a.Runtime.Exec(r.Context(), c.ID, strings.Fields(r.FormValue("cmd")), seam.Streams{Stdout: &out, Stderr: &out})
	if err == nil && code != 0 {
		err = fmt.Errorf("command terminated with exit code %d", code)
	}
	if err != nil {
		http.Error(w, err.Error()+"\n"+out.String(), http.StatusInternalServerError)
		return
	}
	io.WriteString(w, out.String())
}

func (a *api) portForward(w http.ResponseWriter, r *http.Request) {
	opts, err := portforward.NewV4Options(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	v, ok := a.Pods.Pod(r.PathValue("namespace"), r.PathValue("pod"), types.UID(r.PathValue("uid")))
	if !ok {
		http.Error(w, "pod does not exist", http.StatusNotFound)
		return
	}
	if len(v.Sandboxes) == 0 || !v.Sandboxes[0].Ready {
		http.Error(w, fmt.Sprintf("pod not running (%q)", v.Pod.Name), http.StatusNotFound)
		return
	}
	portforward.ServePortForward(w, r, forwarder{v.Sandboxes[0].NetNS}, v.Pod.Name, string(v.Pod.UID), opts, streamIdle, streamCreate, portforward.SupportedProtocols)
}

// forwarder connects to ports inside a pod's network namespace.
type forwarder struct{ netns string }

// PortForward implements portforward.PortForwarder.
func (f forwarder) PortForward(ctx context.Context, _, _ string, port int32, stream io.ReadWriteCloser) error {
	conn, err := dialLocal(ctx, f.netns, port)
	if err != nil {
		return fmt.Errorf("failed to connect to localhost:%d inside the pod's network: %w", port, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(conn, stream)
		if half, ok := conn.(interface{ CloseWrite() error }); ok {
			half.CloseWrite() // the client has said everything, and may still listen
		}
		sent <- err
	}()
	_, err = io.Copy(stream, conn)
	stream.Close()
	conn.Close()
	if e := <-sent; err == nil {
		err = ignoreClosed(e)
	}
	return err
}
