package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"bramble.dev/agent/events"
	"bramble.dev/agent/fake"
	"bramble.dev/agent/hook"
	"bramble.dev/agent/probe"
	"bramble.dev/agent/seam"
	"bramble.dev/agent/state"
	"bramble.dev/agent/status"
)

// memStore is a store without a disk.
type memStore struct {
	mu   sync.Mutex
	rows map[string][]byte
}

func (s *memStore) Load(bucket string) (map[string][]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.rows), nil
}

func (s *memStore) Queue(bucket, key string, value []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rows == nil {
		s.rows = map[string][]byte{}
	}
	if value == nil {
		delete(s.rows, key)
	} else {
		s.rows[key] = value
	}
}

func (s *memStore) Write(_ context.Context, bucket string, changes []state.Change) error {
	for _, c := range changes {
		s.Queue(bucket, c.Key, c.Value)
	}
	return nil
}

type objects struct{}

func (objects) ConfigMap(_, name string) (*corev1.ConfigMap, bool) {
	return &corev1.ConfigMap{Data: map[string]string{"k": "v"}}, name == "there"
}
func (objects) Secret(_, name string) (*corev1.Secret, bool) {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}}, name == "key"
}
func (objects) RuntimeHandler(class string) (string, bool) { return class, class != "gone" }
func (objects) Services() ([]*corev1.Service, bool)        { return nil, true }
func (objects) Node() *corev1.Node                         { return nil }

// node is a manager with everything below it faked.
type node struct {
	t       *testing.T
	dir     string
	runtime *fake.Runtime
	images  *fake.Images
	network *fake.Network
	volumes *fake.Volumes
	store   *memStore

	m      *Manager
	probes *probe.Manager
	stop   func()

	mu       sync.Mutex
	statuses map[types.UID]corev1.PodStatus
	finished map[types.UID]bool
	events   []string
	history  []string
}

func newNode(t *testing.T) *node {
	n := &node{
		t: t, dir: t.TempDir(), runtime: fake.NewRuntime(), images: &fake.Images{}, network: &fake.Network{}, volumes: &fake.Volumes{}, store: &memStore{},
		statuses: map[types.UID]corev1.PodStatus{}, finished: map[types.UID]bool{},
	}
	return n
}

// start starts the agent's part, as a new process would.
func (n *node) start() {
	recorder := events.New("pi", func(e *corev1.Event) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.events = append(n.events, fmt.Sprintf("%s %s: %s", e.Type, e.Reason, e.Message))
	}, time.Now)
	n.probes = probe.New(probe.Config{Exec: n.runtime.Exec, Events: recorder, Changed: func(uid types.UID) { n.m.Wake(uid) }})
	m, err := New(Config{
		Runtime: n.runtime, Images: n.images, Network: n.network, Volumes: n.volumes, Objects: objects{}, Prober: n.probes,
		Hooks: hook.Runner{Exec: n.runtime.Exec}, Events: recorder, Store: n.store, Dir: n.dir,
		Facts: func() Facts {
			return Facts{HostIPs: []string{"192.168.1.2"}, ClusterDNS: []string{"10.43.0.10"}, ClusterDomain: "cluster.local"}
		},
		Report: func(pod *corev1.Pod, s corev1.PodStatus, finished bool) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.statuses[pod.UID], n.finished[pod.UID] = s, finished
			n.history = append(n.history, summary(s))
		},
		Retract: func(pod *corev1.Pod) {
			n.mu.Lock()
			defer n.mu.Unlock()
			delete(n.statuses, pod.UID)
			delete(n.finished, pod.UID)
		},
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		n.t.Fatal(err)
	}
	n.m = m
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := m.Run(ctx); err != nil {
			n.t.Error(err)
		}
	}()
	n.stop = func() {
		cancel()
		<-done
		n.probes.Close()
	}
}

func summary(s corev1.PodStatus) string {
	out := string(s.Phase)
	for _, list := range [][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses} {
		for _, c := range list {
			out += fmt.Sprintf(" %s:%s/%d", c.Name, stateName(c.State), c.RestartCount)
			if c.Ready {
				out += "+"
			}
		}
	}
	return out
}

func stateName(s corev1.ContainerState) string {
	switch {
	case s.Running != nil:
		return "running"
	case s.Terminated != nil:
		return fmt.Sprintf("%s(%d)", s.Terminated.Reason, s.Terminated.ExitCode)
	case s.Waiting != nil:
		return s.Waiting.Reason
	}
	return "?"
}

// after lets time pass.
func (n *node) after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
	if err := n.runtime.Violation(); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) status(uid types.UID) corev1.PodStatus {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.statuses[uid]
}

func (n *node) ended(uid types.UID) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.finished[uid]
}

func (n *node) expect(uid types.UID, want string) {
	n.t.Helper()
	if got := summary(n.status(uid)); got != want {
		n.t.Errorf("status is %q, want %q", got, want)
	}
}

