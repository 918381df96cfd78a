package engine

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"bramble.dev/runtime/container"
	"bramble.dev/runtime/logs"
	"bramble.dev/runtime/testimage"
)

func ptr[T any](v T) *T { return &v }

func execOut(t *testing.T, e *Engine, id, script string) string {
	t.Helper()
	var out, errs bytes.Buffer
	code, err := e.Exec(context.Background(), id, []string{"sh", "-c", script}, Streams{Stdout: &out, Stderr: &errs})
	if err != nil || code != 0 {
		t.Fatalf("%s: %d, %v, %s", script, code, err, errs.String())
	}
	return strings.TrimSpace(out.String())
}

// TestSharing looks at what the containers of a pod share, in the kinds of pod that there are.
func TestSharing(t *testing.T) {
	e := openEngine(t, config(t))
	importImage(t, e, testImage, testimage.Options{})
	host := func(ns string) string { s, _ := os.Readlink("/proc/thread-self/ns/" + ns); return s }
	for _, tt := range []struct {
		name   string
		change func(*corev1.PodSpec)
		shared string // namespaces that both containers have
		hosts  string // and that are the host's
	}{
		{"ordinary", func(*corev1.PodSpec) {}, "net ipc uts", ""},
		{"hostnetwork", func(s *corev1.PodSpec) { s.HostNetwork = true }, "net ipc uts", "net uts"},
		{"hostpid", func(s *corev1.PodSpec) { s.HostPID = true }, "net ipc uts pid", "pid"},
		{"hostipc", func(s *corev1.PodSpec) { s.HostIPC = true }, "net ipc uts", "ipc"},
		{"sharedpid", func(s *corev1.PodSpec) { s.ShareProcessNamespace = ptr(true) }, "net ipc uts pid", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pod := testPod(tt.name, sh("sleep 1000"), sh("sleep 1000"))
			tt.change(&pod.Spec)
			s := runSandbox(t, e, pod)
			a, b := start(t, e, s, pod, 0), start(t, e, s, pod, 1)
			for _, ns := range []string{"net", "ipc", "uts", "pid", "mnt"} {
				first, second := execOut(t, e, a.ID, "readlink /proc/self/ns/"+ns), execOut(t, e, b.ID, "readlink /proc/self/ns/"+ns)
				if (first == second) != strings.Contains(tt.shared, ns) {
					t.Errorf("%s: %s and %s", ns, first, second)
				}
				if (first == host(ns)) != strings.Contains(tt.hosts, ns) {
					t.Errorf("%s: %s, the host's is %s", ns, first, host(ns))
				}
			}
			if tt.name != "hostipc" {
				execOut(t, e, a.ID, "echo hi > /dev/shm/x")
				if got := execOut(t, e, b.ID, "cat /dev/shm/x"); got != "hi" {
					t.Errorf("/dev/shm is not shared: %q", got)
				}
				if got := execOut(t, e, a.ID, "grep ' /dev/shm ' /proc/mounts"); !strings.Contains(got, "rw,nosuid,nodev,noexec") {
					t.Errorf("what is written to /dev/shm may be run: %s", got)
				}
			}
			if tt.name == "sharedpid" {
				for _, dir := range []string{"root", "fd"} {
					if got, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(s.Pid), dir) + "/"); err != nil || len(got) > 0 {
						t.Errorf("the pause process shows %v in its %s (%v)", got, dir, err)
					}
				}
				if got := execOut(t, e, a.ID, "cat /proc/1/comm"); got != "bramble-pause" {
					t.Errorf("process 1 is %q", got)
				}
			}
			if err := e.RemoveSandbox(t.Context(), s.ID); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestLeftBehind ends the first process of a container that has no process namespace of its own: what else was in the
// container ends with it.
func TestLeftBehind(t *testing.T) {
	e := openEngine(t, config(t))
	importImage(t, e, testImage, testimage.Options{})
	pod := testPod("behind", sh("sleep 4321 & sleep 4321 & exit 0"), sh("sleep 1000"))
	pod.Spec.HostPID, pod.Spec.HostNetwork = true, true
	s := runSandbox(t, e, pod)
	first, second := start(t, e, s, pod, 0), start(t, e, s, pod, 1)
	waitExit(t, e, first.ID)
	for deadline := time.Now().Add(10 * time.Second); execOut(t, e, second.ID, "ps -o args | grep -c '^sleep 432[1]' || true") != "0"; {
		if time.Now().After(deadline) {
			t.Fatal("they still run")
		}
	}
}

func TestUser(t *testing.T) {
	e := openEngine(t, config(t))
	importImage(t, e, testImage, testimage.Options{User: "alice"})
	pod := testPod("users", sh("id; exit 0"), sh("id"), sh("id"))
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{SupplementalGroups: []int64{77}, FSGroup: ptr(int64(78))}
	pod.Spec.Containers[1].SecurityContext = &corev1.SecurityContext{RunAsUser: ptr(int64(4711)), RunAsGroup: ptr(int64(4712))}
	pod.Spec.Containers[2].SecurityContext = &corev1.SecurityContext{RunAsNonRoot: ptr(true)}
	s := runSandbox(t, e, pod)
	a, b := start(t, e, s, pod, 0), start(t, e, s, pod, 1)
	waitExit(t, e, a.ID)
	waitExit(t, e, b.ID)
	if out, _ := readLog(t, a.LogPath); out != "uid=1000(alice) gid=1000(alice) groups=10(wheel),77,78,1000(alice)\n" {
		t.Errorf("the image's user: %s", out)
	}
	if out, _ := readLog(t, b.LogPath); out != "uid=4711 gid=4712 groups=77,78,4712\n" {
		t.Errorf("the pod's user: %s", out)
	}
	if got, want := e.observed(e.containers[a.ID]).User, (&container.User{UID: 1000, GID: 1000, Groups: []uint32{10, 77, 78, 1000}}); !reflect.DeepEqual(got, want) {
		t.Errorf("told of the image's user: %+v", got)
	}
	if got, want := b.User, (&container.User{UID: 4711, GID: 4712, Groups: []uint32{77, 78, 4712}}); !reflect.DeepEqual(got, want) {
		t.Errorf("told of the pod's user: %+v", got)
	}
	if records, err := e.dir.Load(); err != nil || len(records[0].Containers) != 2 || records[0].Containers[0].User == nil {
		t.Errorf("kept for the next agent: %+v, %v", records, err)
	}
	_, err := e.StartContainer(t.Context(), s.ID, containerSpec(e, pod, 2))
	var wrong *ConfigError
	if want := `container has runAsNonRoot and image has non-numeric user (alice), cannot verify user is non-root (pod: "users_default(uid-users)", container: c2)`; !errors.As(err, &wrong) || err.Error() != want {
		t.Errorf("runAsNonRoot: %v", err)
	}
}

func TestOOM(t *testing.T) {
	e := openEngine(t, config(t))
	importImage(t, e, testImage, testimage.Options{})
	c := sh("exec awk 'BEGIN { s = \"xxxxxxxxxxxxxxxx\"; while (1) s = s s }'")
	c.Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("16Mi"), corev1.ResourceCPU: resource.MustParse("500m")}
	pod := testPod("oom", c)
	s := runSandbox(t, e, pod)
	ct := start(t, e, s, pod, 0)
	if got := waitExit(t, e, ct.ID); !got.OOMKilled || got.Reason != "OOMKilled" || got.ExitCode != 137 {
		t.Errorf("ended as %+v", got)
	}
}

