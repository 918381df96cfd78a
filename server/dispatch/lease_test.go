package dispatch_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"bramble.dev/server/dispatch"
)

// TestLeases: a node's Lease tells when it was last heard of, is the Node's, is made again when somebody removes it, and
// is not touched while the node is away.
func TestLeases(t *testing.T) {
	ctx := context.Background()
	c := newCluster(t)
	var writes atomic.Int64
	c.api.Wrote = func(_ string, gr schema.GroupResource, _ string, _ runtime.Object) {
		if gr.Resource == "leases" {
			writes.Add(1)
		}
	}
	c.start()
	b := c.board("pi1")
	b.start(c, c.token)
	leases := c.client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	var lease *coordinationv1.Lease
	have := func() bool {
		var err error
		lease, err = leases.Get(ctx, "pi1", metav1.GetOptions{})
		return err == nil
	}
	eventually(t, "the node has a Lease", have)
	node := must[*corev1.Node](t)(c.client.CoreV1().Nodes().Get(ctx, "pi1", metav1.GetOptions{}))
	if o := lease.OwnerReferences; len(o) != 1 || o[0].Kind != "Node" || o[0].APIVersion != "v1" || o[0].UID != node.UID {
		t.Errorf("owned by %v", o)
	}
	if *lease.Spec.HolderIdentity != "pi1" || time.Duration(*lease.Spec.LeaseDurationSeconds)*time.Second != dispatch.LeaseDuration {
		t.Errorf("spec %v", lease.Spec)
	}
	first := lease.Spec.RenewTime.Time
	b.put("events/default/e", must[[]byte](t)((&corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "e"}, Count: 1}).Marshal()))
	eventually(t, "a later sign of life is told", func() bool { return have() && lease.Spec.RenewTime.After(first) })
	if lease.Spec.RenewTime.After(time.Now()) {
		t.Errorf("renewed in the future: %v", lease.Spec.RenewTime)
	}

	if err := leases.Delete(ctx, "pi1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	b.put("events/default/f", must[[]byte](t)((&corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "f"}, Count: 1}).Marshal()))
	eventually(t, "a Lease that was removed is made again", have)

	time.Sleep(time.Second) // what was said last is acknowledged, and told
	have()
	last, before := lease.Spec.RenewTime.Time, writes.Load()
	b.wires.set(true)
	time.Sleep(time.Second)
	if have(); !lease.Spec.RenewTime.Time.Equal(last) || writes.Load() != before {
		t.Errorf("a node that is away: renewed at %v and then %v, %d writes", last, lease.Spec.RenewTime.Time, writes.Load()-before)
	}
}