func (n *node) sawEvent(want string) {
	n.t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	if !slices.ContainsFunc(n.events, func(s string) bool { return strings.Contains(s, want) }) {
		n.t.Errorf("no event %q in\n%s", want, strings.Join(n.events, "\n"))
	}
}

func simulate(t *testing.T, f func(*node)) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.start()
		defer func() { n.stop() }()
		f(n)
	})
}

func TestPodRuns(t *testing.T) {
	simulate(t, func(n *node) {
		p := pod()
		n.m.Set([]*corev1.Pod{p})
		n.after(time.Second)
		n.expect("u1", "Running app:running/0+")
		s := n.status("u1")
		if s.PodIP != "10.42.0.2" || s.HostIP != "192.168.1.2" || !strings.HasPrefix(s.ContainerStatuses[0].ContainerID, "bramble://") {
			t.Errorf("%+v", s)
		}
		for _, e := range []string{"Pulled: Container image \"nginx:1\" already present on machine", "Created: Container created", "Started: Container started"} {
			n.sawEvent(e)
		}
		hosts, err := os.ReadFile(filepath.Join(n.dir, "pods/u1/etc-hosts"))
		if err != nil || !strings.Contains(string(hosts), "10.42.0.2\tweb\n") {
			t.Errorf("hosts: %s %v", hosts, err)
		}
		if got := len(n.history); got > 2 {
			t.Errorf("%d reports for one start: %q", got, n.history)
		}
	})
}

func TestNothingIsStartedBeforeTheDesiredStateIsLoaded(t *testing.T) {
	simulate(t, func(n *node) {
		n.runtime.RunSandbox(context.Background(), seam.SandboxSpec{Pod: pod()})
		n.after(time.Hour)
		if log := n.runtime.Log(); len(log) != 1 {
			t.Errorf("without a desired state: %q", log)
		}
		n.m.Set(nil)
		n.after(time.Minute)
		if left, _ := n.runtime.List(context.Background()); len(left) != 0 {
			t.Errorf("leftovers are swept once it is: %+v", left)
		}
	})
}

func TestCrashLoop(t *testing.T) {
	simulate(t, func(n *node) {
		n.runtime.Behave("app", fake.Behavior{ExitAfter: time.Second, ExitCode: 37})
		n.m.Set([]*corev1.Pod{pod()})
		n.after(500 * time.Millisecond)
		n.expect("u1", "Running app:running/0+")
		n.after(time.Second) // restarted at once
		n.expect("u1", "Running app:running/1+")
		n.after(time.Second)
		n.expect("u1", "Running app:CrashLoopBackOff/1")
		last := n.status("u1").ContainerStatuses[0].LastTerminationState.Terminated
		if last == nil || last.ExitCode != 37 || last.FinishedAt.IsZero() {
			t.Errorf("last state: %+v", last)
		}
		n.sawEvent("BackOff: Back-off restarting failed container app in pod web_default(u1)")
		n.after(11 * time.Second)
		n.expect("u1", "Running app:CrashLoopBackOff/2")
		n.after(21 * time.Second)
		n.expect("u1", "Running app:CrashLoopBackOff/3")
		n.after(41 * time.Second)
		n.expect("u1", "Running app:CrashLoopBackOff/4")
		n.after(time.Hour)
		restarts := n.status("u1").ContainerStatuses[0].RestartCount
		if restarts < 14 || restarts > 18 { // every five minutes
			t.Errorf("%d restarts in an hour", restarts)
		}
		if all, _ := n.runtime.List(context.Background()); len(all[0].Containers) > 2 {
			t.Errorf("dead containers pile up: %d", len(all[0].Containers))
		}
	})
}

func TestLongRunForgetsBackOff(t *testing.T) {
	simulate(t, func(n *node) {
		n.runtime.Behave("app", fake.Behavior{ExitAfter: time.Second, ExitCode: 1})
		n.m.Set([]*corev1.Pod{pod()})
		n.after(40 * time.Second)
		n.runtime.Behave("app", fake.Behavior{ExitAfter: 15 * time.Minute, ExitCode: 1})
		n.after(16 * time.Minute)
		n.expect("u1", "Running app:running/5+") // restarted at once
	})
}

// TestAnotherDefinitionIsTriedAtOnce: what failed with one image, or with fewer resources, holds the next back neither as a
// crash nor as a pull.
func TestAnotherDefinitionIsTriedAtOnce(t *testing.T) {
	simulate(t, func(n *node) {
		n.runtime.Behave("app", fake.Behavior{ExitAfter: time.Second, ExitCode: 37})
		n.m.Set([]*corev1.Pod{pod()})
		n.after(2 * time.Minute)
		n.expect("u1", "Running app:CrashLoopBackOff/4")
		n.runtime.Behave("app", fake.Behavior{})
		n.m.Set([]*corev1.Pod{pod(func(p *corev1.Pod) { p.Spec.Containers[0].Image = "nginx:2" })})
		n.after(time.Second)
		n.expect("u1", "Running app:running/5+")
	})
	simulate(t, func(n *node) {
		n.images.SetError("nginx:1", errors.New("no such image"))
		n.m.Set([]*corev1.Pod{pod()})
		n.after(time.Minute)
		n.expect("u1", "Pending app:ImagePullBackOff/0")
		n.m.Set([]*corev1.Pod{pod(func(p *corev1.Pod) { p.Spec.Containers[0].Image = "nginx:2" })})
		n.after(time.Second)
		n.expect("u1", "Running app:running/0+")
	})
}