func TestStats(t *testing.T) {
	e := openEngine(t, config(t))
	importImage(t, e, testImage, testimage.Options{})
	pod := testPod("stats", sh("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 1000"))
	s := runSandbox(t, e, pod)
	ct := start(t, e, s, pod, 0)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		all, err := e.Stats(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(all) == 1 && len(all[0].Containers) == 1 && all[0].Usage.CPU > 0 && all[0].Containers[0].Usage.CPU > 0 &&
			all[0].Containers[0].Usage.WorkingSet > 0 && all[0].Containers[0].Usage.Pids >= 1 && all[0].Usage.Pids >= 2 && all[0].Containers[0].ID == ct.ID {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%+v", all)
		}
	}
}

// TestRotation follows a log that is rotated many times. A reader may lag by as many files as are kept, no more: with
// few of them it is only looked at how many there are.
func TestRotation(t *testing.T) {
	for _, keep := range []int{40, 3} {
		t.Run(strconv.Itoa(keep), func(t *testing.T) {
			c := config(t)
			c.LogSize, c.LogFiles = 20000, keep
			e := openEngine(t, c)
			importImage(t, e, testImage, testimage.Options{})
			pod := testPod("rotate", sh("echo begin; until [ -e /tmp/go ]; do sleep 0.05; done; seq 1 3000; head -c 40000 /dev/zero | tr '\\0' x; echo; echo -n end"))
			s := runSandbox(t, e, pod)
			ct := start(t, e, s, pod, 0)
			var followed lockedBuffer
			done := make(chan error)
			go func() {
				done <- logs.Read(context.Background(), ct.LogPath, logs.Options{Follow: true, Ended: e.Exited(ct.ID)}, &followed, &followed)
			}()
			for deadline := time.Now().Add(20 * time.Second); followed.String() == ""; time.Sleep(10 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("the reader reads nothing")
				}
			}
			// Only what is written while the reader reads must reach it.
			if code, err := e.Exec(t.Context(), ct.ID, []string{"touch", "/tmp/go"}, Streams{}); err != nil || code != 0 {
				t.Fatal(code, err)
			}
			waitExit(t, e, ct.ID)
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			files, _ := filepath.Glob(ct.LogPath + "*")
			if keep == 3 {
				if len(files) != 3 {
					t.Errorf("files: %v", files)
				}
				return
			}
			var want strings.Builder
			want.WriteString("begin\n")
			for i := range 3000 {
				want.WriteString(strconv.Itoa(i+1) + "\n")
			}
			want.WriteString(strings.Repeat("x", 40000) + "\nend") // no end of line was written
			if got := followed.String(); got != want.String() {
				t.Errorf("followed %d bytes, wanted %d; files %v", len(got), want.Len(), files)
			}
		})
	}
}

