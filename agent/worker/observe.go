package worker

import (
	"context"
	"slices"
	"time"

	"bramble.dev/agent/podspec"
	"bramble.dev/agent/probe"
	"bramble.dev/agent/seam"
	"bramble.dev/agent/status"
)

// observe asks the runtime for the pod, and brings what is derived from it up to date.
func (w *worker) observe(ctx context.Context, d Desired) (Observed, error) {
	all, err := w.m.Runtime.List(ctx)
	if err != nil {
		return Observed{}, err
	}
	var mine []seam.Sandbox
	for _, s := range all {
		if s.PodUID == d.Pod.UID {
			mine = append(mine, s)
		}
	}
	slices.SortFunc(mine, func(a, b seam.Sandbox) int {
		if a.Attempt != b.Attempt {
			return int(b.Attempt) - int(a.Attempt)
		}
		return b.CreatedAt.Compare(a.CreatedAt)
	})
	w.address(ctx, d, mine)
	w.probe(d, mine)
	o := Observed{
		Sandboxes: mine, Mounted: w.volumes != nil, Busy: map[string]Work{},
		Probes: w.m.Prober.Results(d.Pod.UID),
	}
	if len(mine) > 0 && mine[0].Ready && w.ipOf == mine[0].ID {
		o.PodIPs = w.ips
	}
	for key, j := range w.jobs {
		o.Busy[key] = j.kind
	}
	w.resized(d, mine)
	in := w.input(d, o)
	o.Phase = status.Decided(in)
	told := w.memory.Status.Conditions
	w.memory.Status = status.Generate(in)
	o.Since = w.began()
	o.Guard = w.look(ctx, d, mine, told)
	o.Memory = w.memory
	w.mu.Lock()
	w.seen = View{Pod: d.Pod, Status: w.memory.Status, Sandboxes: mine, Ending: d.Ending() || w.memory.Evicted != nil, Finished: w.memory.Finished}
	w.end = w.memory.Finished
	w.mu.Unlock()
	return o, nil
}

// began is when the pod started, with a reading of the monotonic clock: a step of the wall clock while the agent runs ends
// no pod before its time.
func (w *worker) began() time.Time {
	if start := w.memory.Status.StartTime; start != nil && w.since.IsZero() {
		now := time.Now()
		w.since = now.Add(-max(now.Sub(start.Time), 0))
	}
	return w.since
}

func (w *worker) input(d Desired, o Observed) status.Input {
	in := status.Input{
		Pod: d.Pod, Old: w.memory.Status, Sandboxes: o.Sandboxes, PodIPs: o.PodIPs, HostIPs: w.m.Facts().HostIPs,
		Waiting: map[string]status.Waiting{}, Probes: o.Probes, Starting: map[string]bool{},
		Again: map[string]bool{}, Pending: w.memory.Resize.Pending, Resizing: w.memory.Resize.Running, Evicted: w.memory.Evicted, Rejected: w.memory.Rejected, Disruption: w.memory.Disruption, Finished: w.memory.Finished, Now: time.Now(),
	}
	for name, past := range w.memory.Containers {
		if past.Waiting != nil {
			in.Waiting[name] = *past.Waiting
		}
		if past.Again != "" {
			in.Again[past.Again] = true
		}
	}
	for image := range podspec.VolumeImages(d.Pod) {
		for c := range podspec.All(d.Pod) {
			if why := w.memory.Containers[image.Name].Waiting; why != nil && podspec.Shows(c, image.Name) {
				in.Waiting[c.Name] = *why
			}
		}
	}
	for key, work := range o.Busy {
		if work == PostStart {
			in.Starting[key] = true
		}
	}
	in.Stopped = (d.Ending() || w.memory.Evicted != nil) && !slices.ContainsFunc(o.Sandboxes, anyRunning)
	return in
}

// address learns the addresses of a sandbox that this process did not start itself.
func (w *worker) address(ctx context.Context, d Desired, mine []seam.Sandbox) {
	if len(mine) == 0 || !mine[0].Ready || mine[0].ID == w.ipOf || d.Pod.Spec.HostNetwork || d.Ending() {
		return
	}
	a, err := w.m.Network.Attach(ctx, d.Pod)
	if err != nil {
		w.log.Error("a running pod's network cannot be taken over", "err", err)
		if len(w.ips) > 0 { // it had an address, and keeps it
			w.ipOf = mine[0].ID
		}
		return
	}
	w.ips, w.ipOf = []string{a.IP.String()}, mine[0].ID
}

// probe tells the prober what runs.
func (w *worker) probe(d Desired, mine []seam.Sandbox) {
	var targets []probe.Target
	for _, s := range mine {
		for _, o := range s.Containers {
			c, ok := podspec.Find(d.Pod, o.Name)
			if !ok || o.State != seam.Running || (c.Kind != podspec.App && c.Kind != podspec.Sidecar) {
				continue
			}
			if c.StartupProbe == nil && c.LivenessProbe == nil && c.ReadinessProbe == nil || w.jobs[o.ID] != nil && w.jobs[o.ID].kind == PostStart {
				continue
			}
			t := probe.Target{Container: c.Container, ID: o.ID, StartedAt: o.StartedAt}
			if d.Pod.Spec.HostNetwork {
				if ips := w.m.Facts().HostIPs; len(ips) > 0 {
					t.IP = ips[0]
				}
			} else if len(w.ips) > 0 {
				t.IP = w.ips[0]
			}
			if s := lastStatus(&w.memory.Status, o.ID); s != nil {
				t.Started, t.Adopted = s.Started != nil && *s.Started, true
			}
			targets = append(targets, t)
		}
	}
	w.m.Prober.Set(d.Pod, targets)
}

func (w *worker) view() View {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen
}

func (w *worker) done() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.end
}
