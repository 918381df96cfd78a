package dispatch_test

import (
	"context"
	"testing"

	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestHandlers: a node learns the handlers of the classes that its pods name, also of one that is made later, and of no other.
func TestHandlers(t *testing.T) {
	c := newCluster(t)
	classes := c.client.NodeV1().RuntimeClasses()
	create := func(name, handler string) {
		must[*nodev1.RuntimeClass](t)(classes.Create(context.Background(), &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Handler: handler}, metav1.CreateOptions{}))
	}
	create("other", "runc")
	c.start()
	b := c.board("pi1")
	b.start(c, c.token)
	p := c.pod("p", "pi1")
	class := "sandboxed"
	p.Spec.RuntimeClassName = &class
	if _, err := c.client.CoreV1().Pods("default").Update(t.Context(), p, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the pod is on the node", func() bool { return b.has("node", "pods/default/p") })
	create(class, "kata")
	eventually(t, "the handler is on the node", func() bool {
		v, _ := b.sets["node"].Get("handlers/sandboxed")
		return string(v) == "kata"
	})
	if b.has("node", "handlers/other") {
		t.Error("the node has what it does not need")
	}
	if err := classes.Delete(t.Context(), class, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is gone with its class", func() bool { return !b.has("node", "handlers/sandboxed") })
}
