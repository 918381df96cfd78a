package kubelet

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	utilexec "k8s.io/client-go/util/exec"

	"bramble.dev/agent/fake"
	"bramble.dev/agent/seam"
	"bramble.dev/agent/status"
	"bramble.dev/agent/worker"
)

type onePod struct{ view worker.View }

func (o onePod) Pod(namespace, name string, uid types.UID) (worker.View, bool) {
	p := o.view.Pod
	return o.view, p.Namespace == namespace && p.Name == name && (uid == "" || uid == p.UID)
}
func (o onePod) Pods() []worker.View { return []worker.View{o.view} }

type fixture struct {
	url  string
	rt   *fake.Runtime
	view *onePod
	logs map[string]string
	got  LogOptions
}

// serve serves one running pod over real TCP.
func serve(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{rt: fake.NewRuntime(), logs: map[string]string{}}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "u1"}, Spec: corev1.PodSpec{HostNetwork: true, Containers: []corev1.Container{{Name: "app", Image: "i"}}}}
	ctx := t.Context()
	s, err := f.rt.RunSandbox(ctx, seam.SandboxSpec{Pod: pod})
	if err != nil {
		t.Fatal(err)
	}
	c, err := f.rt.StartContainer(ctx, s.ID, seam.ContainerSpec{Pod: pod, Container: &pod.Spec.Containers[0], LogPath: "/log/0"})
	if err != nil {
		t.Fatal(err)
	}
	all, _ := f.rt.List(ctx)
	f.view = &onePod{worker.View{Pod: pod, Sandboxes: all, Status: corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{{
		Name: "app", ContainerID: status.ContainerIDPrefix + c.ID, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
	}}}}}
	f.logs["/log/0"] = "hello\nworld\n"
	l := NewListener()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			conn, err := tcp.Accept()
			if err != nil {
				return
			}
			l.Push(conn)
		}
	}()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := Serve(ctx, l, f.config()); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { tcp.Close(); cancel(); <-done })
	f.url = "http://" + tcp.Addr().String()
	return f
}

func (f *fixture) config() Config {
	return Config{
		Node: "pi", Dir: "/agent", Pods: f.view, Runtime: f.rt, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
		NodeStats: func() NodeStats { return NodeStats{At: time.Unix(1000, 0), CPUNanos: 2e9, MemoryWorkingSet: 42} },
		ReadLog: func(ctx context.Context, path string, o LogOptions, stdout, stderr io.Writer) error {
			f.got = o
			text, ok := f.logs[path]
			if !ok {
				return fmt.Errorf("no log at %s", path)
			}
			if stdout != nil {
				io.WriteString(stdout, text)
			}
			if o.Follow {
				<-o.Ended
			}
			return nil
		},
	}
}

func (f *fixture) get(t *testing.T, path string) (int, string) {
	t.Helper()
	res, err := http.Get(f.url + path)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

func TestLogs(t *testing.T) {
	f := serve(t)
	for path, want := range map[string]string{
		"/containerLogs/default/web/app":                  "200 hello\nworld\n",
		"/containerLogs/default/web/app?tailLines=1":      "200 hello\nworld\n",
		"/containerLogs/default/web/app?stream=Stderr":    "200 ",
		"/containerLogs/default/web/app?tailLines=-1":     "422 invalid value of tailLines: \"-1\"\n",
		"/containerLogs/default/web/app?previous=true":    "400 previous terminated container \"app\" in pod \"web\" not found\n",
		"/containerLogs/default/web/nothing":              "404 container \"nothing\" not found in pod \"web\"\n",
		"/containerLogs/default/other/app":                "404 pod \"other\" does not exist\n",
		"/containerLogs/default/web/app?sinceTime=monday": "422 invalid value of sinceTime: \"monday\"\n",
	} {
		code, body := f.get(t, path)
		if got := fmt.Sprint(code, " ", body); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	f.get(t, "/containerLogs/default/web/app?tailLines=7&timestamps=true&limitBytes=99&sinceTime=2026-01-02T03:04:05Z")
	if f.got.Tail == nil || *f.got.Tail != 7 || !f.got.Timestamps || f.got.Limit != 99 || !f.got.Since.Equal(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)) {
		t.Errorf("options: %+v", f.got)
	}
}

func TestFollowEndsWithTheContainer(t *testing.T) {
	f := serve(t)
	res, err := http.Get(f.url + "/containerLogs/default/web/app?follow=true")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	first := make([]byte, 6)
	if _, err := io.ReadFull(res.Body, first); err != nil || string(first) != "hello\n" {
		t.Fatalf("%q %v", first, err)
	}
	f.rt.Exit(f.view.view.Sandboxes[0].Containers[0].ID, 0)
	if rest, err := io.ReadAll(res.Body); err != nil || string(rest) != "world\n" {
		t.Errorf("%q %v", rest, err)
	}
}

func TestLogsOfPreviousContainerThatTheRuntimeHasForgotten(t *testing.T) {
	f := serve(t)
	st := &f.view.view.Status.ContainerStatuses[0]
	st.RestartCount = 3
	st.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ContainerID: "bramble://gone"}
	f.logs["/agent/logs/pods/default_web_u1/app/2.log"] = "before\n"
	if code, body := f.get(t, "/containerLogs/default/web/app?previous=true"); code != 200 || body != "before\n" {
		t.Errorf("%d %q", code, body)
	}
	st.State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}
	f.logs["/agent/logs/pods/default_web_u1/app/3.log"] = "last\n"
	if code, body := f.get(t, "/containerLogs/default/web/app"); code != 200 || body != "last\n" {
		t.Errorf("%d %q", code, body)
	}
}

