package worker

import (
	"sync"

	corev1 "k8s.io/api/core/v1"
)

// mailbox holds the newest version of a pod: one slot, in which an end is never overwritten.
type mailbox struct {
	mu      sync.Mutex
	desired Desired
	refresh bool // what the pod's volumes show may have changed
	retry   bool // what failed may succeed now
	evict   *Eviction

	notify chan struct{} // capacity 1
}

func newMailbox(pod *corev1.Pod) *mailbox {
	return &mailbox{desired: Desired{Pod: pod}, notify: make(chan struct{}, 1)}
}

// put leaves a version of the pod.
func (b *mailbox) put(pod *corev1.Pod) {
	b.mu.Lock()
	old := b.desired.Pod
	if b.desired.Gone || old == pod {
		b.mu.Unlock()
		return
	}
	if old.DeletionTimestamp != nil {
		pod = keepEnd(pod, old)
	}
	b.desired.Pod, b.refresh = pod, true
	b.mu.Unlock()
	b.wake()
}

// keepEnd is the new version with the end of the old one, which may only come sooner.
func keepEnd(pod, old *corev1.Pod) *corev1.Pod {
	grace := old.DeletionGracePeriodSeconds
	if g := pod.DeletionGracePeriodSeconds; pod.DeletionTimestamp != nil && g != nil && (grace == nil || *g < *grace) {
		grace = g
	}
	if pod.DeletionTimestamp != nil && grace == pod.DeletionGracePeriodSeconds {
		return pod
	}
	pod = pod.DeepCopy()
	pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = old.DeletionTimestamp.DeepCopy(), grace
	return pod
}

// gone leaves that the pod is no longer wanted.
func (b *mailbox) gone() {
	b.mu.Lock()
	was := b.desired.Gone
	b.desired.Gone = true
	b.mu.Unlock()
	if !was {
		b.wake()
	}
}

// objectsChanged leaves that a ConfigMap, a Secret or another object that the pod may refer to has
// changed.
func (b *mailbox) objectsChanged() {
	b.mu.Lock()
	b.refresh, b.retry = true, true
	b.mu.Unlock()
	b.wake()
}

// evicted leaves that the pod is to be ended because the board is short of something; the first reason stays.
func (b *mailbox) evicted(e Eviction) {
	b.mu.Lock()
	if b.evict == nil {
		b.evict = &e
	}
	b.mu.Unlock()
	b.wake()
}

func (b *mailbox) eviction() *Eviction {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.evict
}

// take returns what is desired, and what else was left since it was last called.
func (b *mailbox) take() (d Desired, refresh, retry bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	d, refresh, retry = b.desired, b.refresh, b.retry
	b.refresh, b.retry = false, false
	return d, refresh, retry
}

func (b *mailbox) peek() Desired {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.desired
}

func (b *mailbox) wake() {
	select {
	case b.notify <- struct{}{}:
	default:
	}
}
