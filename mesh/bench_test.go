package mesh

import (
	"context"
	"fmt"
	"testing"

	"k8s.io/apimachinery/pkg/types"
)

// BenchmarkAttach: go test ./mesh -run - -bench Attach -benchtime 100x
func BenchmarkAttach(b *testing.B) {
	c := newCluster(b, 1)
	c.set()
	h := c.hosts[0]
	n := 0
	for b.Loop() {
		n++
		uid := types.UID(fmt.Sprint(n))
		h.Must(func() error {
			_, err := h.Mesh.Attach(context.Background(), PodNetwork{UID: uid, Namespace: "default", Name: "p"})
			return err
		})
		b.StopTimer()
		h.Must(func() error { return h.Mesh.Detach(context.Background(), uid) })
		b.StartTimer()
	}
}