func TestWaitingContainers(t *testing.T) {
	f := serve(t)
	for reason, want := range map[string]string{
		"ErrImagePull":      `container "app" in pod "web" is waiting to start: image can't be pulled`,
		"ImagePullBackOff":  `container "app" in pod "web" is waiting to start: trying and failing to pull image`,
		"ContainerCreating": `container "app" in pod "web" is waiting to start: ContainerCreating`,
	} {
		f.view.view.Status.ContainerStatuses[0] = corev1.ContainerStatus{Name: "app", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}}
		if code, body := f.get(t, "/containerLogs/default/web/app"); code != 400 || strings.TrimSpace(body) != want {
			t.Errorf("%s: %d %q", reason, code, body)
		}
	}
}

func executors(t *testing.T, f *fixture, path string) map[string]remotecommand.Executor {
	u, err := url.Parse(f.url + path)
	if err != nil {
		t.Fatal(err)
	}
	spdyExec, err := remotecommand.NewSPDYExecutor(&rest.Config{}, "POST", u)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]remotecommand.Executor{"spdy": spdyExec}
}

func TestExec(t *testing.T) {
	f := serve(t)
	f.rt.Behave("app", fake.Behavior{Exec: func(_ context.Context, cmd []string, s seam.Streams) (int, error) {
		in, err := io.ReadAll(s.Stdin)
		if err != nil {
			return 0, err
		}
		fmt.Fprintf(s.Stdout, "%s got %s", strings.Join(cmd, " "), in)
		fmt.Fprint(s.Stderr, "complaint")
		return len(in), nil
	}})
	for name, e := range executors(t, f, "/exec/default/web/app?command=sh&command=-c&input=1&output=1&error=1") {
		var out, errOut bytes.Buffer
		err := e.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: strings.NewReader("abc"), Stdout: &out, Stderr: &errOut})
		var exit utilexec.ExitError
		if !asExit(err, &exit) || exit.ExitStatus() != 3 {
			t.Errorf("%s: %v", name, err)
		}
		if out.String() != "sh -c got abc" || errOut.String() != "complaint" {
			t.Errorf("%s: %q %q", name, out.String(), errOut.String())
		}
	}
}

// A refused upgrade leaves no connection behind: client-go does not close it, and the link has room for 128.
func TestRefusedUpgradeEndsTheConnection(t *testing.T) {
	f := serve(t)
	conn, err := net.Dial("tcp", strings.TrimPrefix(f.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "POST /exec/default/web/missing?command=true&output=1 HTTP/1.1\r\nHost: pi\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 0\r\n\r\n")
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	answer, err := io.ReadAll(conn)
	if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 404 ") {
		t.Errorf("%q, %v", answer, err)
	}
}

// A client that goes takes its command along: nobody is left to read what it says, and the next ones need its place.
func TestExecEndsWithItsClient(t *testing.T) {
	f := serve(t)
	began, ended := make(chan bool), make(chan error, 1)
	f.rt.Behave("app", fake.Behavior{Exec: func(ctx context.Context, _ []string, _ seam.Streams) (int, error) {
		close(began)
		<-ctx.Done()
		ended <- ctx.Err()
		return -1, ctx.Err()
	}})
	ctx, leave := context.WithCancel(t.Context())
	go func() {
		for _, e := range executors(t, f, "/exec/default/web/app?command=sleep&output=1") {
			_ = e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: io.Discard})
		}
	}()
	<-began
	leave()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("the command goes on")
	}
}

func asExit(err error, to *utilexec.ExitError) bool {
	e, ok := err.(utilexec.ExitError)
	*to = e
	return ok
}

type sizeQueue chan remotecommand.TerminalSize

