package scheduler

import (
	"cmp"
	"container/heap"
	"context"
	"slices"
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

	in      *items    // the heap that it is in; nil: it is being decided about
	at      int       // its place there
	until   time.Time // when it is looked at again if nothing happens
	idle    time.Time // when it is looked at again, once something happened that may help, if nobody else wants anything
	backoff time.Time // and when if others do
	patient bool      // it waits for its back-off even if nobody else wants anything
	moved   uint64    // the queue's count of wakes when it was taken out
}

// cares is what may help a pod beside nodes and room on them.
type cares struct{ others, volumes, devices bool }

// queue hands out waiting pods, the most urgent first. It is bounded by the
// number of pods that have no node.
type queue struct {
	mu     sync.Mutex
	items  map[types.UID]*item
	active items // to be looked at now
	woken  items // something happened that may help, in their back-off
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
	q.woken.less = func(a, b *item) bool { return a.idle.Before(b.idle) }
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
		it = &item{key: types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}, uid: pod.UID, since: q.now()}
		q.items[pod.UID] = it
	}
	it.priority, it.cares = schedulinghelper.PodPriority(pod), c
	if it.in == nil && it.attempts > 0 { // it is being decided about: look at it again
		it.moved = 0
	} else {
		q.active.take(it)
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
	if it.in != nil {
		heap.Remove(it.in, it.at)
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
		q.active.take(q.asleep.all[0])
	}
	// While nobody else wants anything there is no reason to wait for a back-off (KEP-5142), but that a pod which is woken all the
	// time costs no more than one look a second.
	alone := len(q.active.all) == 0
	for len(q.woken.all) > 0 {
		it := q.woken.all[0]
		if it.backoff.After(now) && (!alone || it.idle.After(now)) {
			break
		}
		q.active.take(it)
	}
	if len(q.active.all) > 0 {
		it := heap.Pop(&q.active).(*item)
		it.moved = q.wakes + 1
		it.attempts++
		return it, 0
	}
	var next time.Time
	if len(q.asleep.all) > 0 {
		next = q.asleep.all[0].until
	}
	if len(q.woken.all) > 0 && (next.IsZero() || q.woken.all[0].idle.Before(next)) {
		next = q.woken.all[0].idle
	}
	if next.IsZero() {
		return nil, 0
	}
	return nil, max(next.Sub(now), time.Millisecond)
}

// wait puts a pod aside that fits nowhere: until something changes, or only for
// the back-off if something did while it was decided about, or retry is asked for.
func (q *queue) wait(it *item, retry bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.items[it.uid] != it {
		return // it was removed meanwhile
	}
	it.patient = retry
	q.sleep(it, min(firstBackoff<<min(it.attempts-1, 8), lastBackoff), retry)
}

// await puts a pod aside for which something is being made: the next change may
// be what it waits for.
func (q *queue) await(it *item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.items[it.uid] == it {
		it.patient = true
		q.sleep(it, awaited, false)
	}
}

// sleep puts a pod among those that wait. q.mu is held.
func (q *queue) sleep(it *item, pause time.Duration, retry bool) {
	now := q.now()
	it.idle, it.backoff, it.until = now.Add(min(pause, firstBackoff)), now.Add(pause), now.Add(forgotten)
	q.asleep.take(it)
	if retry || it.moved != q.wakes+1 {
		q.rouse(it)
	}
	q.signal()
}

// rouse has a pod looked at when its back-off is over, or before. q.mu is held.
func (q *queue) rouse(it *item) {
	if !it.patient {
		q.woken.take(it)
	} else if it.backoff.Before(it.until) {
		it.until = it.backoff
		heap.Fix(&q.asleep, it.at)
	}
}

// wake looks again at the pods that a change may help.
func (q *queue) wake(helps func(cares) bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.wakes++
	for _, it := range slices.Clone(q.asleep.all) {
		if helps == nil || helps(it.cares) {
			q.rouse(it)
		}
	}
	q.signal()
}

// items is a heap.
type items struct {
	all  []*item
	less func(a, b *item) bool
}

// take moves an item here.
func (h *items) take(it *item) {
	if it.in != nil {
		heap.Remove(it.in, it.at)
	}
	heap.Push(h, it)
}

func (h *items) Len() int           { return len(h.all) }
func (h *items) Less(i, j int) bool { return h.less(h.all[i], h.all[j]) }
func (h *items) Swap(i, j int) {
	h.all[i], h.all[j] = h.all[j], h.all[i]
	h.all[i].at, h.all[j].at = i, j
}
func (h *items) Push(x any) {
	it := x.(*item)
	it.in, it.at = h, len(h.all)
	h.all = append(h.all, it)
}
func (h *items) Pop() any {
	it := h.all[len(h.all)-1]
	h.all[len(h.all)-1] = nil
	h.all = h.all[:len(h.all)-1]
	it.in = nil
	return it
}
