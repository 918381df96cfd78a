package api

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/storage"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	api "k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/v1"
	"k8s.io/kubernetes/pkg/registry/core/service/allocator"
	"k8s.io/kubernetes/pkg/registry/core/service/portallocator"

	"bramble.dev/server/store"
)

// reservation is for how many seconds a port is reserved: for longer than it takes to write the Service that has it, which says from
// then on that it is taken.
const reservation = 3 * 60

// portReservations allocate node ports where several servers do. A port that no Service has is taken by who makes its reservation, an
// object that ends by itself. So nothing has to be repaired after a crash: what no Service has is free a little later.
//
// Services are read after the reservation was made: the store promises that they are then as new as it is, and a Service whose own
// reservation has ended is among them.
type portReservations struct {
	ports    utilnet.PortRange
	storage  storage.Interface
	services corelisters.ServiceLister
}

const reservations = "/nodeports"

func newSharedNodePorts(s store.Store, services corelisters.ServiceLister, r utilnet.PortRange) (*portallocator.PortAllocator, error) {
	return portallocator.New(r, func(int, string, int) (allocator.Interface, error) {
		return &portReservations{ports: r, services: services, storage: s.Storage(store.Resource{
			Prefix: reservations, Codec: legacyscheme.Codecs.LegacyCodec(v1.SchemeGroupVersion), New: func() runtime.Object { return &api.RangeAllocation{} },
		})}, nil
	})
}

// taken are the offsets of the ports that Services have.
func (p *portReservations) taken() (sets.Set[int], error) {
	services, err := p.services.List(labels.Everything())
	if err != nil {
		return nil, fmt.Errorf("node ports: %w", err)
	}
	taken := sets.New[int]()
	for _, s := range services {
		for _, port := range nodePortsOf(s) {
			taken.Insert(int(port) - p.ports.Base)
		}
	}
	return taken, nil
}

func (p *portReservations) key(offset int) string {
	return reservations + "/" + strconv.Itoa(p.ports.Base+offset)
}

// reserve takes a port from other servers for a while; false when one of them has it.
func (p *portReservations) reserve(offset int) (bool, error) {
	err := p.storage.Create(context.Background(), p.key(offset), &api.RangeAllocation{Range: p.ports.String()}, &api.RangeAllocation{}, reservation)
	if storage.IsExist(err) {
		return false, nil
	}
	return err == nil, err
}

func (p *portReservations) Allocate(offset int) (bool, error) {
	if ok, err := p.reserve(offset); !ok {
		return false, err
	}
	taken, err := p.taken()
	if err == nil && !taken.Has(offset) {
		return true, nil
	}
	if e := p.Release(offset); err == nil {
		err = e
	}
	return false, err
}

// AllocateNext takes any free port. The lower ones are left for those that name theirs, as upstream leaves them, while there are others.
func (p *portReservations) AllocateNext() (int, bool, error) {
	taken, err := p.taken()
	if err != nil {
		return 0, false, err
	}
	named := min(max(16, p.ports.Size/32), 128)
	order := rand.Perm(p.ports.Size - named)
	for i := range order {
		order[i] += named
	}
	for _, offset := range append(order, rand.Perm(named)...) {
		if taken.Has(offset) {
			continue
		}
		if ok, err := p.Allocate(offset); ok || err != nil {
			return offset, ok, err
		}
	}
	return 0, false, nil
}

func (p *portReservations) Release(offset int) error {
	err := p.storage.Delete(context.Background(), p.key(offset), &api.RangeAllocation{}, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{})
	if storage.IsNotFound(err) {
		return nil
	}
	return err
}

func (p *portReservations) ForEach(visit func(int)) {
	taken, _ := p.taken() // none can be told of without the store
	for offset := range taken {
		visit(offset)
	}
}

func (p *portReservations) Has(offset int) bool {
	taken, err := p.taken()
	return err != nil || taken.Has(offset)
}

// Free is asked for by metrics alone.
func (p *portReservations) Free() int {
	taken, _ := p.taken()
	return p.ports.Size - taken.Len()
}

func (p *portReservations) Destroy() {}
