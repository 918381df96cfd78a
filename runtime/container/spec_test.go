package container

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"bramble.dev/internal/golden"
	"bramble.dev/runtime/image"
)

func host() Host {
	return Host{Memory: true, Swap: true, Capabilities: knownCapabilities, MinOOMScore: -1000, MemoryBytes: 4 << 30, Seccomp: true, AppArmor: true,
		Devices: []specs.LinuxDevice{{Path: "/dev/kmsg", Type: "c", Major: 1, Minor: 11}}}
}

func input(pod *corev1.Pod) Input {
	return Input{
		Pod: pod, QOS: corev1.PodQOSBestEffort, Container: &pod.Spec.Containers[0], Resources: pod.Spec.Containers[0].Resources, Root: "/root", Cgroup: "/bramble-0/pod1/c1", Host: host(), User: User{UID: 0, GID: 0, Groups: []uint32{0}},
		Image:   image.Config{Env: []string{"PATH=/usr/bin:/bin", "FROM=image"}, Entrypoint: []string{"/entry"}, Cmd: []string{"serve"}, WorkingDir: "/srv"},
		Sandbox: Sandbox{Pause: 42, NetNS: "/run/netns/p", Hostname: "pod", Hosts: "/h/hosts", HostsName: "/h/hostname", ResolvConf: "/h/resolv.conf", Shm: "/h/shm", Termination: "/h/termination"},
	}
}

func pod(spec string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "pod", UID: "1"}}
	if err := yaml.UnmarshalStrict([]byte(spec), &p.Spec); err != nil {
		panic(err)
	}
	return p
}

// TestSpec compares whole specifications with golden files (go test ./runtime/container -update).
func TestSpec(t *testing.T) {
	for name, tt := range map[string]struct {
		spec   string
		change func(*Input)
	}{
		"plain": {spec: `containers: [{name: c, terminationMessagePath: /dev/termination-log}]`},
		"limits": {spec: `
containers:
- name: c
  command: [a]
  tty: true
  workingDir: /w
  resources: {requests: {cpu: 250m, memory: 64Mi}, limits: {cpu: 500m, memory: 128Mi}}`,
			change: func(in *Input) {
				in.QOS, in.Command, in.Env, in.Host.Unified = corev1.PodQOSBurstable, []string{"a"}, []string{"FROM=pod", "NEW=1"}, true
			}},
		"restricted": {spec: `
securityContext: {runAsUser: 1000, supplementalGroups: [5], seccompProfile: {type: RuntimeDefault}}
shareProcessNamespace: true
containers:
- name: c
  securityContext:
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}
    appArmorProfile: {type: Localhost, localhostProfile: mine}`},
		"privileged": {spec: `
hostNetwork: true
hostPID: true
hostIPC: true
containers: [{name: c, securityContext: {privileged: true}}]`, change: func(in *Input) { in.Sandbox.NetNS, in.Host.Unified = "", true }},
		"mounts": {spec: `containers: [{name: c, args: [x], securityContext: {procMount: Unmasked}}]`, change: func(in *Input) {
			in.Args = []string{"x"}
			in.Mounts = []Mount{{Source: "/v/deep", Target: "/data/deep/", ReadOnly: true}, {Source: "/v/data", Target: "/data", Propagation: "HostToContainer"},
				{Source: "/v/hosts", Target: "/etc/hosts"}, {Source: "/v/shm", Target: "/dev/shm"}, {Source: "/v/b", Target: "/b", Propagation: "Bidirectional"}, {Source: "/v/r", Target: "/r", RecursiveReadOnly: true}}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			in := input(pod(tt.spec))
			if tt.change != nil {
				tt.change(&in)
			}
			s, err := Spec(in)
			if err != nil {
				t.Fatal(err)
			}
			if s.Linux.Seccomp != nil { // its list is long and tested by itself
				s.Linux.Seccomp.Syscalls, s.Linux.Seccomp.Architectures = nil, nil
			}
			got, err := json.MarshalIndent(s, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			golden.Compare(t, filepath.Join("testdata", name+".json"), string(got)+"\n")
		})
	}
}

func TestSpecErrors(t *testing.T) {
	for _, tt := range []struct{ spec, want string }{
		{`{hostUsers: false, containers: [{name: c}]}`, "hostUsers"},
		{`{containers: [{name: c, securityContext: {capabilities: {add: [FLY]}}}]}`, `capabilities.add: "FLY"`},
		{`{containers: [{name: c, securityContext: {seccompProfile: {type: Localhost, localhostProfile: none.json}}}]}`, "seccompProfile"},
	} {
		if _, err := Spec(input(pod(tt.spec))); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", tt.spec, err)
		}
	}
	in := input(pod(`{containers: [{name: c}]}`))
	in.Image = image.Config{}
	if _, err := Spec(in); err == nil || !strings.Contains(err.Error(), "no command specified") {
		t.Errorf("no command: %v", err)
	}
	in = input(pod(`{containers: [{name: c}]}`))
	in.Devices = []Device{{Host: "/dev/no-such", Container: "/dev/x", Permissions: "rw"}}
	if _, err := Spec(in); err == nil || !strings.Contains(err.Error(), "/dev/no-such") {
		t.Errorf("a device that is not there: %v", err)
	}
}