func TestRestartPolicies(t *testing.T) {
	for _, c := range []struct {
		policy corev1.RestartPolicy
		code   int32
		want   string
	}{
		{corev1.RestartPolicyNever, 0, "Succeeded app:Completed(0)/0"},
		{corev1.RestartPolicyNever, 37, "Failed app:Error(37)/0"},
		{corev1.RestartPolicyOnFailure, 0, "Succeeded app:Completed(0)/0"},
		{corev1.RestartPolicyOnFailure, 37, "Running app:CrashLoopBackOff/1"},
		{corev1.RestartPolicyAlways, 0, "Running app:CrashLoopBackOff/1"},
	} {
		t.Run(fmt.Sprint(c.policy, c.code), func(t *testing.T) {
			simulate(t, func(n *node) {
				n.runtime.Behave("app", fake.Behavior{ExitAfter: time.Second, ExitCode: c.code})
				n.m.Set([]*corev1.Pod{pod(policy(c.policy))})
				n.after(5 * time.Second)
				n.expect("u1", c.want)
				if strings.HasPrefix(c.want, "Succeeded") || strings.HasPrefix(c.want, "Failed") {
					if n.network.Attached() != 0 || len(n.volumes.Mounted) != 0 {
						t.Errorf("an ended pod holds %d addresses and %d volumes", n.network.Attached(), len(n.volumes.Mounted))
					}
					if !n.finished["u1"] {
						t.Error("not reported as finished")
					}
				}
			})
		})
	}
}

func TestDeletion(t *testing.T) {
	simulate(t, func(n *node) {
		var hooks []string
		n.runtime.Behave("app", fake.Behavior{StopAfter: 3 * time.Second, Exec: func(_ context.Context, cmd []string, s seam.Streams) (int, error) {
			hooks = append(hooks, strings.Join(cmd, " "))
			time.Sleep(5 * time.Second)
			return 0, nil
		}})
		p := pod(func(p *corev1.Pod) {
			p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"drain"}}}}
		})
		n.m.Set([]*corev1.Pod{p})
		n.after(time.Second)
		n.runtime.Log()
		d := p.DeepCopy()
		deleted(30)(d)
		n.m.Set([]*corev1.Pod{d})
		n.after(4 * time.Second)
		n.expect("u1", "Running app:running/0+")
		n.after(5 * time.Second)
		n.expect("u1", "Failed app:Error(143)/0")
		if !n.finished["u1"] || !slices.Equal(hooks, []string{"drain"}) {
			t.Errorf("finished %v, hooks %q", n.finished["u1"], hooks)
		}
		if log := n.runtime.Log(); !slices.Contains(log, "StopContainer app 25s") {
			t.Errorf("%q", log)
		}
		n.m.Set(nil)
		n.after(time.Second)
		if left, _ := n.runtime.List(context.Background()); len(left) != 0 || len(n.store.rows) != 0 || len(n.statuses) != 0 {
			t.Errorf("left: %+v %v %v", left, n.store.rows, n.statuses)
		}
		for _, dir := range []string{"pods/u1", "logs/pods/default_web_u1"} {
			if _, err := os.Stat(filepath.Join(n.dir, dir)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s is left", dir)
			}
		}
	})
}

// TestPreStopAfterRestart: an agent that is restarted while a hook runs, which ends with it, runs it again; one that has ended is not run again.
func TestPreStopAfterRestart(t *testing.T) {
	for name, c := range map[string]struct {
		restartAfter time.Duration
		hooks        int
		stopped      string
	}{
		"in its midst": {2 * time.Second, 2, "StopContainer app 23s"}, // 2 s of the first, 5 s of the second
		"afterwards":   {7 * time.Second, 1, "StopContainer app 25s"},
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(n *node) {
				hooks := 0
				n.runtime.Behave("app", fake.Behavior{StopAfter: 8 * time.Second, Exec: func(ctx context.Context, _ []string, _ seam.Streams) (int, error) {
					hooks++
					select {
					case <-time.After(5 * time.Second):
						return 0, nil
					case <-ctx.Done():
						return 0, ctx.Err()
					}
				}})
				p := pod(func(p *corev1.Pod) {
					p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"drain"}}}}
				})
				n.m.Set([]*corev1.Pod{p})
				n.after(time.Second)
				d := p.DeepCopy()
				deleted(30)(d)
				n.m.Set([]*corev1.Pod{d})
				n.after(c.restartAfter)
				n.stop()
				n.start()
				n.m.Set([]*corev1.Pod{d})
				n.after(20 * time.Second)
				n.expect("u1", "Failed app:Error(143)/0")
				if hooks != c.hooks {
					t.Errorf("the hook ran %d times, want %d", hooks, c.hooks)
				}
				if log := n.runtime.Log(); !slices.Contains(log, c.stopped) {
					t.Errorf("%q", log)
				}
			})
		})
	}
}

