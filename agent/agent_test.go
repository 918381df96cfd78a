package agent

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"bramble.dev/agent/control"
	"bramble.dev/agent/uplink"
	"bramble.dev/link"
	"bramble.dev/runtime/testimage"
)

const inside = "BRAMBLE_TEST_INSIDE"

// TestMain runs the tests in a network and mount namespace of their own: an agent makes bridges,
// rules and mounts, and must find none of others.
func TestMain(m *testing.M) {
	if os.Getuid() != 0 || os.Getenv(inside) != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

const (
	nodeIP = "192.0.2.10"
	busy   = "docker.io/library/busybox:1"
)

// cluster is a server that exists only in the test: it tells sets and hears statuses.
type cluster struct {
	t      *testing.T
	config Config

	mu     sync.Mutex
	sets   map[string]map[string][]byte
	apply  func(ctx context.Context, set string, changes []link.Change) error
	status *link.Set
	serve  func(target string, conn net.Conn)
	up     bool // there is a link

	stop func()
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("a node needs root")
	}
	for _, args := range []string{"link set lo up", "link add eth9 type veth peer name eth8", "addr add " + nodeIP + "/24 dev eth9", "link set eth9 up", "link set eth8 up", "route add default dev eth9"} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil && !strings.Contains(string(out), "exists") && !strings.Contains(string(out), "Already") && !strings.Contains(string(out), "already assigned") {
			t.Fatalf("ip %s: %v: %s", args, err, out)
		}
	}
	runc, shim, pause, err := testimage.Programs()
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	c := &cluster{t: t, up: true, sets: map[string]map[string][]byte{"node": {}, "shared": {}}, config: Config{
		DataDir: t.TempDir(), NodeName: "pi", Servers: []string{"mqtts://" + nodeIP + ":8883"}, Runc: runc, Shim: shim, Pause: pause, Logger: log, Version: "test",
	}}
	t.Cleanup(func() {
		if c.stop != nil {
			c.stop()
		}
		if err := Teardown(context.Background(), c.config); err != nil {
			t.Errorf("teardown: %v", err)
		}
		for _, what := range []string{"link", "netns"} {
			if out, _ := exec.Command("ip", what).CombinedOutput(); strings.Contains(string(out), Instance(c.config.DataDir)) {
				t.Errorf("left behind:\n%s", out)
			}
		}
	})
	conf, err := link.ClusterConfig{ID: "test", Domain: "cluster.local", PodCIDR: "10.42.0.0/16", ServiceCIDR: "10.43.0.0/16", DNS: "10.43.0.10", VNI: 7}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	c.put("shared", link.ClusterKey, conf)
	c.put("node", "node/pi", c.encode(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "pi"}, Spec: corev1.NodeSpec{PodCIDR: "10.42.3.0/24"}}))
	return c
}

func (c *cluster) encode(o interface{ Marshal() ([]byte, error) }) []byte {
	c.t.Helper()
	b, err := o.Marshal()
	if err != nil {
		c.t.Fatal(err)
	}
	return b
}

// put changes what the server wants; the agent is told if there is a link.
func (c *cluster) put(set, key string, value []byte) {
	c.t.Helper()
	c.mu.Lock()
	if value == nil {
		delete(c.sets[set], key)
	} else {
		c.sets[set][key] = value
	}
	apply, up := c.apply, c.up
	c.mu.Unlock()
	if apply != nil && up {
		if err := apply(context.Background(), set, []link.Change{{Key: key, Value: value}}); err != nil {
			c.t.Error(err)
		}
	}
}

func (c *cluster) run(p *corev1.Pod) {
	c.t.Helper()
	c.put("node", "pods/"+p.Namespace+"/"+p.Name, c.encode(p))
}