func TestDevice(t *testing.T) {
	in := input(pod(`{containers: [{name: c}]}`))
	in.Devices = []Device{{Host: "/dev/null", Container: "/dev/nothing", Permissions: "r"}}
	s, err := Spec(in)
	if err != nil {
		t.Fatal(err)
	}
	if d := s.Linux.Devices; len(d) != 1 || d[0].Path != "/dev/nothing" || d[0].Major != 1 || d[0].Minor != 3 {
		t.Errorf("devices %+v", d)
	}
	if r := s.Linux.Resources.Devices; len(r) != 2 || r[0].Allow || !r[1].Allow || r[1].Access != "r" {
		t.Errorf("rules %+v", r)
	}
}

// TestDegraded is a node without the memory controller and without CAP_SYS_RESOURCE.
func TestDegraded(t *testing.T) {
	in := input(pod(`{containers: [{name: c, securityContext: {capabilities: {add: [SYS_RESOURCE]}}, resources: {limits: {memory: 1Gi, cpu: 1}, requests: {memory: 1Gi, cpu: 1}}}]}`))
	in.QOS, in.Host = corev1.PodQOSGuaranteed, Host{MinOOMScore: 0}
	s, err := Spec(in)
	if err != nil {
		t.Fatal(err)
	}
	if s.Linux.Resources.Memory != nil || *s.Process.OOMScoreAdj != 0 || len(s.Process.Capabilities.Bounding) != 0 {
		t.Errorf("%+v, %d, %v", s.Linux.Resources.Memory, *s.Process.OOMScoreAdj, s.Process.Capabilities.Bounding)
	}
}

func TestOOMScore(t *testing.T) {
	for _, tt := range []struct {
		spec  string
		class corev1.PodQOSClass
		want  int
	}{
		{`{containers: [{name: c}]}`, corev1.PodQOSBestEffort, 1000},
		{`{containers: [{name: c, resources: {requests: {memory: 1Gi}}}]}`, corev1.PodQOSBurstable, 750},
		{`{containers: [{name: c, resources: {requests: {cpu: 1m}}}]}`, corev1.PodQOSBurstable, 999},
		{`{containers: [{name: c, resources: {requests: {memory: 4Gi}}}]}`, corev1.PodQOSBurstable, 3},
		{`{containers: [{name: c, resources: {requests: {memory: 1Gi, cpu: 1}, limits: {memory: 1Gi, cpu: 1}}}]}`, corev1.PodQOSGuaranteed, -997},
		{`{priority: 2000000000, containers: [{name: c}]}`, corev1.PodQOSBestEffort, -997},
	} {
		p := pod(tt.spec)
		if got := oomScore(p, tt.class, &p.Spec.Containers[0], host()); got != tt.want {
			t.Errorf("%s: %d, wanted %d", tt.spec, got, tt.want)
		}
	}
}

func TestPodResources(t *testing.T) {
	p := pod(`
containers:
- {name: a, resources: {requests: {cpu: 100m, memory: 1Mi}, limits: {cpu: 200m, memory: 2Mi}}}
- {name: b, resources: {requests: {cpu: 300m}, limits: {cpu: 1, memory: 3Mi}}}`)
	if r := PodResources(p); r.CPUShares != 409 || r.CPUQuota != 120000 || r.Memory != 5<<20 {
		t.Errorf("%+v", r)
	}
	delete(p.Spec.Containers[1].Resources.Limits, corev1.ResourceMemory)
	if r := PodResources(p); r.Memory != 0 || r.CPUQuota != 120000 {
		t.Errorf("one container is not limited: %+v", r)
	}
	if r := PodResources(pod(`{containers: [{name: a}]}`)); r.CPUShares != 2 || r.CPUQuota != 0 || r.Memory != 0 {
		t.Errorf("nothing is asked for: %+v", r)
	}
	q := resource.MustParse("1m")
	if quota(&q) != 1000 {
		t.Errorf("the least quota is %d", quota(&q))
	}
}

func TestSeccomp(t *testing.T) {
	has := func(s *specs.LinuxSeccomp, name string) bool {
		for _, c := range s.Syscalls {
			for _, n := range c.Names {
				if n == name && c.Action == specs.ActAllow && len(c.Args) == 0 {
					return true
				}
			}
		}
		return false
	}
	plain, admin := defaultSeccomp(defaultCapabilities), defaultSeccomp(knownCapabilities)
	for call, want := range map[string][2]bool{"read": {true, true}, "mount": {false, true}, "reboot": {false, true}, "chroot": {true, true}, "bpf": {false, true}, "kexec_load": {false, false}, "keyctl": {false, false}} {
		if has(plain, call) != want[0] || has(admin, call) != want[1] {
			t.Errorf("%s: %v, %v", call, has(plain, call), has(admin, call))
		}
	}
}