// A hook that sleeps for no time does not delay the signal: only a program that ignores it uses up the grace period.
func TestPreStopSleepOfNoTime(t *testing.T) {
	for name, ignores := range map[string]bool{"obeys": false, "ignores": true} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(n *node) {
				if ignores {
					n.runtime.Behave("app", fake.Behavior{StopAfter: time.Hour})
				}
				p := pod(func(p *corev1.Pod) {
					p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{}}}
				})
				n.m.Set([]*corev1.Pod{p})
				n.after(time.Second)
				d := p.DeepCopy()
				deleted(30)(d)
				n.m.Set([]*corev1.Pod{d})
				n.after(time.Second)
				if !slices.Contains(n.runtime.Log(), "StopContainer app 30s") || n.ended("u1") == ignores {
					t.Errorf("after a second: finished %v", n.ended("u1"))
				}
				n.after(30 * time.Second)
				if !n.ended("u1") {
					t.Error("it has not ended")
				}
			})
		})
	}
}

func TestForcedDeletionShortensTheGracePeriod(t *testing.T) {
	simulate(t, func(n *node) {
		n.runtime.Behave("app", fake.Behavior{StopAfter: time.Hour})
		p := pod()
		n.m.Set([]*corev1.Pod{p})
		n.after(time.Second)
		d := p.DeepCopy()
		deleted(600)(d)
		n.m.Set([]*corev1.Pod{d})
		n.after(10 * time.Second)
		d = d.DeepCopy()
		d.DeletionGracePeriodSeconds = seconds(0)
		n.m.Set([]*corev1.Pod{d})
		n.after(3 * time.Second)
		n.expect("u1", "Failed app:Error(137)/0")
	})
}

func TestEndIsNeverOverwritten(t *testing.T) {
	simulate(t, func(n *node) {
		n.runtime.Behave("app", fake.Behavior{StopAfter: 10 * time.Second})
		p := pod()
		n.m.Set([]*corev1.Pod{p})
		n.after(time.Second)
		d := p.DeepCopy()
		deleted(30)(d)
		n.m.Set([]*corev1.Pod{d})
		n.after(time.Second)
		again := p.DeepCopy() // an older version arrives late
		n.m.Set([]*corev1.Pod{again})
		n.after(20 * time.Second)
		n.expect("u1", "Failed app:Error(143)/0")
	})
}

func TestSidecarsEndLastAndInReverseOrder(t *testing.T) {
	simulate(t, func(n *node) {
		for _, name := range []string{"app", "proxy", "logger"} {
			n.runtime.Behave(name, fake.Behavior{StopAfter: 2 * time.Second})
		}
		p := pod(withSidecar, withSidecar)
		p.Spec.InitContainers[1].Name = "logger"
		n.m.Set([]*corev1.Pod{p})
		n.after(time.Second)
		n.expect("u1", "Running proxy:running/0+ logger:running/0+ app:running/0+")
		d := p.DeepCopy()
		deleted(30)(d)
		n.m.Set([]*corev1.Pod{d})
		for _, want := range [][]string{{"app", "logger", "proxy"}, {"logger", "proxy"}, {"proxy"}, nil} {
			n.after(time.Second)
			if got := n.runtime.Running("u1"); !slices.Equal(got, want) {
				t.Errorf("running: %q, want %q", got, want)
			}
			n.after(time.Second)
		}
	})
}

func TestJobWithSidecarSucceeds(t *testing.T) {
	simulate(t, func(n *node) {
		n.runtime.Behave("app", fake.Behavior{ExitAfter: 5 * time.Second})
		n.m.Set([]*corev1.Pod{pod(withSidecar, policy(corev1.RestartPolicyNever))})
		n.after(4 * time.Second)
		n.expect("u1", "Running proxy:running/0+ app:running/0+")
		n.after(4 * time.Second)
		n.expect("u1", "Succeeded proxy:Error(143)/0 app:Completed(0)/0")
	})
}

// TestJobWithSidecars: the sidecars end one after the other, and the first that has ended is not started again while the
// other still ends.
func TestJobWithSidecars(t *testing.T) {
	simulate(t, func(n *node) {
		n.runtime.Behave("app", fake.Behavior{ExitAfter: 5 * time.Second})
		for _, name := range []string{"proxy", "logger"} {
			n.runtime.Behave(name, fake.Behavior{StopAfter: 2 * time.Second})
		}
		n.m.Set([]*corev1.Pod{pod(withSidecar, withSidecar, policy(corev1.RestartPolicyNever), func(p *corev1.Pod) { p.Spec.InitContainers[1].Name = "logger" })})
		n.after(4 * time.Second)
		n.expect("u1", "Running proxy:running/0+ logger:running/0+ app:running/0+")
		n.after(4 * time.Second)
		n.expect("u1", "Running proxy:running/0+ logger:Error(143)/0 app:Completed(0)/0")
		n.after(4 * time.Second)
		n.expect("u1", "Succeeded proxy:Error(143)/0 logger:Error(143)/0 app:Completed(0)/0")
	})
}