func TestStop(t *testing.T) {
	e := openEngine(t, config(t))
	importImage(t, e, testImage, testimage.Options{StopSignal: "SIGUSR1"})
	pod := testPod("stop", sh("trap 'exit 21' USR1; echo ready; while :; do sleep 0.05; done"), sh("trap '' USR1 TERM; echo ready; while :; do sleep 0.05; done"))
	s := runSandbox(t, e, pod)
	a, b := start(t, e, s, pod, 0), start(t, e, s, pod, 1)
	for _, c := range []Container{a, b} {
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			if out, _ := readLog(t, c.LogPath); out == "ready\n" || time.Now().After(deadline) {
				break
			}
		}
		if err := e.StopContainer(t.Context(), c.ID, 500*time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
	if got := find(t, e, a.ID); got.ExitCode != 21 {
		t.Errorf("by its signal: %+v", got)
	}
	if got := find(t, e, b.ID); got.ExitCode != 137 {
		t.Errorf("killed: %+v", got)
	}
	for range 2 { // idempotent
		if err := e.StopContainer(t.Context(), a.ID, time.Second); err != nil {
			t.Error(err)
		}
		if err := e.StopSandbox(t.Context(), s.ID); err != nil {
			t.Error(err)
		}
	}
	if list, _ := e.List(t.Context()); list[0].Ready || len(list[0].Containers) != 2 {
		t.Errorf("after the stop: %+v", list)
	}
	for range 2 {
		if err := e.RemoveSandbox(t.Context(), s.ID); err != nil {
			t.Error(err)
		}
	}
}

func TestStartError(t *testing.T) {
	e := openEngine(t, config(t))
	importImage(t, e, testImage, testimage.Options{})
	pod := testPod("starterror", corev1.Container{Command: []string{"/no/such/program"}}, corev1.Container{Image: "example.com/none:1", Command: []string{"sh"}},
		corev1.Container{})
	s := runSandbox(t, e, pod)
	c, err := e.StartContainer(t.Context(), s.ID, containerSpec(e, pod, 0))
	var failed *StartError
	if !errors.As(err, &failed) || !strings.Contains(failed.Message, "/no/such/program") {
		t.Errorf("error %v", err)
	}
	if c.State != Exited || c.ExitCode != 128 || c.Reason != "StartError" || !strings.Contains(c.Message, "/no/such/program") {
		t.Errorf("container %+v", c)
	}
	if _, err := e.StartContainer(t.Context(), s.ID, containerSpec(e, pod, 1)); err == nil || !strings.Contains(err.Error(), "example.com/none:1") {
		t.Errorf("without an image: %v", err)
	}
	var wrong *container.ConfigError
	if _, err := e.StartContainer(t.Context(), s.ID, containerSpec(e, pod, 2)); !errors.As(err, &wrong) || !strings.Contains(err.Error(), "no command specified") {
		t.Errorf("without a command: %v", err)
	}
	if list, _ := e.List(t.Context()); len(list[0].Containers) != 1 {
		t.Errorf("listed: %+v", list[0].Containers)
	}
	if ids, _ := e.snap.Snapshots(); len(ids) != 0 {
		t.Errorf("snapshots left: %v", ids)
	}
}

// TestSecurity looks from inside at what containers may do.
func TestSecurity(t *testing.T) {
	e := openEngine(t, config(t))
	importImage(t, e, testImage, testimage.Options{})
	status := "grep -E 'CapBnd|NoNewPrivs|^Seccomp:' /proc/self/status | tr -s '\\t\\n' '  '; echo; touch /x 2>/dev/null && echo writable; " +
		"head -c1 /proc/timer_list | wc -c; echo 1 2>/dev/null >/proc/sys/kernel/panic || echo readonly; sleep 1000"
	for _, tt := range []struct {
		name string
		sc   *corev1.SecurityContext
		want string
	}{
		{"default", nil, "CapBnd: 00000000a80425fb NoNewPrivs: 0 Seccomp: 0 \nwritable\n0\nreadonly\n"},
		{"restricted", &corev1.SecurityContext{
			AllowPrivilegeEscalation: ptr(false), ReadOnlyRootFilesystem: ptr(true), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"NET_BIND_SERVICE"}},
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		}, "CapBnd: 0000000000000400 NoNewPrivs: 1 Seccomp: 2 \n0\nreadonly\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := sh(status)
			c.SecurityContext = tt.sc
			pod := testPod(tt.name, c)
			s := runSandbox(t, e, pod)
			ct := start(t, e, s, pod, 0)
			out := ""
			for deadline := time.Now().Add(10 * time.Second); strings.Count(out, "\n") < strings.Count(tt.want, "\n") && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
				out, _ = readLog(t, ct.LogPath)
			}
			if out != tt.want {
				t.Errorf("inside: %q, wanted %q", out, tt.want)
			}
			execOut(t, e, ct.ID, "true")
		})
	}
	t.Run("privileged", func(t *testing.T) {
		c := sh("sleep 1000")
		c.SecurityContext = &corev1.SecurityContext{Privileged: ptr(true)}
		pod := testPod("privileged", c)
		ct := start(t, e, runSandbox(t, e, pod), pod, 0)
		for _, script := range []string{"mkdir /tmp/m && mount -t tmpfs x /tmp/m", "cat /proc/timer_list >/dev/null", "test -c /dev/loop-control", "cat /proc/sys/kernel/panic > /tmp/p && cat /tmp/p > /proc/sys/kernel/panic"} {
			execOut(t, e, ct.ID, script)
		}
	})
}