// Run implements server.
func (c *cluster) Run(ctx context.Context) error {
	c.mu.Lock()
	apply, up := c.apply, c.up
	var changes = map[string][]link.Change{}
	for set, items := range c.sets {
		for k, v := range items {
			changes[set] = append(changes[set], link.Change{Key: k, Value: v})
		}
	}
	c.mu.Unlock()
	if up {
		for _, set := range []string{"shared", "node"} {
			if err := apply(ctx, set, changes[set]); err != nil {
				return err
			}
		}
	}
	<-ctx.Done()
	return nil
}
func (c *cluster) Notify()                                         {}
func (c *cluster) Moved()                                          {}
func (c *cluster) OnAcknowledged(func(key string, v link.Version)) {}
func (c *cluster) Dial(context.Context, string) (net.Conn, error)  { return nil, uplink.ErrNotConnected }
func (c *cluster) SetBrokers([]string) error                       { return nil }
func (c *cluster) Synced(string) bool                              { return c.up }
func (c *cluster) Certificate() (*tls.Certificate, error)          { return nil, uplink.ErrNotConnected }
func (c *cluster) CACertPEM() []byte                               { return nil }

// refusing is a server that does not want the node.
type refusing struct{ *cluster }

func (refusing) Run(context.Context) error { return &link.Refusal{Reason: "another secret"} }

// abortedStream remembers why it was ended.
type abortedStream struct {
	net.Conn
	reason error
}

func (s *abortedStream) Abort(reason error) { s.reason = reason }

// TestNobodyListens: who asks for a pod's port at which nobody listens is told so.
func TestNobodyListens(t *testing.T) {
	const address = "127.0.0.1:1"
	near, far := net.Pipe()
	defer far.Close()
	stream := &abortedStream{Conn: near}
	new(agent).serve(link.TargetTCP+address, stream)
	var why *net.OpError // refused, or in this test's own network, which is down, unreachable
	if !errors.As(stream.reason, &why) || why.Addr.String() != address {
		t.Errorf("ended with %v", stream.reason)
	}
	if _, err := far.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the stream is left open: %v", err)
	}
}

// TestRefusedJoin: a join that the server refuses leaves nothing on the board, so that the next begins anew.
func TestRefusedJoin(t *testing.T) {
	c := newCluster(t)
	err := run(t.Context(), c.config, func(context.Context, uplink.Config) (server, error) { return refusing{c}, nil })
	var refusal *link.Refusal
	if !errors.As(err, &refusal) {
		t.Fatalf("error %v", err)
	}
	if left, err := os.ReadDir(c.config.DataDir); err != nil || len(left) > 0 {
		t.Errorf("left in the data folder: %v %v", left, err)
	}
	sum := sha256.Sum256([]byte(c.config.dir("runtime")))
	if _, err := os.Stat("/run/bramble-" + hex.EncodeToString(sum[:])[:6]); !os.IsNotExist(err) {
		t.Errorf("left in /run: %v", err)
	}
}

// start starts the agent, as a new process would.
func (c *cluster) start() {
	c.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	config := c.config
	config.Ready = func() { close(ready) }
	go func() {
		done <- run(ctx, config, func(_ context.Context, u uplink.Config) (server, error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.apply, c.status, c.serve = u.Apply, u.Status, u.Serve
			return c, nil
		})
	}()
	select {
	case <-ready:
	case err := <-done:
		c.t.Fatalf("the agent ended: %v", err)
	}
	c.stop = func() {
		c.stop = nil
		cancel()
		if err := <-done; err != nil {
			c.t.Errorf("the agent ended: %v", err)
		}
	}
}

func (c *cluster) importImage() {
	c.t.Helper()
	img, err := testimage.Busybox(testimage.Options{})
	if err != nil {
		c.t.Fatal(err)
	}
	file := filepath.Join(c.t.TempDir(), "image.tar")
	if err := testimage.WriteDocker(file, busy, img); err != nil {
		c.t.Fatal(err)
	}
	f, err := os.Open(file)
	if err != nil {
		c.t.Fatal(err)
	}
	defer f.Close()
	if _, err := control.NewClient(control.Socket(c.config.DataDir)).Import(context.Background(), f); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) report(p *corev1.Pod) *link.PodReport {
	b, ok := c.status.Get(podKey(p))
	if !ok {
		return nil
	}
	r, err := link.DecodePodReport(b)
	if err != nil {
		c.t.Fatal(err)
	}
	return r
}