func TestInitContainers(t *testing.T) {
	simulate(t, func(n *node) {
		n.runtime.Behave("setup", fake.Behavior{ExitAfter: 2 * time.Second, ExitCode: 1})
		n.m.Set([]*corev1.Pod{pod(withInit)})
		n.after(time.Second)
		n.expect("u1", "Pending setup:running/0 app:PodInitializing/0")
		n.after(4 * time.Second)
		n.expect("u1", "Pending setup:CrashLoopBackOff/1 app:PodInitializing/0")
		n.runtime.Behave("setup", fake.Behavior{ExitAfter: time.Second})
		n.after(12 * time.Second)
		n.expect("u1", "Running setup:Completed(0)/2+ app:running/0+")
	})
}

func TestImagePull(t *testing.T) {
	simulate(t, func(n *node) {
		n.images.SetError("nginx:1", errors.New("connection refused"))
		n.m.Set([]*corev1.Pod{pod()})
		n.after(time.Second)
		n.expect("u1", "Pending app:ErrImagePull/0")
		n.sawEvent(`Pulling: Pulling image "nginx:1"`)
		n.sawEvent(`Failed: Failed to pull image "nginx:1": connection refused`)
		n.sawEvent(`Failed: Error: ErrImagePull`)
		n.after(5 * time.Second)
		n.expect("u1", "Pending app:ImagePullBackOff/0")
		n.sawEvent(`Normal BackOff: Back-off pulling image "nginx:1"`)
		n.after(10 * time.Minute)
		if n.images.Pulls > 8 {
			t.Errorf("%d pulls in ten minutes", n.images.Pulls)
		}
		n.images.SetError("nginx:1", nil)
		n.after(6 * time.Minute)
		n.expect("u1", "Running app:running/0+")
	})
}

func TestPullPolicies(t *testing.T) {
	simulate(t, func(n *node) {
		n.images.SetError("nginx:1", errors.New("x"))
		n.m.Set([]*corev1.Pod{pod(func(p *corev1.Pod) { p.Spec.Containers[0].ImagePullPolicy = corev1.PullNever })})
		n.after(time.Second)
		n.expect("u1", "Pending app:ErrImageNeverPull/0")
		n.sawEvent(`ErrImageNeverPull: Container image "nginx:1" is not present with pull policy of Never`)
		if n.images.Pulls != 0 {
			t.Error("pulled")
		}
		n.images.SetError("nginx:1", nil)
		n.after(11 * time.Second)
		n.expect("u1", "Running app:running/0+")
	})
}

// With no registry in reach the image that is here is good enough, and an event says so; a registry that refuses is obeyed.
func TestAlwaysWithoutARegistry(t *testing.T) {
	for _, tt := range []struct {
		name, want, event string
		err               error
	}{
		{"unreachable", "Running app:running/0+", `Warning Pulled: Container image "nginx:1" already present on machine; its registry could not be asked for a newer one: no route to host`,
			&seam.UnreachableError{Err: errors.New("no route to host")}},
		{"refused", "Pending app:ErrImagePull/0", `Failed: Failed to pull image "nginx:1": unauthorized`, errors.New("unauthorized")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			simulate(t, func(n *node) {
				n.images.SetError("nginx:1", tt.err)
				n.images.Absent["nginx:1"] = false
				n.m.Set([]*corev1.Pod{pod(func(p *corev1.Pod) { p.Spec.Containers[0].ImagePullPolicy = corev1.PullAlways })})
				n.after(time.Second)
				n.expect("u1", tt.want)
				n.sawEvent(tt.event)
			})
		})
	}
}

func TestImportedImageEndsAPull(t *testing.T) {
	simulate(t, func(n *node) {
		n.images.SetError("nginx:1", errors.New("no route to host"))
		n.images.Delay = time.Hour
		n.m.Set([]*corev1.Pod{pod()})
		n.after(time.Minute)
		n.expect("u1", "Pending app:ContainerCreating/0")
		n.images.SetError("nginx:1", nil)
		n.m.ObjectsChanged("")
		n.after(time.Second)
		n.expect("u1", "Running app:running/0+")
	})
}

func TestImportedImageIsTakenAtOnce(t *testing.T) {
	simulate(t, func(n *node) {
		n.images.SetError("nginx:1", errors.New("no route to host"))
		n.m.Set([]*corev1.Pod{pod()})
		n.after(10 * time.Minute)
		n.expect("u1", "Pending app:ImagePullBackOff/0")
		n.images.SetError("nginx:1", nil)
		n.m.ObjectsChanged("")
		n.after(time.Second)
		n.expect("u1", "Running app:running/0+")
	})
}

