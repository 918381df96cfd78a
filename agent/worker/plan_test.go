package worker

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"bramble.dev/agent/podspec"
	"bramble.dev/agent/seam"
	"bramble.dev/agent/status"
)

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func seconds(n int64) *int64 { return &n }

func pod(change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "u1"},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyAlways, TerminationGracePeriodSeconds: seconds(30),
			Containers: []corev1.Container{{Name: "app", Image: "nginx:1", ImagePullPolicy: corev1.PullIfNotPresent}},
		},
	}
	for _, f := range change {
		f(p)
	}
	return p
}

func policy(r corev1.RestartPolicy) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.RestartPolicy = r }
}

func withInit(p *corev1.Pod) {
	p.Spec.InitContainers = append(p.Spec.InitContainers, corev1.Container{Name: "setup", Image: "busybox:1"})
}

func withSidecar(p *corev1.Pod) {
	always := corev1.ContainerRestartPolicyAlways
	p.Spec.InitContainers = append(p.Spec.InitContainers, corev1.Container{Name: "proxy", Image: "envoy:1", RestartPolicy: &always})
}

func withSecond(p *corev1.Pod) {
	p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "second", Image: "nginx:2"})
}

func withDebug(p *corev1.Pod) {
	p.Spec.EphemeralContainers = append(p.Spec.EphemeralContainers, corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug", Image: "busybox:1"}})
}

func deleted(grace int64) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &metav1.Time{Time: t0}, &grace
	}
}

// observed builds what is observed of a pod with one good sandbox.
func observed(containers ...seam.Container) Observed {
	return Observed{
		Sandboxes: []seam.Sandbox{{ID: "s1", PodUID: "u1", Ready: true, CreatedAt: t0, Containers: containers}},
		PodIPs:    []string{"10.42.0.5"}, Mounted: true, Phase: corev1.PodRunning,
		Busy: map[string]Work{}, Probes: map[string]status.Probes{}, Memory: Memory{Containers: map[string]Past{}},
	}
}

func (o Observed) with(change func(*Observed)) Observed { change(&o); return o }

func running(name, image string) seam.Container {
	return seam.Container{ID: name + "-0", Name: name, State: seam.Running, CreatedAt: t0, StartedAt: t0, SpecHash: podspec.Hash(&corev1.Container{Name: name, Image: image})}
}

func exited(name string, code int32, at time.Time) seam.Container {
	c := running(name, "x")
	c.State, c.ExitCode, c.FinishedAt = seam.Exited, code, at
	return c
}