// wait waits until a pod's report is as it should be.
func (c *cluster) wait(p *corev1.Pod, what string, good func(*link.PodReport) bool) *link.PodReport {
	c.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		r := c.report(p)
		if good(r) {
			return r
		}
		if time.Now().After(deadline) {
			for _, k := range c.status.Keys() {
				if b, _ := c.status.Get(k); strings.HasPrefix(k, "events/") {
					var e corev1.Event
					if e.Unmarshal(b) == nil {
						c.t.Logf("event: %s %s (%d)", e.Reason, e.Message, e.Count)
					}
				}
			}
			c.t.Fatalf("pod %s never was %s: %+v", p.Name, what, r)
		}
	}
}

func ready(r *link.PodReport) bool {
	if r == nil {
		return false
	}
	for _, c := range r.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// client reaches the node's kubelet API, as the server does.
func (c *cluster) client() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go c.serve("kubelet", theirs)
		return ours, nil
	}}}
}

func (c *cluster) get(path string) string {
	c.t.Helper()
	res, err := c.client().Get("http://pi" + path)
	if err != nil {
		c.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return string(b)
}

// exec runs a command in a pod and returns what it printed.
func (c *cluster) exec(pod, cmd string) string {
	c.t.Helper()
	res, err := c.client().PostForm("http://pi/run/default/"+pod+"/app", map[string][]string{"cmd": {cmd}})
	if err != nil {
		c.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		c.t.Errorf("%s: %s %s %v", cmd, res.Status, b, err)
	}
	return string(b)
}

func busyPod(name, script string) *corev1.Pod {
	grace := int64(5)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name)},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyAlways, TerminationGracePeriodSeconds: &grace, DNSPolicy: corev1.DNSClusterFirst,
			Containers: []corev1.Container{{
				Name: "app", Image: busy, Command: []string{"sh", "-c", script}, ImagePullPolicy: corev1.PullIfNotPresent,
				Env:                    []corev1.EnvVar{{Name: "IP", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "status.podIP"}}}},
				TerminationMessagePath: "/dev/termination-log", TerminationMessagePolicy: corev1.TerminationMessageReadFile,
			}},
		},
	}
}

// TestPodOnARealNode is the main job on one node: a pod of real processes in a real network, with
// its log, a command in it, its end, and nothing left.
func TestPodOnARealNode(t *testing.T) {
	c := newCluster(t)
	c.start()
	c.importImage()
	p := busyPod("web", "trap 'echo bye; exit 0' TERM; echo hello from $IP; cat /etc/resolv.conf; while true; do sleep 0.1; done")
	c.run(p)
	r := c.wait(p, "ready", ready)
	if !strings.HasPrefix(r.Status.PodIP, "10.42.3.") || r.Status.HostIP != nodeIP || r.Status.Phase != corev1.PodRunning {
		t.Errorf("%+v", r.Status)
	}
	log := ""
	for deadline := time.Now().Add(10 * time.Second); !strings.Contains(log, "ndots") && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		log = c.get("/containerLogs/default/web/app")
	}
	if !strings.HasPrefix(log, "hello from "+r.Status.PodIP+"\n") || !strings.Contains(log, "nameserver 10.43.0.10") {
		t.Errorf("log: %q", log)
	}
	for i := range 20 {
		if hosts := c.exec("web", "cat /etc/hosts"); !strings.Contains(hosts, r.Status.PodIP+"\tweb\n") {
			t.Errorf("command %d: hosts: %q", i, hosts)
		}
	}
	if summary := c.get("/stats/summary"); !strings.Contains(summary, `"name":"web"`) {
		t.Errorf("summary: %s", summary)
	}
	d := p.DeepCopy()
	d.DeletionTimestamp, d.DeletionGracePeriodSeconds = &metav1.Time{Time: time.Now()}, d.Spec.TerminationGracePeriodSeconds
	c.run(d)
	r = c.wait(p, "terminated", func(r *link.PodReport) bool { return r.Terminated })
	if end := r.Status.ContainerStatuses[0].State.Terminated; end == nil || end.ExitCode != 0 || r.Status.Phase != corev1.PodSucceeded {
		t.Errorf("%+v", r.Status)
	}
	if log := c.get("/containerLogs/default/web/app"); !strings.HasSuffix(log, "bye\n") {
		t.Errorf("log after the end: %q", log)
	}
	c.put("node", "pods/default/web", nil)
	c.wait(p, "forgotten", func(r *link.PodReport) bool { return r == nil })
}