func (q sizeQueue) Next() *remotecommand.TerminalSize {
	s, ok := <-q
	if !ok {
		return nil
	}
	return &s
}

func TestTerminalIsResized(t *testing.T) {
	f := serve(t)
	f.rt.Behave("app", fake.Behavior{Exec: func(_ context.Context, _ []string, s seam.Streams) (int, error) {
		size := <-s.Resize
		fmt.Fprintf(s.Stdout, "tty=%v %dx%d", s.TTY, size.Width, size.Height)
		return 0, nil
	}})
	q := make(sizeQueue, 1)
	q <- remotecommand.TerminalSize{Width: 80, Height: 24}
	var out bytes.Buffer
	e := executors(t, f, "/exec/default/web/u1/app?command=sh&input=1&output=1&tty=1")["spdy"]
	r, w := io.Pipe()
	defer w.Close()
	if err := e.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: r, Stdout: &out, Tty: true, TerminalSizeQueue: q}); err != nil {
		t.Fatal(err)
	}
	if out.String() != "tty=true 80x24" {
		t.Errorf("%q", out.String())
	}
}

func TestAttach(t *testing.T) {
	f := serve(t)
	var out bytes.Buffer
	e := executors(t, f, "/attach/default/web/app?input=1&output=1")["spdy"]
	if err := e.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: strings.NewReader("echo"), Stdout: &out}); err != nil {
		t.Fatal(err)
	}
	if out.String() != "echo" {
		t.Errorf("%q", out.String())
	}
}

func TestExecErrors(t *testing.T) {
	f := serve(t)
	for path, want := range map[string]int{
		"/exec/default/web/app":                         http.StatusBadRequest, // no stream
		"/exec/default/web/nothing?output=1&command=sh": http.StatusNotFound,
		"/exec/default/gone/app?output=1&command=sh":    http.StatusNotFound,
		"/exec/default/web/u2/app?output=1&command=sh":  http.StatusNotFound,
	} {
		if code, _ := f.get(t, path); code != want {
			t.Errorf("%s: %d, want %d", path, code, want)
		}
	}
}

func TestPortForward(t *testing.T) {
	f := serve(t)
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	go func() {
		for {
			c, err := echo.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(c, c); c.Close() }()
		}
	}()
	roundTripper, upgrader, err := spdy.RoundTripperFor(&rest.Config{})
	if err != nil {
		t.Fatal(err)
	}
	u, _ := url.Parse(f.url + "/portForward/default/web")
	dialer := spdy.NewDialer(upgrader, &http.Client{Transport: roundTripper}, "POST", u)
	stop, ready := make(chan struct{}), make(chan struct{})
	pf, err := portforward.New(dialer, []string{fmt.Sprintf("0:%d", echo.Addr().(*net.TCPAddr).Port)}, stop, ready, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- pf.ForwardPorts() }()
	<-ready
	ports, err := pf.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ports[0].Local))
		if err != nil {
			t.Fatal(err)
		}
		payload := bytes.Repeat([]byte("x"), 300_000)
		go func() {
			conn.Write(payload)
			conn.(*net.TCPConn).CloseWrite()
		}()
		got, err := io.ReadAll(conn)
		if err != nil || len(got) != len(payload) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		conn.Close()
	}
	close(stop)
	<-done
}

func TestMetricsAndPods(t *testing.T) {
	f := serve(t)
	for path, want := range map[string]string{
		"/healthz":          "ok",
		"/pods":             `"kind":"PodList"`,
		"/runningpods/":     `"name":"web"`,
		"/stats/summary":    `"nodeName":"pi"`,
		"/metrics":          "kubelet_running_pods 1\n",
		"/metrics/resource": "node_cpu_usage_seconds_total 2 1000000\n",
		"/configz":          `{"kubeletconfig":{}}`,
	} {
		if code, body := f.get(t, path); code != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: %d %q", path, code, body)
		}
	}
}

// The board's own logs are shown, and nothing that a link in their folder points to outside of it.
func TestBoardLogs(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(t.TempDir(), "secret")
	for path, text := range map[string]string{filepath.Join(dir, "syslog"): "booted\n", secret: "secret"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(secret, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	handler := Handler(Config{BoardLogs: dir})
	for _, test := range []struct {
		path string
		code int
		want string
	}{
		{"/logs/", 200, `<a href="syslog">syslog</a>`},
		{"/logs/syslog", 200, "booted\n"},
		{"/logs/none", 404, ""},
		{"/logs/link", 500, ""},
	} {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest("GET", test.path, nil))
		if w.Code != test.code || !strings.Contains(w.Body.String(), test.want) || strings.Contains(w.Body.String(), "secret") {
			t.Errorf("%s: %d %s", test.path, w.Code, w.Body)
		}
	}
}
