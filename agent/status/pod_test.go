package status

import (
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"bramble.dev/agent/seam"
	"bramble.dev/internal/golden"
)

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func pod(change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "u1", Generation: 3},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyAlways,
			Containers: []corev1.Container{{
				Name: "app", Image: "nginx:1",
				VolumeMounts: []corev1.VolumeMount{{Name: "token", MountPath: "/var/run/secrets", ReadOnly: true}},
				Resources:    corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m")}},
			}},
		},
	}
	for _, f := range change {
		f(p)
	}
	return p
}

func restart(policy corev1.RestartPolicy) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.RestartPolicy = policy }
}

func initContainer(p *corev1.Pod) {
	p.Spec.InitContainers = append(p.Spec.InitContainers, corev1.Container{Name: "setup", Image: "busybox:1"})
}

func sidecar(p *corev1.Pod) {
	always := corev1.ContainerRestartPolicyAlways
	p.Spec.InitContainers = append(p.Spec.InitContainers, corev1.Container{Name: "proxy", Image: "envoy:1", RestartPolicy: &always})
}

func sandbox(containers ...seam.Container) []seam.Sandbox {
	return []seam.Sandbox{{ID: "s1", PodUID: "u1", Ready: true, CreatedAt: t0, Containers: containers}}
}

func running(name string, attempt uint32) seam.Container {
	at := t0.Add(time.Duration(attempt+1) * time.Minute)
	return seam.Container{ID: name + "-" + string(rune('0'+attempt)), Name: name, SandboxID: "s1", Attempt: attempt, ImageID: "sha256:aa", State: seam.Running, CreatedAt: at, StartedAt: at}
}

func exited(name string, attempt uint32, code int32) seam.Container {
	c := running(name, attempt)
	c.State, c.ExitCode, c.FinishedAt = seam.Exited, code, c.StartedAt.Add(30*time.Second)
	return c
}

func TestGenerateGolden(t *testing.T) {
	now := t0.Add(time.Hour)
	base := Input{PodIPs: []string{"10.42.0.5"}, HostIPs: []string{"192.168.1.2"}, Now: now}
	ran := Generate(Input{Pod: pod(), Sandboxes: sandbox(running("app", 0)), PodIPs: base.PodIPs, HostIPs: base.HostIPs, Now: t0.Add(2 * time.Minute)})
	probed := pod(func(p *corev1.Pod) {
		p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{}
		p.Spec.Containers[0].StartupProbe = &corev1.Probe{}
		p.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "example.com/gate"}}
	})
	for name, in := range map[string]Input{
		"new":              {Pod: pod(), PodIPs: nil},
		"pulling":          {Pod: pod(), Sandboxes: sandbox()},
		"pull-failed":      {Pod: pod(), Sandboxes: sandbox(), Waiting: map[string]Waiting{"app": {"ErrImagePull", "no such host"}}},
		"running":          {Pod: pod(), Sandboxes: sandbox(running("app", 0)), Old: ran},
		"crash-loop":       {Pod: pod(), Sandboxes: sandbox(exited("app", 1, 1), exited("app", 0, 1)), Old: ran, Waiting: map[string]Waiting{"app": {"CrashLoopBackOff", "back-off 20s"}}},
		"restarted":        {Pod: pod(), Sandboxes: sandbox(running("app", 1), exited("app", 0, 137)), Old: ran},
		"never-failed":     {Pod: pod(restart(corev1.RestartPolicyNever)), Sandboxes: sandbox(exited("app", 0, 37)), Old: ran},
		"never-succeeded":  {Pod: pod(restart(corev1.RestartPolicyNever)), Sandboxes: sandbox(exited("app", 0, 0)), Old: ran},
		"init-running":     {Pod: pod(initContainer), Sandboxes: sandbox(running("setup", 0))},
		"init-failed":      {Pod: pod(initContainer, restart(corev1.RestartPolicyNever)), Sandboxes: sandbox(exited("setup", 0, 2))},
		"sidecar":          {Pod: pod(sidecar), Sandboxes: sandbox(running("proxy", 0), running("app", 0))},
		"not-ready-gate":   {Pod: probed, Sandboxes: sandbox(running("app", 0)), Probes: map[string]Probes{"app-0": {Startup: Success, Readiness: Success}}},
		"not-started":      {Pod: probed, Sandboxes: sandbox(running("app", 0)), Probes: map[string]Probes{"app-0": {Startup: Failure, Readiness: Success}}},
		"deadline-running": {Pod: pod(), Sandboxes: sandbox(running("app", 0)), Old: ran, Evicted: &Waiting{"DeadlineExceeded", "Pod was active on the node longer than the specified deadline"}},
		"deadline":         {Pod: pod(), Sandboxes: sandbox(exited("app", 0, 137)), Old: ran, Stopped: true, Evicted: &Waiting{"DeadlineExceeded", "Pod was active on the node longer than the specified deadline"}},
		"gone":             {Pod: pod(), Old: ran, Stopped: true, Finished: true},
		"rebooted":         {Pod: pod(), Old: ran, Sandboxes: []seam.Sandbox{{ID: "s1", Containers: []seam.Container{{ID: "app-0", Name: "app", State: seam.Unknown, CreatedAt: t0}}}}},
		"host-network":     {Pod: pod(func(p *corev1.Pod) { p.Spec.HostNetwork = true }), Sandboxes: sandbox(running("app", 0))},
	} {
		t.Run(name, func(t *testing.T) {
			in.HostIPs, in.Now = base.HostIPs, base.Now
			if in.Sandboxes != nil && in.Sandboxes[0].Ready {
				in.PodIPs = base.PodIPs
			}
			got, err := yaml.Marshal(Generate(in))
			if err != nil {
				t.Fatal(err)
			}
			golden.Compare(t, filepath.Join("testdata", name+".yaml"), string(got))
		})
	}
}

// TestGenerateIsStable: a status made again from itself is the same, to the byte.
func TestGenerateIsStable(t *testing.T) {
	in := Input{Pod: pod(sidecar), Sandboxes: sandbox(running("proxy", 0), running("app", 1), exited("app", 0, 3)), PodIPs: []string{"10.42.0.5"}, HostIPs: []string{"192.168.1.2"}, Now: t0}
	first := Generate(in)
	in.Old, in.Now = first, t0.Add(time.Hour)
	second := Generate(in)
	a, _ := first.Marshal()
	b, _ := second.Marshal()
	if string(a) != string(b) {
		t.Errorf("first\n%v\nsecond\n%v", first, second)
	}
}

func TestTerminalPhaseIsKept(t *testing.T) {
	old := Generate(Input{Pod: pod(restart(corev1.RestartPolicyNever)), Sandboxes: sandbox(exited("app", 0, 37)), Now: t0})
	got := Generate(Input{Pod: pod(restart(corev1.RestartPolicyNever)), Old: old, Now: t0.Add(time.Hour)})
	if got.Phase != corev1.PodFailed || got.ContainerStatuses[0].State.Terminated == nil || got.ContainerStatuses[0].State.Terminated.ExitCode != 37 {
		t.Errorf("%+v", got)
	}
}