func TestPlan(t *testing.T) {
	now := t0.Add(time.Minute)
	ready := func(name string) func(*Observed) {
		return func(o *Observed) { o.Memory.Containers[name] = Past{Image: Image{ID: "sha256:aa"}} }
	}
	crashed := func(waiting *status.Waiting) func(*Observed) {
		return func(o *Observed) {
			o.Memory.Containers["app"] = Past{Attempt: 2, BackOff: 20 * time.Second, BackOffAt: now.Add(-25 * time.Second), Waiting: waiting}
		}
	}
	stopping := func(name string, since time.Time, killAt time.Time) func(*Observed) {
		return func(o *Observed) {
			o.Memory.Containers[name] = Past{Stop: &Stop{ID: name + "-0", Since: since, Grace: 30 * time.Second, KillAt: killAt}}
		}
	}
	for _, c := range []struct {
		name string
		d    Desired
		o    Observed
		want Action
		wake time.Time
	}{
		{"volumes first", Desired{Pod: pod()}, Observed{}, Action{Kind: Mount}, time.Time{}},
		{"volumes failed a moment ago", Desired{Pod: pod()}, Observed{Memory: Memory{Volumes: Retry{1, now.Add(time.Second)}}}, Action{}, now.Add(time.Second)},
		{"then the sandbox", Desired{Pod: pod()}, Observed{Mounted: true}, Action{Kind: RunSandbox}, time.Time{}},
		{"then the image", Desired{Pod: pod()}, observed(), Action{Kind: EnsureImage, Container: "app"}, time.Time{}},
		{"a pull is awaited", Desired{Pod: pod()}, observed().with(func(o *Observed) { o.Busy["image/app"] = Pulling }), Action{}, time.Time{}},
		{"then the container", Desired{Pod: pod()}, observed().with(ready("app")), Action{Kind: StartContainer, Container: "app"}, time.Time{}},
		{"nothing to do", Desired{Pod: pod()}, observed(running("app", "nginx:1")), Action{}, time.Time{}},

		{"order of starts", Desired{Pod: pod(withSecond)}, observed().with(ready("second")), Action{Kind: EnsureImage, Container: "app"}, time.Time{}},
		{"an awaited image delays the start of the next", Desired{Pod: pod(withSecond)}, observed().with(ready("second")).with(func(o *Observed) { o.Busy["image/app"] = Pulling }), Action{}, time.Time{}},
		{"but not its pull", Desired{Pod: pod(withSecond)}, observed().with(func(o *Observed) { o.Busy["image/app"] = Pulling }), Action{Kind: EnsureImage, Container: "second"}, time.Time{}},
		{"a postStart hook delays the next", Desired{Pod: pod(withSecond)}, observed(running("app", "nginx:1")).with(ready("second")).with(func(o *Observed) { o.Busy["app-0"] = PostStart }), Action{}, time.Time{}},
		{"a failed image does not delay the next", Desired{Pod: pod(withSecond)}, observed().with(ready("second")).with(func(o *Observed) {
			o.Memory.Containers["app"] = Past{Image: Image{Error: "x", FailedAt: now, BackOff: 10 * time.Second}, Waiting: &status.Waiting{Reason: "ImagePullBackOff"}}
		}), Action{Kind: StartContainer, Container: "second"}, time.Time{}},

		{"first crash restarts at once", Desired{Pod: pod()}, observed(exited("app", 1, now.Add(-time.Second))).with(ready("app")), Action{Kind: StartContainer, Container: "app", Attempt: 1}, time.Time{}},
		{"next crash is held back", Desired{Pod: pod()}, observed(exited("app", 1, now.Add(-5*time.Second))).with(crashed(nil)), Action{Kind: HoldBack, Container: "app", Reason: "CrashLoopBackOff", Message: "back-off 20s restarting failed container=app pod=web_default(u1)"}, time.Time{}},
		{"and woken when it is over", Desired{Pod: pod()}, observed(exited("app", 1, now.Add(-5*time.Second))).with(crashed(&status.Waiting{Reason: "CrashLoopBackOff"})), Action{}, now.Add(15 * time.Second)},
		{"then started", Desired{Pod: pod()}, observed(exited("app", 1, now.Add(-20*time.Second))).with(crashed(&status.Waiting{Reason: "CrashLoopBackOff"})), Action{Kind: EnsureImage, Container: "app"}, time.Time{}},
		{"a long run forgets the back-off", Desired{Pod: pod()}, observed(exited("app", 1, now)).with(func(o *Observed) {
			o.Memory.Containers["app"] = Past{BackOff: 5 * time.Minute, BackOffAt: now.Add(-11 * time.Minute), Image: Image{ID: "i"}}
		}), Action{Kind: StartContainer, Container: "app", Attempt: 1}, time.Time{}},
		{"a clock set back does not wait for ever", Desired{Pod: pod()}, observed(exited("app", 1, now.Add(24*time.Hour))).with(func(o *Observed) {
			o.Memory.Containers["app"] = Past{BackOff: 20 * time.Second, BackOffAt: now.Add(24 * time.Hour), Waiting: &status.Waiting{Reason: "CrashLoopBackOff"}}
		}), Action{}, now.Add(20 * time.Second)},
		{"OnFailure and success", Desired{Pod: pod(policy(corev1.RestartPolicyOnFailure), withSecond)}, observed(exited("app", 0, now), running("second", "nginx:2")), Action{}, time.Time{}},

		{"pull failed", Desired{Pod: pod()}, observed().with(func(o *Observed) {
			o.Memory.Containers["app"] = Past{Image: Image{Error: "no route", FailedAt: now.Add(-time.Second), BackOff: 10 * time.Second}, Waiting: &status.Waiting{Reason: "ErrImagePull", Message: "no route"}}
		}), Action{}, now.Add(2 * time.Second)},
		{"pull is backed off", Desired{Pod: pod()}, observed().with(func(o *Observed) {
			o.Memory.Containers["app"] = Past{Image: Image{Error: "no route", FailedAt: now.Add(-4 * time.Second), BackOff: 10 * time.Second}, Waiting: &status.Waiting{Reason: "ErrImagePull", Message: "no route"}}
		}), Action{Kind: HoldBack, Container: "app", Reason: "ImagePullBackOff", Message: `Back-off pulling image "nginx:1": ErrImagePull: no route`}, time.Time{}},
		{"pull is tried again", Desired{Pod: pod()}, observed().with(func(o *Observed) {
			o.Memory.Containers["app"] = Past{Image: Image{Error: "no route", FailedAt: now.Add(-10 * time.Second), BackOff: 10 * time.Second}}
		}), Action{Kind: EnsureImage, Container: "app"}, time.Time{}},

		{"liveness failed", Desired{Pod: pod()}, observed(running("app", "nginx:1")).with(func(o *Observed) { o.Probes["app-0"] = status.Probes{Liveness: status.Failure} }), Action{Kind: BeginStop, Container: "app", ID: "app-0", Grace: 30 * time.Second, Cause: NotLive, Message: "Container app failed liveness probe, will be restarted"}, time.Time{}},
		{"liveness failed, with a grace period of its own", Desired{Pod: pod(func(p *corev1.Pod) {
			p.Spec.Containers[0].LivenessProbe = &corev1.Probe{TerminationGracePeriodSeconds: seconds(5)}
		})}, observed(running("app", "nginx:1")).with(func(o *Observed) { o.Probes["app-0"] = status.Probes{Liveness: status.Failure} }), Action{Kind: BeginStop, Container: "app", ID: "app-0", Grace: 5 * time.Second, Cause: NotLive, Message: "Container app failed liveness probe, will be restarted"}, time.Time{}},
		{"startup failed", Desired{Pod: pod(policy(corev1.RestartPolicyNever))}, observed(running("app", "nginx:1")).with(func(o *Observed) { o.Probes["app-0"] = status.Probes{Startup: status.Failure} }), Action{Kind: BeginStop, Container: "app", ID: "app-0", Grace: 30 * time.Second, Cause: NotStarted, Message: "Container app failed startup probe"}, time.Time{}},
		{"image changed", Desired{Pod: pod()}, observed(running("app", "nginx:0")), Action{Kind: BeginStop, Container: "app", ID: "app-0", Grace: 30 * time.Second, Cause: Changed, Message: "Container app definition changed, will be restarted"}, time.Time{}},
		{"postStart failed", Desired{Pod: pod()}, observed(running("app", "nginx:1")).with(func(o *Observed) { o.Memory.Containers["app"] = Past{BadHook: "app-0"} }), Action{Kind: BeginStop, Container: "app", ID: "app-0", Grace: 30 * time.Second, Cause: HookFailed, Message: "FailedPostStartHook"}, time.Time{}},

		{"init container first", Desired{Pod: pod(withInit)}, observed(), Action{Kind: EnsureImage, Container: "setup"}, time.Time{}},
		{"init container runs", Desired{Pod: pod(withInit)}, observed(running("setup", "busybox:1")), Action{}, time.Time{}},
		{"init container is done", Desired{Pod: pod(withInit)}, observed(exited("setup", 0, now)), Action{Kind: EnsureImage, Container: "app"}, time.Time{}},
		{"init container failed", Desired{Pod: pod(withInit)}, observed(exited("setup", 1, now)), Action{Kind: EnsureImage, Container: "setup"}, time.Time{}},
		{"init container is not run again", Desired{Pod: pod(withInit)}, observed(running("app", "nginx:1")), Action{}, time.Time{}},
		{"sidecar starts before the app", Desired{Pod: pod(withSidecar)}, observed().with(ready("proxy")), Action{Kind: StartContainer, Container: "proxy"}, time.Time{}},
		{"sidecar runs, the app starts", Desired{Pod: pod(withSidecar)}, observed(running("proxy", "envoy:1")).with(ready("app")), Action{Kind: StartContainer, Container: "app"}, time.Time{}},
		{"sidecar must have started", Desired{Pod: pod(withSidecar, func(p *corev1.Pod) { p.Spec.InitContainers[0].StartupProbe = &corev1.Probe{} })}, observed(running("proxy", "envoy:1")), Action{}, time.Time{}},
		{"sidecar is restarted beside a running app", Desired{Pod: pod(withSidecar)}, observed(exited("proxy", 0, now), running("app", "nginx:1")).with(ready("proxy")), Action{Kind: StartContainer, Container: "proxy", Attempt: 1}, time.Time{}},
		{"sidecar ends when the apps have", Desired{Pod: pod(withSidecar, policy(corev1.RestartPolicyNever))}, observed(running("proxy", "envoy:1"), exited("app", 0, now)), Action{Kind: BeginStop, Container: "proxy", ID: "proxy-0", Grace: 30 * time.Second, Message: "Stopping container proxy"}, time.Time{}},
		{"ephemeral container", Desired{Pod: pod(withDebug)}, observed(running("app", "nginx:1")), Action{Kind: EnsureImage, Container: "debug"}, time.Time{}},
		{"ephemeral container is started once", Desired{Pod: pod(withDebug)}, observed(running("app", "nginx:1"), exited("debug", 1, now)), Action{}, time.Time{}},

		{"deadline", Desired{Pod: pod(func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = seconds(60) })}, observed(running("app", "nginx:1")).with(func(o *Observed) { o.Memory.Status.StartTime = &metav1.Time{Time: t0} }), Action{Kind: Evict, Reason: "DeadlineExceeded", Message: "Pod was active on the node longer than the specified deadline"}, time.Time{}},
		{"before the deadline", Desired{Pod: pod(func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = seconds(90) })}, observed(running("app", "nginx:1")).with(func(o *Observed) { o.Memory.Status.StartTime = &metav1.Time{Time: t0} }), Action{}, t0.Add(90 * time.Second)},

		{"deleted", Desired{Pod: pod(deleted(10))}, observed(running("app", "nginx:1")), Action{Kind: BeginStop, Container: "app", ID: "app-0", Grace: 10 * time.Second, Message: "Stopping container app"}, time.Time{}},
		{"the hook is awaited", Desired{Pod: pod(deleted(30))}, observed(running("app", "nginx:1")).with(stopping("app", now.Add(-10*time.Second), time.Time{})).with(func(o *Observed) { o.Busy["app-0"] = PreStop }), Action{}, now.Add(20 * time.Second)},
		{"but not for ever", Desired{Pod: pod(deleted(30))}, observed(running("app", "nginx:1")).with(stopping("app", now.Add(-30*time.Second), time.Time{})).with(func(o *Observed) { o.Busy["app-0"] = PreStop }), Action{Kind: StopContainer, Container: "app", ID: "app-0", Grace: 2 * time.Second}, time.Time{}},
		{"then the signal, with what is left of the grace period", Desired{Pod: pod(deleted(30))}, observed(running("app", "nginx:1")).with(stopping("app", now.Add(-10*time.Second), time.Time{})), Action{Kind: StopContainer, Container: "app", ID: "app-0", Grace: 20 * time.Second}, time.Time{}},
		{"it is ending", Desired{Pod: pod(deleted(30))}, observed(running("app", "nginx:1")).with(stopping("app", now.Add(-10*time.Second), now.Add(20*time.Second))).with(func(o *Observed) { o.Busy["app-0"] = Stopping }), Action{}, time.Time{}},
		{"the grace period was shortened", Desired{Pod: pod(deleted(0))}, observed(running("app", "nginx:1")).with(stopping("app", now.Add(-10*time.Second), now.Add(20*time.Second))).with(func(o *Observed) { o.Busy["app-0"] = Stopping }), Action{Kind: StopContainer, Container: "app", ID: "app-0", Grace: 2 * time.Second}, time.Time{}},
		{"a sidecar waits for its turn", Desired{Pod: pod(withSidecar, deleted(30))}, observed(running("proxy", "envoy:1"), running("app", "nginx:1")).with(stopping("proxy", now.Add(-10*time.Second), time.Time{})).with(func(o *Observed) {
			o.Memory.Containers["app"] = Past{Stop: &Stop{ID: "app-0", Since: now.Add(-10 * time.Second), Grace: 30 * time.Second, KillAt: now.Add(20 * time.Second)}}
			o.Busy["app-0"] = Stopping
		}), Action{}, now.Add(20 * time.Second)},
		{"all have ended: the sandbox", Desired{Pod: pod(deleted(30))}, observed(exited("app", 0, now)), Action{Kind: StopSandbox, ID: "s1"}, time.Time{}},
		{"then network and volumes", Desired{Pod: pod(deleted(30))}, observed(exited("app", 0, now)).with(func(o *Observed) { o.Sandboxes[0].Ready = false }), Action{Kind: Finish}, time.Time{}},
		{"then it rests until the server drops it", Desired{Pod: pod(deleted(30))}, observed(exited("app", 0, now)).with(func(o *Observed) { o.Sandboxes[0].Ready, o.Memory.Finished = false, true }), Action{}, time.Time{}},
		{"then what is left", Desired{Pod: pod(deleted(30)), Gone: true}, observed(exited("app", 0, now)).with(func(o *Observed) { o.Sandboxes[0].Ready, o.Memory.Finished = false, true }), Action{Kind: RemoveSandbox, ID: "s1"}, time.Time{}},
		{"then all memory", Desired{Pod: pod(), Gone: true}, Observed{Memory: Memory{Finished: true}}, Action{Kind: Forget}, time.Time{}},
		{"gone without a word", Desired{Pod: pod(), Gone: true}, observed(running("app", "nginx:1")), Action{Kind: BeginStop, Container: "app", ID: "app-0", Grace: 30 * time.Second, Message: "Stopping container app"}, time.Time{}},
		{"deleted before it began", Desired{Pod: pod(deleted(30))}, Observed{}, Action{Kind: Finish}, time.Time{}},
		{"succeeded", Desired{Pod: pod(policy(corev1.RestartPolicyNever))}, observed(exited("app", 0, now)).with(func(o *Observed) { o.Phase = corev1.PodSucceeded }), Action{Kind: StopSandbox, ID: "s1"}, time.Time{}},

		{"after a reboot", Desired{Pod: pod()}, observed().with(func(o *Observed) {
			o.Sandboxes[0].Ready = false
			o.Sandboxes[0].Containers = []seam.Container{{ID: "app-0", Name: "app", State: seam.Unknown}}
		}), Action{Kind: RunSandbox, Attempt: 1}, time.Time{}},
		{"a pod that runs once is not run again", Desired{Pod: pod(policy(corev1.RestartPolicyNever))}, observed().with(func(o *Observed) {
			o.Sandboxes[0].Ready = false
			o.Sandboxes[0].Containers = []seam.Container{{ID: "app-0", Name: "app", State: seam.Unknown}}
		}), Action{}, time.Time{}},
		{"the old sandbox is removed", Desired{Pod: pod()}, observed().with(func(o *Observed) { o.Sandboxes = append(o.Sandboxes, seam.Sandbox{ID: "s0"}) }), Action{Kind: RemoveSandbox, ID: "s0"}, time.Time{}},
		{"a second ready sandbox is stopped", Desired{Pod: pod()}, observed().with(func(o *Observed) { o.Sandboxes = append(o.Sandboxes, seam.Sandbox{ID: "s0", Ready: true}) }), Action{Kind: StopSandbox, ID: "s0"}, time.Time{}},
		{"a dead sandbox whose container runs is stopped", Desired{Pod: pod()}, observed(running("app", "nginx:1")).with(func(o *Observed) { o.Sandboxes[0].Ready = false }), Action{Kind: StopSandbox, ID: "s1"}, time.Time{}},
		{"a container that was never started is removed", Desired{Pod: pod()}, observed(seam.Container{ID: "app-0", Name: "app", State: seam.Created}).with(ready("app")), Action{Kind: RemoveContainer, Container: "app", ID: "app-0"}, time.Time{}},
		{"a container of which nobody knows is stopped", Desired{Pod: pod()}, observed(seam.Container{ID: "app-0", Name: "app", State: seam.Unknown}).with(ready("app")), Action{Kind: StopContainer, Container: "app", ID: "app-0"}, time.Time{}},
		{"one dead container is kept", Desired{Pod: pod()}, observed(running("app", "nginx:1"), seam.Container{ID: "a", Name: "app", State: seam.Exited, CreatedAt: t0.Add(-time.Minute)}, seam.Container{ID: "b", Name: "app", State: seam.Exited, CreatedAt: t0.Add(-time.Hour)}), Action{Kind: RemoveContainer, Container: "app", ID: "b"}, time.Time{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, wake := Plan(c.d, c.o, now)
			if got != c.want || !wake.Equal(c.wake) {
				t.Errorf("got %+v at %v\nwant %+v at %v", got, wake, c.want, c.wake)
			}
		})
	}
}
