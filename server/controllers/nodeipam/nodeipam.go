// Package nodeipam gives each node its own subnet of the cluster's pod network.
//
// Invariant: no two nodes have the same subnet; a node keeps the one it has.
// What is taken is read from the nodes themselves, so there is nothing else to
// restore after a crash.
//
//	l := nodeipam.New(nodeipam.Inputs{PodCIDR: netip.MustParsePrefix("10.42.0.0/16"), ...})
//	l.Run(ctx)
package nodeipam

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/controllers/loop"
)

// fullRetry is how long a node waits that found no subnet free.
const fullRetry = time.Minute

// Inputs is what the controller reads and writes with.
type Inputs struct {
	Client  kubernetes.Interface
	Events  record.EventRecorder
	Nodes   *cache.Cache[corev1.Node]
	PodCIDR netip.Prefix
	Log     *slog.Logger
}

type controller struct {
	Inputs
	loop   *loop.Loop
	writes loop.Writes
}

// all is the one key under which writes are remembered: a subnet must be seen
// as taken before the next node gets one.
var all = loop.Key{}

// New makes the controller.
func New(in Inputs) *loop.Loop {
	c := &controller{Inputs: in}
	c.loop = loop.New("node-controller", in.Log, c.reconcile).OneWorker()
	loop.Watch(c.loop, in.Nodes, loop.Self)
	return c.loop
}

func (c *controller) reconcile(ctx context.Context, key loop.Key) error {
	if err := c.writes.Settle(ctx, all); err != nil {
		return err
	}
	node, ok := c.Nodes.Get("", key.Name)
	if !ok || node.Spec.PodCIDR != "" || node.DeletionTimestamp != nil {
		return nil
	}
	subnet, ok := next(c.PodCIDR, taken(c.Nodes.List("", nil)))
	if !ok {
		ref := &corev1.ObjectReference{Kind: "Node", Name: node.Name, UID: node.UID}
		c.Events.Eventf(ref, corev1.EventTypeNormal, "CIDRNotAvailable", "Node %s status is now: CIDRNotAvailable", node.Name)
		c.loop.After(key, fullRetry)
		return nil
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": node.UID},
		"spec":     map[string]any{"podCIDR": subnet.String(), "podCIDRs": []string{subnet.String()}},
	})
	if err != nil {
		return loop.Permanent(err)
	}
	patched, err := c.Client.CoreV1().Nodes().Patch(ctx, node.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	return loop.Updated(&c.writes, all, c.Nodes, patched, err, fmt.Sprintf("give %s to the node", subnet))
}

func taken(nodes []*corev1.Node) []netip.Prefix {
	var out []netip.Prefix
	for _, node := range nodes {
		for _, s := range append([]string{node.Spec.PodCIDR}, node.Spec.PodCIDRs...) {
			if p, err := netip.ParsePrefix(s); err == nil {
				out = append(out, p)
			}
		}
	}
	return out
}
