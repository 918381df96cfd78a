package worker

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/agent/events"
)

// How long after a container was killed it may still be there, and how often what it waits for is given up then.
const (
	survives  = 3 * time.Second
	giveAgain = 2 * time.Second
)

// giveUp sees to it that a container of a pod that ends does end: a process that has something to write to a file server survives
// SIGKILL for as long as that is away. It begins when the grace is over; the caller ends it when the container has ended. While the
// pod is to live on, so is what it wrote.
func (w *worker) giveUp(ctx context.Context, pod *corev1.Pod, failed bool, grace time.Duration) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() {
		said := ""
		for delay := grace + survives; ; delay = giveAgain {
			select {
			case <-ctx.Done():
				return
			case <-time.After(delay):
			}
			if !failed && !w.box.peek().Ending() {
				continue
			}
			what := w.lost(ctx, pod)
			if what != "" && what != said && ctx.Err() == nil {
				said = what
				w.m.Events.Event(events.Pod(pod), corev1.EventTypeWarning, events.FailedKillPod, what)
			}
		}
	})
	return func() { cancel(); done.Wait() }
}

// lost gives up what a pod's processes wait for, and says what that means.
func (w *worker) lost(ctx context.Context, pod *corev1.Pod) string {
	servers, err := w.m.Volumes.GiveUp(ctx, pod.UID)
	if err != nil {
		return fmt.Sprintf("its processes do not die, for they wait for a file server: %v; they end when the server is back", err)
	}
	if len(servers) == 0 {
		return ""
	}
	return fmt.Sprintf("its processes did not die, for they waited for a file server that does not answer: %s; what they had not written there is lost", strings.Join(servers, ", "))
}
