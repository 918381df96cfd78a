package kubelet

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"bramble.dev/agent/seam"
)

// NodeStats is what the whole node uses.
type NodeStats struct {
	At               time.Time
	StartedAt        time.Time // of the node
	CPUNanos         uint64
	MemoryAvailable  uint64
	MemoryUsage      uint64
	MemoryWorkingSet uint64
	FsAvailable      uint64
	FsCapacity       uint64
	FsUsed           uint64
	FsInodes         uint64
	FsInodesFree     uint64
}

func (a *api) summary(w http.ResponseWriter, r *http.Request) {
	pods, err := a.Runtime.Stats(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	n := NodeStats{At: time.Now()}
	if a.NodeStats != nil {
		n = a.NodeStats()
	}
	at := metav1.NewTime(n.At)
	fs := &stats.FsStats{Time: at, AvailableBytes: &n.FsAvailable, CapacityBytes: &n.FsCapacity, UsedBytes: &n.FsUsed, Inodes: &n.FsInodes, InodesFree: &n.FsInodesFree}
	out := stats.Summary{
		Node: stats.NodeStats{
			NodeName: a.Node, StartTime: metav1.NewTime(n.StartedAt),
			CPU:     &stats.CPUStats{Time: at, UsageCoreNanoSeconds: &n.CPUNanos},
			Memory:  &stats.MemoryStats{Time: at, AvailableBytes: &n.MemoryAvailable, UsageBytes: &n.MemoryUsage, WorkingSetBytes: &n.MemoryWorkingSet},
			Fs:      fs,
			Runtime: &stats.RuntimeStats{ImageFs: fs, ContainerFs: fs},
		},
		Pods: []stats.PodStats{},
	}
	for _, p := range pods {
		out.Pods = append(out.Pods, podStats(p))
	}
	reply(w, out)
}

func podStats(p seam.PodStats) stats.PodStats {
	at := metav1.NewTime(p.At)
	out := stats.PodStats{
		PodRef:       stats.PodReference{Name: p.Name, Namespace: p.Namespace, UID: string(p.PodUID)},
		StartTime:    at,
		CPU:          &stats.CPUStats{Time: at, UsageCoreNanoSeconds: &p.CPUNanos},
		Memory:       &stats.MemoryStats{Time: at, WorkingSetBytes: &p.MemoryWorkingSet},
		ProcessStats: &stats.ProcessStats{ProcessCount: &p.Pids},
		Containers:   []stats.ContainerStats{},
	}
	for _, c := range p.Containers {
		if !c.StartedAt.IsZero() && c.StartedAt.Before(out.StartTime.Time) {
			out.StartTime = metav1.NewTime(c.StartedAt)
		}
		when := metav1.NewTime(c.At)
		out.Containers = append(out.Containers, stats.ContainerStats{
			Name: c.Name, StartTime: metav1.NewTime(c.StartedAt),
			CPU:    &stats.CPUStats{Time: when, UsageCoreNanoSeconds: &c.CPUNanos},
			Memory: &stats.MemoryStats{Time: when, UsageBytes: &c.MemoryUsage, WorkingSetBytes: &c.MemoryWorkingSet, RSSBytes: &c.MemoryRSS},
		})
	}
	return out
}

// resourceMetrics is what a metrics server scrapes.
func (a *api) resourceMetrics(w http.ResponseWriter, r *http.Request) {
	pods, err := a.Runtime.Stats(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	m := metrics{}
	if a.NodeStats != nil {
		n := a.NodeStats()
		m.add("node_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the node in core-seconds", "", seconds(n.CPUNanos), n.At)
		m.add("node_memory_working_set_bytes", "gauge", "Current working set of the node in bytes", "", float64(n.MemoryWorkingSet), n.At)
	}
	for _, p := range pods {
		for _, c := range p.Containers {
			labels := fmt.Sprintf("{container=%q,namespace=%q,pod=%q}", c.Name, p.Namespace, p.Name)
			m.add("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the container in core-seconds", labels, seconds(c.CPUNanos), c.At)
			m.add("container_memory_working_set_bytes", "gauge", "Current working set of the container in bytes", labels, float64(c.MemoryWorkingSet), c.At)
			m.add("container_start_time_seconds", "gauge", "Start time of the container since unix epoch in seconds", labels, float64(c.StartedAt.UnixNano())/1e9, time.Time{})
		}
		labels := fmt.Sprintf("{namespace=%q,pod=%q}", p.Namespace, p.Name)
		m.add("pod_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the pod in core-seconds", labels, seconds(p.CPUNanos), p.At)
		m.add("pod_memory_working_set_bytes", "gauge", "Current working set of the pod in bytes", labels, float64(p.MemoryWorkingSet), p.At)
	}
	m.add("resource_scrape_error", "gauge", "1 if there was an error while getting container metrics, 0 otherwise", "", 0, time.Time{})
	m.write(w)
}

func (a *api) metrics(w http.ResponseWriter, _ *http.Request) {
	running, containers := 0, 0
	for _, v := range a.Pods.Pods() {
		if len(v.Sandboxes) > 0 && v.Sandboxes[0].Ready {
			running++
			for _, c := range v.Sandboxes[0].Containers {
				if c.State == seam.Running {
					containers++
				}
			}
		}
	}
	m := metrics{}
	m.add("kubelet_node_name", "gauge", "The node's name. The count is always 1.", fmt.Sprintf("{node=%q}", a.Node), 1, time.Time{})
	m.add("kubelet_running_pods", "gauge", "Number of pods that have a running pod sandbox", "", float64(running), time.Time{})
	m.add("kubelet_running_containers", "gauge", "Number of containers currently running", `{container_state="running"}`, float64(containers), time.Time{})
	m.write(w)
}

func seconds(nanos uint64) float64 { return float64(nanos) / 1e9 }

// metrics are lines of the Prometheus text format, grouped by name.
type metrics struct {
	names []string
	lines map[string]*strings.Builder
}

func (m *metrics) add(name, kind, help, labels string, value float64, at time.Time) {
	if m.lines == nil {
		m.lines = map[string]*strings.Builder{}
	}
	b := m.lines[name]
	if b == nil {
		b = &strings.Builder{}
		fmt.Fprintf(b, "# HELP %s [STABLE] %s\n# TYPE %s %s\n", name, help, name, kind)
		m.names, m.lines[name] = append(m.names, name), b
	}
	fmt.Fprintf(b, "%s%s %g", name, labels, value)
	if !at.IsZero() {
		fmt.Fprintf(b, " %d", at.UnixMilli())
	}
	b.WriteByte('\n')
}

func (m *metrics) write(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	for _, name := range m.names {
		w.Write([]byte(m.lines[name].String()))
	}
}
