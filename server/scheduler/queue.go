package scheduler

import (
	"cmp"
	"container/heap"
	"context"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	schedulinghelper "k8s.io/component-helpers/scheduling/corev1"

	corev1 "k8s.io/api/core/v1"
)

const (
	firstBackoff = time.Second
	lastBackoff  = 10 * time.Second
	// awaited is the pause between two looks at a pod for which volumes are made.
	awaited = 50 * time.Millisecond
	// forgotten is how long a pod waits at most without being looked at, in case
	// that what would help it went unnoticed.
	forgotten = 5 * time.Minute
)

// item is a pod that waits for a node.
type item struct {
	key      types.NamespacedName
	uid      types.UID
	priority int32
	since    time.Time
	attempts int
	cares    cares

	at      int       // its place in the heap that it is in; -1: in none
	waiting bool      // it is in the heap of those that wait
	until   time.Time // when it is looked at again if nothing happens
	backoff time.Time // before which it is not looked at whatever happens
	moved   uint64    // the queue's count of wakes when it was taken out
}

// cares is what may help a pod beside nodes and room on them.
type cares struct{ others, volumes, devices bool }

// queue hands out waiting pods, the most urgent first. It is bounded by the
// number of pods that have no node.
type queue struct {
	mu     sync.Mutex
	items  map[types.UID]*item
	active items
	asleep items
	wakes  uint64
	ready  chan struct{} // holds a token while there may be something to do
	now    func() time.Time
}

func newQueue() *queue {
	q := &queue{items: map[types.UID]*item{}, ready: make(chan struct{}, 1), now: time.Now}
	q.active.less = func(a, b *item) bool {
		return cmp.Or(cmp.Compare(b.priority, a.priority), a.since.Compare(b.since), cmp.Compare(a.uid, b.uid)) < 0
	}
	q.asleep.less = func(a, b *item) bool { return a.until.Before(b.until) }
	return q
}

func (q *queue) signal() {
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// add puts a pod in front of the scheduler, also one that waited: it changed.
func (q *queue) add(pod *corev1.Pod, c cares) {
	q.mu.Lock()
	defer q.mu.Unlock()
	it := q.items[pod.UID]
	if it == nil {
		it = &item{key: types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}, uid: pod.UID, since: q.now(), at: -1}
		q.items[pod.UID] = it
	}
	it.priority, it.cares = schedulinghelper.PodPriority(pod), c
	switch {
	case it.waiting:
		heap.Remove(&q.asleep, it.at)
		it.waiting = false
		heap.Push(&q.active, it)
	case it.at < 0 && it.attempts == 0 && it.moved == 0:
		heap.Push(&q.active, it)
	case it.at >= 0:
		heap.Fix(&q.active, it.at)
	default: // it is being decided about: look at it again
		it.moved = 0
	}
	q.signal()
}

// remove forgets a pod that needs no node any more.
func (q *queue) remove(uid types.UID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	it := q.items[uid]
	if it == nil {
		return
	}
	delete(q.items, uid)
	switch {
	case it.waiting:
		heap.Remove(&q.asleep, it.at)
	case it.at >= 0:
		heap.Remove(&q.active, it.at)
	}
}

// next waits for the most urgent pod. Whoever takes it calls wait or remove.
func (q *queue) next(ctx context.Context) (*item, bool) {
	for {
		it, in := q.take()
		if it != nil {
			return it, true
		}
		var alarm <-chan time.Time
		if in > 0 {
			timer := time.NewTimer(in)
			defer timer.Stop()
			alarm = timer.C
		}
		select {
		case <-ctx.Done():
			return nil, false
		case <-q.ready:
		case <-alarm:
		}
	}
}

// take gives the most urgent pod, or how long until the next one is due.
func (q *queue) take() (*item, time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := q.now()
	for len(q.asleep.all) > 0 && !q.asleep.all[0].until.After(now) {
		it := heap.Pop(&q.asleep).(*item)
		it.waiting = false
		heap.Push(&q.active, it)
	}
	if len(q.active.all) > 0 {
		it := heap.Pop(&q.active).(*item)
		it.moved = q.wakes + 1
		it.attempts++
		return it, 0
	}
	if len(q.asleep.all) > 0 {
		return nil, max(q.asleep.all[0].until.Sub(now), time.Millisecond)
	}
	return nil, 0
}

// wait puts a pod aside that fits nowhere: until something changes, or only for
// the back-off if something did while it was decided about, or retry is asked for.
func (q *queue) wait(it *item, retry bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.items[it.uid] != it {
		return // it was removed meanwhile
	}
	q.sleep(it, min(firstBackoff<<min(it.attempts-1, 8), lastBackoff), retry)
}

// await puts a pod aside for which something is being made: the next change may
// be what it waits for.
func (q *queue) await(it *item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.items[it.uid] == it {
		q.sleep(it, awaited, false)
	}
}

// sleep puts a pod among those that wait. q.mu is held.
func (q *queue) sleep(it *item, pause time.Duration, retry bool) {
	now := q.now()
	it.backoff = now.Add(pause)
	it.until = now.Add(forgotten)
	if retry || it.moved != q.wakes+1 {
		it.until = it.backoff
	}
	it.waiting = true
	heap.Push(&q.asleep, it)
	q.signal()
}

// wake looks again at the pods that a change may help.
func (q *queue) wake(helps func(cares) bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.wakes++
	woken := false
	for _, it := range q.asleep.all {
		if helps == nil || helps(it.cares) {
			if it.backoff.Before(it.until) {
				it.until, woken = it.backoff, true
			}
		}
	}
	if woken {
		heap.Init(&q.asleep)
		q.signal()
	}
}

// items is a heap.
type items struct {
	all  []*item
	less func(a, b *item) bool
}

func (h *items) Len() int           { return len(h.all) }
func (h *items) Less(i, j int) bool { return h.less(h.all[i], h.all[j]) }
func (h *items) Swap(i, j int) {
	h.all[i], h.all[j] = h.all[j], h.all[i]
	h.all[i].at, h.all[j].at = i, j
}
func (h *items) Push(x any) {
	it := x.(*item)
	it.at = len(h.all)
	h.all = append(h.all, it)
}
func (h *items) Pop() any {
	it := h.all[len(h.all)-1]
	h.all[len(h.all)-1] = nil
	h.all = h.all[:len(h.all)-1]
	it.at = -1
	return it
}