func TestDeletionWhilePulling(t *testing.T) {
	simulate(t, func(n *node) {
		n.images.SetError("nginx:1", errors.New("x"))
		n.images.Delay = time.Hour
		p := pod()
		n.m.Set([]*corev1.Pod{p})
		n.after(time.Second)
		d := p.DeepCopy()
		deleted(30)(d)
		n.m.Set([]*corev1.Pod{d})
		n.after(time.Second)
		if !n.finished["u1"] {
			t.Errorf("status %s", summary(n.status("u1")))
		}
	})
}

func TestMissingConfigMap(t *testing.T) {
	simulate(t, func(n *node) {
		n.m.Set([]*corev1.Pod{pod(func(p *corev1.Pod) {
			p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "gone"}}}}
		})})
		n.after(time.Second)
		n.expect("u1", "Pending app:CreateContainerConfigError/0")
		n.sawEvent(`Failed: Error: configmap "gone" not found`)
	})
}

func TestStartError(t *testing.T) {
	simulate(t, func(n *node) {
		n.runtime.Behave("app", fake.Behavior{StartError: errors.New(`exec: "nope": executable file not found in $PATH`)})
		n.m.Set([]*corev1.Pod{pod(policy(corev1.RestartPolicyNever))})
		n.after(time.Second)
		n.expect("u1", "Failed app:StartError(128)/0")
		n.sawEvent(`Failed: Error: exec: "nope": executable file not found in $PATH`)
	})
}

func TestLivenessProbe(t *testing.T) {
	simulate(t, func(n *node) {
		var healthy atomic.Bool
		healthy.Store(true)
		n.runtime.Behave("app", fake.Behavior{Exec: func(context.Context, []string, seam.Streams) (int, error) {
			if healthy.Load() {
				return 0, nil
			}
			return 1, nil
		}})
		n.m.Set([]*corev1.Pod{pod(func(p *corev1.Pod) {
			p.Spec.Containers[0].LivenessProbe = &corev1.Probe{PeriodSeconds: 10, FailureThreshold: 3, ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"check"}}}}
		})})
		n.after(time.Minute)
		n.expect("u1", "Running app:running/0+")
		healthy.Store(false)
		n.after(15 * time.Second)
		n.expect("u1", "Running app:running/0+")
		n.after(15 * time.Second)
		healthy.Store(true)
		n.after(15 * time.Second)
		n.expect("u1", "Running app:running/1+")
		n.sawEvent("Unhealthy: Liveness probe failed: ")
		n.sawEvent("Killing: Container app failed liveness probe, will be restarted")
	})
}

func TestReadinessProbeAndRestartOfTheAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.start()
		var ready atomic.Bool
		n.runtime.Behave("app", fake.Behavior{Exec: func(context.Context, []string, seam.Streams) (int, error) {
			if ready.Load() {
				return 0, nil
			}
			return 1, nil
		}})
		p := pod(func(p *corev1.Pod) {
			p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{PeriodSeconds: 5, FailureThreshold: 1, ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"check"}}}}
		})
		n.m.Set([]*corev1.Pod{p})
		n.after(time.Second)
		n.expect("u1", "Running app:running/0")
		ready.Store(true)
		n.after(5 * time.Second)
		n.expect("u1", "Running app:running/0+")
		n.stop()
		n.history = nil
		n.runtime.Log()
		n.start()
		n.m.Set([]*corev1.Pod{p})
		n.after(time.Second)
		n.expect("u1", "Running app:running/0+") // still ready, though no probe has said so yet
		if log := n.runtime.Log(); len(log) != 0 {
			t.Errorf("a restart of the agent does %q", log)
		}
		n.stop()
	})
}

func TestExitWhileTheAgentIsDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.start()
		p := pod(policy(corev1.RestartPolicyNever))
		n.m.Set([]*corev1.Pod{p})
		n.after(time.Second)
		n.stop()
		all, _ := n.runtime.List(context.Background())
		n.runtime.Exit(all[0].Containers[0].ID, 37)
		ended := time.Now()
		time.Sleep(time.Hour)
		n.history = nil
		n.start()
		n.m.Set([]*corev1.Pod{p})
		n.after(time.Second)
		n.expect("u1", "Failed app:Error(37)/0")
		at := n.status("u1").ContainerStatuses[0].State.Terminated.FinishedAt
		if !at.Time.Equal(ended.Truncate(time.Second)) {
			t.Errorf("finished at %v, want %v", at, ended)
		}
		failed := 0
		for _, h := range n.history {
			if strings.HasPrefix(h, "Failed") {
				failed++
			}
		}
		if failed > 2 { // once with the sandbox, once without
			t.Errorf("reported %d times: %q", failed, n.history)
		}
		n.stop()
	})
}

