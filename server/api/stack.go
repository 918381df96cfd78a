package api

import (
	"net/http"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// A goroutine begins with a stack of few KiB, which grows by being copied to one of twice the size, again and again. Each request has
// three goroutines of its own (net/http's, and upstream's for its deadline and for its result), and growing their stacks was a tenth of
// a create's processor time. Grown in one step, while there is hardly anything on them to copy, they cost a third of that.
//
//go:noinline
func deepen(at int) byte {
	var room [stackRoom]byte
	return room[at] // at a place that the compiler does not know, so that it leaves the room there
}

// stackRoom makes a stack of 32 KiB, which is what a create of a ConfigMap needs. The runtime makes those smaller that do not use it.
const stackRoom = 15 << 10

// deep is for handlers at which a goroutine begins.
func deep(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		deepen(len(r.Method))
		h.ServeHTTP(w, r)
	})
}

// deepCreater makes the empty objects that upstream's goroutines for results begin with.
type deepCreater struct{ runtime.ObjectCreater }

func (c deepCreater) New(kind schema.GroupVersionKind) (runtime.Object, error) {
	deepen(len(kind.Kind))
	return c.ObjectCreater.New(kind)
}
