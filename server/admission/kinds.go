package admission

import (
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/restmapper"
)

// kinds tells of which resource a kind is, which policies want to know of their parameters. What is not found may be a custom resource
// that is younger than what was read: then discovery is read again.
func kinds(d discovery.DiscoveryInterface) meta.ResettableRESTMapper {
	a := &aging{CachedDiscoveryInterface: memory.NewMemCacheClient(d)}
	a.Invalidate()
	return restmapper.NewDeferredDiscoveryRESTMapper(a)
}

// aging is discovery that counts as fresh for a second; upstream's cache counts as fresh for ever.
type aging struct {
	discovery.CachedDiscoveryInterface
	since atomic.Int64 // nanoseconds since the epoch
}

func (a *aging) Fresh() bool { return time.Now().UnixNano()-a.since.Load() < int64(time.Second) }

func (a *aging) Invalidate() {
	a.since.Store(time.Now().UnixNano())
	a.CachedDiscoveryInterface.Invalidate()
}