func TestReboot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.start()
		n.runtime.Behave("setup", fake.Behavior{ExitAfter: time.Second})
		p := pod(withInit)
		n.m.Set([]*corev1.Pod{p})
		n.after(3 * time.Second)
		n.expect("u1", "Running setup:Completed(0)/0+ app:running/0+")
		n.stop()
		n.runtime.Reboot()
		n.start()
		n.m.Set([]*corev1.Pod{p})
		n.after(5 * time.Second)
		n.expect("u1", "Running setup:Completed(0)/1+ app:running/1+")
		if all, _ := n.runtime.List(context.Background()); len(all) != 1 || all[0].Attempt != 1 {
			t.Errorf("%+v", all)
		}
		n.sawEvent("SandboxChanged: Pod sandbox changed, it will be killed and re-created.")
		n.stop()
	})
}

func TestOrphanOfAnEarlierAgentIsEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.start()
		n.m.Set([]*corev1.Pod{pod()})
		n.after(time.Second)
		n.stop()
		n.start()
		n.m.Set(nil)
		n.after(time.Minute)
		if left, _ := n.runtime.List(context.Background()); len(left) != 0 || n.network.Attached() != 0 || len(n.store.rows) != 0 {
			t.Errorf("left: %+v, %d addresses, %d records", left, n.network.Attached(), len(n.store.rows))
		}
		n.stop()
	})
}

func TestPostStartHookFails(t *testing.T) {
	simulate(t, func(n *node) {
		n.runtime.Behave("app", fake.Behavior{Exec: func(context.Context, []string, seam.Streams) (int, error) {
			time.Sleep(2 * time.Second)
			return 1, nil
		}})
		n.m.Set([]*corev1.Pod{pod(func(p *corev1.Pod) {
			p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"init"}}}}
		})})
		n.after(time.Second)
		n.expect("u1", "Pending app:ContainerCreating/0")
		n.after(2 * time.Second)
		n.sawEvent("FailedPostStartHook: PostStartHook failed")
		n.sawEvent("Killing: FailedPostStartHook")
	})
}

func TestDeadline(t *testing.T) {
	simulate(t, func(n *node) {
		n.runtime.Behave("app", fake.Behavior{StopAfter: 5 * time.Second})
		n.m.Set([]*corev1.Pod{pod(func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = seconds(60) })})
		n.after(59 * time.Second)
		n.expect("u1", "Running app:running/0+")
		n.after(3 * time.Second)
		n.expect("u1", "Running app:running/0+") // until it has ended
		n.after(10 * time.Second)
		n.expect("u1", "Failed app:Error(143)/0")
		if s := n.status("u1"); s.Reason != "DeadlineExceeded" {
			t.Errorf("reason %q", s.Reason)
		}
	})
}

func TestSandboxFailureIsRetried(t *testing.T) {
	simulate(t, func(n *node) {
		var broken atomic.Bool
		broken.Store(true)
		n.runtime.Fail = func(op string) error {
			if op == "RunSandbox" && broken.Load() {
				return errors.New("no space left on device")
			}
			return nil
		}
		n.m.Set([]*corev1.Pod{pod()})
		n.after(time.Minute)
		n.expect("u1", "Pending app:ContainerCreating/0")
		n.sawEvent("FailedCreatePodSandBox: Failed to create pod sandbox: no space left on device")
		if log := n.runtime.Log(); len(log) > 8 {
			t.Errorf("%d attempts in a minute", len(log))
		}
		broken.Store(false)
		n.after(time.Minute)
		n.expect("u1", "Running app:running/0+")
	})
}

// TestNoOtherRuntime: a pod whose class names another runtime than ours is not run by ours, nor one without its devices.
func TestNoOtherRuntime(t *testing.T) {
	name := "n"
	for _, tt := range []struct {
		class, event string
		claim        *corev1.PodResourceClaim
	}{
		{class: "runc"},
		{class: "kata", event: `FailedCreatePodSandBox: Failed to create pod sandbox: no runtime for "kata" is configured`},
		{class: "gone", event: `FailedCreatePodSandBox: Failed to create pod sandbox: runtimeclass.node.k8s.io "gone" not found`},
		{claim: &corev1.PodResourceClaim{ResourceClaimTemplateName: &name}, event: `FailedPrepareDynamicResources: Failed to prepare dynamic resources: pod "default/web": ResourceClaim not created yet`},
		{claim: &corev1.PodResourceClaim{ResourceClaimName: &name}, event: `FailedPrepareDynamicResources: Failed to prepare dynamic resources: ResourceClaim n: no DRA driver is registered`},
	} {
		simulate(t, func(n *node) {
			p := pod()
			p.Spec.RuntimeClassName = &tt.class
			if tt.claim != nil {
				p.Spec.ResourceClaims = []corev1.PodResourceClaim{*tt.claim}
			}
			n.m.Set([]*corev1.Pod{p})
			n.after(time.Minute)
			if tt.event == "" {
				n.expect("u1", "Running app:running/0+")
				return
			}
			n.expect("u1", "Pending app:ContainerCreating/0")
			n.sawEvent("Warning " + tt.event)
			if log := n.runtime.Log(); len(log) > 0 {
				t.Errorf("%q was done", log)
			}
		})
	}
}

