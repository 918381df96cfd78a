package kubelet

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"bramble.dev/agent/seam"
	"bramble.dev/link"
)

// A use of CPU is a rate, so it takes two readings of the same counter. Nothing is read while nobody asks: the first question
// after a pause takes two readings shortly after one another, and later ones compare with the reading of the question before.
const (
	shortestWindow = time.Second
	longestWindow  = time.Minute // older readings say nothing of now
)

// reading is what all counters said at one time.
type reading struct {
	at   time.Time
	node NodeStats
	pods map[types.UID]seam.PodStats
}

// meter keeps the last reading. Questions wait for each other, and so share one.
type meter struct {
	mu   sync.Mutex
	last *reading
}

func (a *api) usage(w http.ResponseWriter, r *http.Request) {
	u, err := a.meter.measure(r.Context(), a.read)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		json.NewEncoder(w).Encode(u)
		return
	}
	// The link may be a costly one, and the same words come again with every pod.
	w.Header().Set("Content-Encoding", "gzip")
	z := gzip.NewWriter(w)
	defer z.Close()
	json.NewEncoder(z).Encode(u)
}

func (a *api) read(ctx context.Context) (*reading, error) {
	pods, err := a.Runtime.Stats(ctx)
	if err != nil {
		return nil, err
	}
	now := &reading{at: time.Now(), pods: map[types.UID]seam.PodStats{}}
	for _, p := range pods {
		now.pods[p.PodUID] = p
	}
	if a.NodeStats != nil {
		now.node = a.NodeStats()
	}
	return now, nil
}

func (m *meter) measure(ctx context.Context, read func(context.Context) (*reading, error)) (link.Usage, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	before := m.last
	if before == nil || time.Since(before.at) > longestWindow {
		var err error
		if before, err = read(ctx); err != nil {
			return link.Usage{}, err
		}
	}
	select {
	case <-time.After(shortestWindow - time.Since(before.at)):
	case <-ctx.Done():
		return link.Usage{}, ctx.Err()
	}
	now, err := read(ctx)
	if err != nil {
		return link.Usage{}, err
	}
	m.last = now
	return between(before, now), nil
}

// between is what was used from one reading to the next. A pod is left out if the rate of one of its containers is not known
// yet, because it has only just started.
func between(before, now *reading) link.Usage {
	window := metav1.Duration{Duration: now.at.Sub(before.at).Round(time.Millisecond)}
	at := metav1.NewTime(now.at)
	u := link.Usage{Node: metricsv1beta1.NodeMetrics{Timestamp: at, Window: window}, Pods: []metricsv1beta1.PodMetrics{}}
	if cpu, ok := rate(before.node.CPUNanos, now.node.CPUNanos, now.node.At.Sub(before.node.At)); ok {
		u.Node.Usage = used(cpu, now.node.MemoryWorkingSet)
	}
	for uid, p := range now.pods {
		containers, ok := containersBetween(before.pods[uid].Containers, p.Containers)
		if !ok || len(containers) == 0 {
			continue
		}
		u.Pods = append(u.Pods, metricsv1beta1.PodMetrics{
			ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, UID: uid},
			Timestamp:  at, Window: window, Containers: containers,
		})
	}
	return u
}

func containersBetween(before, now []seam.ContainerStats) ([]metricsv1beta1.ContainerMetrics, bool) {
	earlier := map[string]seam.ContainerStats{}
	for _, c := range before {
		earlier[c.ID] = c
	}
	var out []metricsv1beta1.ContainerMetrics
	for _, c := range now {
		from, known := earlier[c.ID]
		if !known { // it started in between, with nothing used
			from = seam.ContainerStats{At: c.StartedAt}
		}
		cpu, ok := rate(from.CPUNanos, c.CPUNanos, c.At.Sub(from.At))
		if !ok || c.StartedAt.IsZero() && !known {
			return nil, false
		}
		out = append(out, metricsv1beta1.ContainerMetrics{Name: c.Name, Usage: used(cpu, c.MemoryWorkingSet)})
	}
	return out, true
}

// rate is a use of CPU in billionths of a core; ok is false if the time is too short to tell, or a counter went back.
func rate(before, now uint64, over time.Duration) (nanoCores uint64, ok bool) {
	if over < shortestWindow/2 || now < before {
		return 0, false
	}
	return uint64(float64(now-before) / over.Seconds()), true
}

func used(nanoCores, bytes uint64) corev1.ResourceList {
	return corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewScaledQuantity(int64(nanoCores), resource.Nano),
		corev1.ResourceMemory: *resource.NewQuantity(int64(bytes), resource.BinarySI),
	}
}
