package agent

import (
	"cmp"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/agent/state"
	"bramble.dev/link"
)

// reports is what the node says to the server. Events are kept on the disk until the server has
// them; the status of pods and node is made again after a restart.
type reports struct {
	db     *state.DB
	set    *link.Set
	notify func()
	log    *slog.Logger

	mu     sync.Mutex
	events []string // keys, oldest first
}

// maxEvents bounds what waits for a server that is away; the oldest are dropped.
const maxEvents = 1000

func openReports(db *state.DB, log *slog.Logger) (*reports, error) {
	r := &reports{db: db, set: link.NewSet(), notify: func() {}, log: log}
	rows, err := db.Load(state.Status)
	if err != nil {
		return nil, fmt.Errorf("load what the server was not told: %w", err)
	}
	for _, key := range inOrder(rows) {
		r.set.Put(key, rows[key])
		r.events = append(r.events, key)
	}
	return r, nil
}

// inOrder lists the keys of events, the one that happened last at the end.
func inOrder(rows map[string][]byte) []string {
	last := map[string]time.Time{}
	for key, value := range rows {
		var e corev1.Event
		if e.Unmarshal(value) == nil { // one that cannot be read is the first to be dropped
			last[key] = e.LastTimestamp.Time
		}
	}
	return slices.SortedFunc(maps.Keys(rows), func(a, b string) int {
		return cmp.Or(last[a].Compare(last[b]), strings.Compare(a, b))
	})
}

func podKey(pod *corev1.Pod) string {
	return "pods/" + pod.Namespace + "/" + pod.Name + "/" + string(pod.UID)
}

// pod reports a pod's status.
func (r *reports) pod(pod *corev1.Pod, s corev1.PodStatus, finished bool) {
	if pod.Name == "" {
		return // a leftover of which only the UID is known
	}
	b, err := (&link.PodReport{UID: pod.UID, Status: s, Terminated: finished}).Encode()
	if err != nil {
		r.log.Error("a pod's status cannot be encoded", "namespace", pod.Namespace, "pod", pod.Name, "err", err)
		return
	}
	if r.set.Put(podKey(pod), b) {
		r.notify()
	}
}

// retract forgets a pod.
func (r *reports) retract(pod *corev1.Pod) {
	if r.set.Delete(podKey(pod)) {
		r.notify()
	}
}

// node reports the node.
func (r *reports) node(report *link.NodeReport) {
	b, err := report.Encode()
	if err != nil {
		r.log.Error("the node's status cannot be encoded", "err", err)
		return
	}
	if r.set.Put(link.NodeReportKey, b) {
		r.notify()
	}
}

// volume reports a volume that was to be removed; nil: nobody asks any more.
func (r *reports) volume(name string, report *link.VolumeReport) {
	key := "volumes/" + name
	if report == nil {
		if r.set.Delete(key) {
			r.notify()
		}
		return
	}
	b, err := report.Encode()
	if err != nil {
		r.log.Error("what became of a volume cannot be encoded", "volume", name, "err", err)
		return
	}
	if r.set.Put(key, b) {
		r.notify()
	}
}

// event reports an event, or its new count.
func (r *reports) event(e *corev1.Event) {
	b, err := e.Marshal()
	if err != nil {
		r.log.Error("an event cannot be encoded", "err", err)
		return
	}
	key := "events/" + e.Namespace + "/" + e.Name
	r.mu.Lock()
	if _, known := r.set.Get(key); !known {
		r.events = append(r.events, key)
		for len(r.events) > maxEvents {
			r.drop(r.events[0])
		}
	}
	r.db.Queue(state.Status, key, b)
	r.set.Put(key, b)
	r.mu.Unlock()
	r.notify()
}

// drop forgets an event. The lock is held.
func (r *reports) drop(key string) {
	for i, k := range r.events {
		if k == key {
			r.events = append(r.events[:i], r.events[i+1:]...)
			break
		}
	}
	r.set.Delete(key)
	r.db.Queue(state.Status, key, nil)
}

// acknowledged is told that the server has an item.
func (r *reports) acknowledged(key string, version link.Version) {
	if !strings.HasPrefix(key, "events/") {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if have, ok := r.set.Version(key); ok && have == version {
		r.drop(key)
	}
}