func TestEphemeralContainer(t *testing.T) {
	simulate(t, func(n *node) {
		p := pod()
		n.m.Set([]*corev1.Pod{p})
		n.after(time.Second)
		d := p.DeepCopy()
		withDebug(d)
		n.runtime.Behave("debug", fake.Behavior{ExitAfter: 5 * time.Second, ExitCode: 1})
		n.m.Set([]*corev1.Pod{d})
		n.after(time.Second)
		n.expect("u1", "Running app:running/0+ debug:running/0")
		n.after(time.Minute)
		n.expect("u1", "Running app:running/0+ debug:Error(1)/0")
	})
}

func TestIdlePodDoesNothing(t *testing.T) {
	simulate(t, func(n *node) {
		n.m.Set([]*corev1.Pod{pod()})
		n.after(time.Second)
		n.runtime.Log()
		n.history = nil
		before := string(n.store.rows["u1"])
		n.after(24 * time.Hour)
		if log := n.runtime.Log(); len(log) != 0 || len(n.history) != 0 || string(n.store.rows["u1"]) != before {
			t.Errorf("an idle day: %q %q", log, n.history)
		}
	})
}

func TestPodOfTheSameNameWithAnotherUID(t *testing.T) {
	simulate(t, func(n *node) {
		n.m.Set([]*corev1.Pod{pod()})
		n.after(time.Second)
		other := pod()
		other.UID = "u2"
		n.m.Set([]*corev1.Pod{other})
		n.after(time.Minute)
		if n.runtime.Running("u1") != nil || len(n.runtime.Running("u2")) != 1 {
			t.Errorf("running: %q %q", n.runtime.Running("u1"), n.runtime.Running("u2"))
		}
		v, ok := n.m.Pod("default", "web", "")
		if !ok || v.Pod.UID != "u2" {
			t.Errorf("%v", v.Pod)
		}
	})
}

func TestReadinessGateOfTheServer(t *testing.T) {
	simulate(t, func(n *node) {
		p := pod(func(p *corev1.Pod) {
			p.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "example.com/lb"}}
		})
		n.m.Set([]*corev1.Pod{p})
		n.after(time.Second)
		ready := func() corev1.ConditionStatus {
			for _, c := range n.status("u1").Conditions {
				if c.Type == corev1.PodReady {
					return c.Status
				}
			}
			return ""
		}
		if ready() != corev1.ConditionFalse {
			t.Error("ready without its gate")
		}
		d := p.DeepCopy()
		d.Status.Conditions = []corev1.PodCondition{{Type: "example.com/lb", Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
		n.m.Set([]*corev1.Pod{d})
		n.after(time.Second)
		if ready() != corev1.ConditionTrue {
			t.Error("not ready with its gate")
		}
	})
}

// TestForgottenPodHoldsNoRoom: a pod that the server has forgotten, and that is still being ended, is no reason to refuse the one
// in its place.
func TestForgottenPodHoldsNoRoom(t *testing.T) {
	simulate(t, func(n *node) {
		n.m.Admit = func(_ *corev1.Pod, others []*corev1.Pod) *status.Waiting {
			if len(others) > 0 {
				return &status.Waiting{Reason: "NodePorts", Message: "Predicate NodePorts failed"}
			}
			return nil
		}
		n.m.Set([]*corev1.Pod{pod()})
		n.after(time.Second)
		n.m.Set([]*corev1.Pod{pod(func(p *corev1.Pod) { p.UID = "u2" })})
		n.after(time.Minute)
		if s := n.status("u2"); s.Phase != corev1.PodRunning {
			t.Errorf("the pod in its place: %+v", s)
		}
	})
}

// TestRejectedPod: of a pod that the node never took in there is a reason to tell, and nothing of containers, also to an
// agent that comes after.
func TestRejectedPod(t *testing.T) {
	simulate(t, func(n *node) {
		n.m.Admit = func(*corev1.Pod, []*corev1.Pod) *status.Waiting {
			return &status.Waiting{Reason: "NodePorts", Message: "Predicate NodePorts failed"}
		}
		p := pod(func(p *corev1.Pod) {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}, {Type: "example.com/gate", Status: corev1.ConditionTrue}}
		})
		for range 2 {
			n.m.Set([]*corev1.Pod{p})
			n.after(time.Minute)
			s := n.status("u1")
			if s.Phase != corev1.PodFailed || s.Reason != "NodePorts" || s.Message != "Pod was rejected: Predicate NodePorts failed" || s.StartTime == nil {
				t.Errorf("%+v", s)
			}
			if len(s.ContainerStatuses) != 0 || len(s.Conditions) != 1 || s.Conditions[0].Type != "example.com/gate" {
				t.Errorf("containers %+v, conditions %+v", s.ContainerStatuses, s.Conditions)
			}
			n.stop()
			n.start()
		}
		n.sawEvent("Warning NodePorts: Predicate NodePorts failed")
	})
}
