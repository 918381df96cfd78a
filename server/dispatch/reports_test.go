package dispatch_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"bramble.dev/link"
)

// TestWhatHappenedMeanwhileArrivesOnceInOrder: events of a time without a link come once, in order, also
// when the agent or the server was restarted before all of them were known to have arrived.
func TestWhatHappenedMeanwhileArrivesOnceInOrder(t *testing.T) {
	c := newCluster(t)
	var mu sync.Mutex
	var posted []string
	c.api.Wrote = func(verb string, gr schema.GroupResource, _ string, object runtime.Object) {
		if e, ok := object.(*corev1.Event); ok && verb == "create" {
			mu.Lock()
			defer mu.Unlock()
			posted = append(posted, e.Name)
		}
	}
	c.start()
	b := c.board("pi1")
	b.start(c, c.token)
	eventually(t, "connected", b.u.Connected)
	var want []string
	post := func(n int) {
		name := fmt.Sprintf("e-%03d", n)
		want = append(want, name)
		e := corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Count: 1}
		b.put("events/default/"+name, must[[]byte](t)(e.Marshal()))
	}
	n := 0
	for round := range 4 {
		b.wires.set(true)
		for range 40 {
			post(n)
			n++
		}
		if round == 1 {
			_ = b.stop()
			b.wires.set(false)
			b.start(c, "")
		}
		if round == 2 {
			c.stop()
			c.start()
		}
		b.wires.set(false)
		for range 10 {
			post(n)
			n++
			time.Sleep(time.Millisecond)
		}
		eventually(t, "all events", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(posted) >= n
		})
	}
	eventually(t, "acknowledged", func() bool { b.mu.Lock(); defer b.mu.Unlock(); return len(b.acked) == n })
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(posted, want) {
		t.Errorf("posted %v", posted)
	}
}

// TestReturnOfANode: what others wrote of a node that was away is put right when it is back, also what is written only then.
func TestReturnOfANode(t *testing.T) {
	c := newCluster(t)
	c.start()
	ctx := context.Background()
	b := c.board("pi1")
	b.start(c, c.token)
	pod := c.pod("p", "pi1")
	eventually(t, "connected", b.u.Connected)
	ready := link.PodReport{UID: pod.UID, Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{
		{Type: corev1.PodReady, Status: corev1.ConditionTrue}, {Type: corev1.ContainersReady, Status: corev1.ConditionTrue}}}}
	b.put("pods/default/p/"+string(pod.UID), must[[]byte](t)(ready.Encode()))
	node := link.NodeReport{Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}}}
	b.put(link.NodeReportKey, must[[]byte](t)(node.Encode()))
	state := func() string {
		p := must[*corev1.Pod](t)(c.client.CoreV1().Pods("default").Get(ctx, "p", metav1.GetOptions{}))
		n := must[*corev1.Node](t)(c.client.CoreV1().Nodes().Get(ctx, "pi1", metav1.GetOptions{}))
		if len(p.Status.Conditions) == 0 || len(n.Status.Conditions) == 0 {
			return ""
		}
		return fmt.Sprint(p.Status.Conditions[0].Status, " ", n.Status.Conditions[0].Status)
	}
	eventually(t, "ready", func() bool { return state() == "True True" })
	changes := c.dispatcher.Changes()
	b.wires.set(true)
	eventually(t, "away", func() bool { online, _ := c.dispatcher.Online("pi1"); return !online })
	if name := <-changes; name != "pi1" {
		t.Error(name)
	}
	contradict := func() {
		n := must[*corev1.Node](t)(c.client.CoreV1().Nodes().Get(ctx, "pi1", metav1.GetOptions{}))
		n.Status.Conditions[0].Status = corev1.ConditionUnknown
		must[*corev1.Node](t)(c.client.CoreV1().Nodes().UpdateStatus(ctx, n, metav1.UpdateOptions{}))
		p := must[*corev1.Pod](t)(c.client.CoreV1().Pods("default").Get(ctx, "p", metav1.GetOptions{}))
		p.Status.Conditions[0].Status = corev1.ConditionFalse
		must[*corev1.Pod](t)(c.client.CoreV1().Pods("default").UpdateStatus(ctx, p, metav1.UpdateOptions{}))
	}
	contradict()
	if state() != "False Unknown" {
		t.Fatal(state())
	}
	b.wires.set(false)
	eventually(t, "ready again", func() bool { return state() == "True True" })
	contradict() // as who decided when the node was away, and comes late
	eventually(t, "put right", func() bool { return state() == "True True" })
}