func TestSysctls(t *testing.T) {
	e := openEngine(t, config(t))
	importImage(t, e, testImage, testimage.Options{})
	pod := testPod("sysctl", sh("sleep 1000"))
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: "net.ipv4.ip_local_port_range", Value: "2000 3000"}, {Name: "kernel.shm_rmid_forced", Value: "1"}}}
	ct := start(t, e, runSandbox(t, e, pod), pod, 0)
	if got := strings.Fields(execOut(t, e, ct.ID, "cat /proc/sys/net/ipv4/ip_local_port_range /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_unprivileged_port_start")); strings.Join(got, " ") != "2000 3000 1 0" {
		t.Errorf("inside: %v", got)
	}
	pod = testPod("sysctl2", sh("sleep 1000"))
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: "kernel.panic", Value: "1"}}}
	if _, err := e.RunSandbox(t.Context(), SandboxSpec{Pod: pod, NetNS: netns(t)}); err == nil || !strings.Contains(err.Error(), "kernel.panic") {
		t.Errorf("the host's sysctl: %v", err)
	}
	if list, _ := e.List(t.Context()); len(list) != 1 {
		t.Errorf("left: %+v", list)
	}
}

func TestMounts(t *testing.T) {
	e := openEngine(t, config(t))
	importImage(t, e, testImage, testimage.Options{})
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "inner"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"hosts": "1.2.3.4 here\n", "resolv": "nameserver 10.0.0.1\n", "v": "volume"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	pod := testPod("mounts", sh("sleep 1000"))
	s, err := e.RunSandbox(t.Context(), SandboxSpec{Pod: pod, Hostname: "box", NetNS: netns(t), HostsFile: filepath.Join(dir, "hosts"), ResolvConf: filepath.Join(dir, "resolv")})
	if err != nil {
		t.Fatal(err)
	}
	spec := containerSpec(e, pod, 0)
	spec.Mounts = []Mount{{Source: dir, Target: "/data/inner"}, {Source: dir, Target: "/data", ReadOnly: true}}
	spec.Env = []string{"A=b", "PATH=/bin"}
	ct, err := e.StartContainer(t.Context(), s.ID, spec)
	if err != nil {
		t.Fatal(err)
	}
	got := execOut(t, e, ct.ID, "cat /etc/hosts /etc/resolv.conf /etc/hostname /data/v; echo; echo $A $PATH $HOSTNAME; touch /data/x 2>&1; touch /data/inner/y && echo ok")
	if want := "1.2.3.4 here\nnameserver 10.0.0.1\nbox\nvolume\nb /bin box\ntouch: /data/x: Read-only file system\nok"; got != want {
		t.Errorf("inside: %q", got)
	}
}
