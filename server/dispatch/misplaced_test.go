package dispatch_test

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestMisplacedPod: a pod that names its node and asks for another kind of node is failed in the kubelet's words; one that fits is sent,
// also by a label that was set just before; and one that has begun stays when labels change.
func TestMisplacedPod(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c := newCluster(t)
	c.start()
	b := c.board("a")
	b.start(c, c.token)
	nodes, pods := c.client.CoreV1().Nodes(), c.client.CoreV1().Pods("default")
	eventually(t, "node a", func() bool { _, err := nodes.Get(ctx, "a", metav1.GetOptions{}); return err == nil })
	label := func(disk string) {
		for {
			node := must[*corev1.Node](t)(nodes.Get(ctx, "a", metav1.GetOptions{}))
			node.Labels = map[string]string{corev1.LabelHostname: "a", "disk": disk}
			if _, err := nodes.Update(ctx, node, metav1.UpdateOptions{}); err == nil {
				return
			}
		}
	}
	pod := func(name, disk string) {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.PodSpec{
			NodeName: "a", NodeSelector: map[string]string{"disk": disk}, Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
		must[*corev1.Pod](t)(pods.Create(ctx, p, metav1.CreateOptions{}))
	}
	get := func(name string) *corev1.Pod { return must[*corev1.Pod](t)(pods.Get(ctx, name, metav1.GetOptions{})) }

	label("ssd")
	pod("fits", "ssd")
	eventually(t, "the pod that fits is sent", func() bool { return b.has("node", "pods/default/fits") })
	pod("misplaced", "tape")
	eventually(t, "the other is failed", func() bool { return get("misplaced").Status.Phase == corev1.PodFailed })
	const why = "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"
	if s := get("misplaced").Status; s.Reason != "NodeAffinity" || s.Message != "Pod was rejected: "+why || s.StartTime == nil {
		t.Errorf("status: %+v", s)
	}
	eventually(t, "an event says why", func() bool {
		all := must[*corev1.EventList](t)(c.client.CoreV1().Events("default").List(ctx, metav1.ListOptions{}))
		for _, e := range all.Items {
			if e.InvolvedObject.Name == "misplaced" && e.Reason == "NodeAffinity" && e.Message == why && e.Type == corev1.EventTypeWarning {
				return true
			}
		}
		return false
	})

	begun := get("fits")
	now := metav1.Now()
	begun.Status.StartTime = &now
	must[*corev1.Pod](t)(pods.UpdateStatus(ctx, begun, metav1.UpdateOptions{}))
	for n := range 20 { // each pod comes right after the label that it asks for
		disk := string(rune('a' + n))
		label(disk)
		pod("with-"+disk, disk)
		eventually(t, "the pod is sent", func() bool { return b.has("node", "pods/default/with-"+disk) })
		started := get("with-" + disk)
		started.Status.StartTime = &now
		must[*corev1.Pod](t)(pods.UpdateStatus(ctx, started, metav1.UpdateOptions{}))
		if started.Status.Phase == corev1.PodFailed {
			t.Fatalf("refused: %+v", started.Status)
		}
	}
	time.Sleep(100 * time.Millisecond)
	if get("fits").Status.Phase == corev1.PodFailed || !b.has("node", "pods/default/fits") {
		t.Error("the pod that had begun was ended by a label")
	}
}