// TestAgentIsReplaced ends the agent, lets a container end meanwhile, and starts another with no
// link: what runs goes on, what ended is reported once with its own time, what is wanted comes from
// the disk.
func TestAgentIsReplaced(t *testing.T) {
	c := newCluster(t)
	c.start()
	c.importImage()
	steady := busyPod("steady", "while true; do sleep 1; done")
	ending := busyPod("ending", "until [ -f /tmp/soon ]; do sleep 0.05; done; sleep 0.3; echo last words > /dev/termination-log; exit 37")
	ending.Spec.RestartPolicy = corev1.RestartPolicyNever
	c.run(steady)
	c.run(ending)
	before := c.wait(steady, "ready", ready)
	c.wait(ending, "ready", ready)
	c.exec("ending", "touch /tmp/soon")
	c.stop()
	time.Sleep(time.Second)
	c.up = false
	from := time.Now()
	c.start()
	after := c.wait(steady, "ready", ready)
	a, b := before.Status.ContainerStatuses[0], after.Status.ContainerStatuses[0]
	if a.ContainerID != b.ContainerID || b.RestartCount != 0 || before.Status.PodIP != after.Status.PodIP {
		t.Errorf("before %+v\nafter %+v", a, b)
	}
	r := c.wait(ending, "failed", func(r *link.PodReport) bool { return r != nil && r.Status.Phase == corev1.PodFailed })
	end := r.Status.ContainerStatuses[0].State.Terminated
	if end == nil || end.ExitCode != 37 || end.Message != "last words\n" || !end.FinishedAt.Time.Before(from) {
		t.Errorf("%+v", end)
	}
	if n := len(c.status.Keys()); n == 0 {
		t.Error("nothing is reported")
	}
}

// TestCrashLoopOnARealNode restarts a container that ends, and shows its last log.
func TestCrashLoopOnARealNode(t *testing.T) {
	c := newCluster(t)
	c.start()
	c.importImage()
	p := busyPod("crash", "echo attempt; exit 1")
	c.run(p)
	r := c.wait(p, "in a crash loop", func(r *link.PodReport) bool {
		return r != nil && len(r.Status.ContainerStatuses) > 0 && r.Status.ContainerStatuses[0].State.Waiting != nil && r.Status.ContainerStatuses[0].State.Waiting.Reason == "CrashLoopBackOff"
	})
	if n := r.Status.ContainerStatuses[0].RestartCount; n != 1 {
		t.Errorf("%d restarts", n)
	}
	if log := c.get("/containerLogs/default/crash/app?previous=true"); log != "attempt\n" {
		t.Errorf("%q", log)
	}
}

func TestSecondAgentIsRefused(t *testing.T) {
	c := newCluster(t)
	c.start()
	err := run(context.Background(), c.config, nil)
	if err == nil || !strings.Contains(err.Error(), "another agent works in this data folder") {
		t.Error(err)
	}
}
