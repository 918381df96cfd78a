// Package catalog joins Services with their EndpointSlices and says which of them changed.
//
// The mesh is handed everything at each change. Objects are immutable, so that the same pointer is
// the same object; what stands at the same place as last time is passed over with one comparison. So
// one change among 5,000 Services costs microseconds when the lists keep their order.
//
//	c := catalog.New()
//	changed := c.Update(services, slices)
//	for _, key := range changed {
//		entry, ok := c.Get(key) // !ok: the Service is gone
//	}
package catalog

import (
	"cmp"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// Key names a Service.
type Key struct{ Namespace, Name string }

func (k Key) String() string { return k.Namespace + "/" + k.Name }

// Compare orders keys.
func Compare(a, b Key) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// Entry is a Service and its slices, ordered by name.
type Entry struct {
	Service *corev1.Service
	Slices  []*discoveryv1.EndpointSlice
}

// ClusterIPs are a Service's own addresses; none if it is headless.
func ClusterIPs(svc *corev1.Service) []netip.Addr {
	list := svc.Spec.ClusterIPs
	if len(list) == 0 { // of an old client
		list = []string{svc.Spec.ClusterIP}
	}
	var out []netip.Addr
	for _, s := range list {
		if a, err := netip.ParseAddr(s); err == nil {
			out = append(out, a.Unmap())
		}
	}
	return out
}

// Catalog holds what the last Update was given. It is not for concurrent use.
type Catalog struct {
	services []*corev1.Service
	slices   []*discoveryv1.EndpointSlice
	entries  map[Key]*Entry
}

// New is an empty catalog.
func New() *Catalog { return &Catalog{entries: map[Key]*Entry{}} }

// Get finds a Service.
func (c *Catalog) Get(k Key) (Entry, bool) {
	e := c.entries[k]
	if e == nil || e.Service == nil {
		return Entry{}, false
	}
	return *e, true
}

// Keys lists the Services, in order.
func (c *Catalog) Keys() []Key {
	var out []Key
	for k, e := range c.entries {
		if e.Service != nil {
			out = append(out, k)
		}
	}
	slices.SortFunc(out, Compare)
	return out
}

// Update takes the whole lists and gives the keys of the Services that are not as before, in order.
func (c *Catalog) Update(services []*corev1.Service, eps []*discoveryv1.EndpointSlice) []Key {
	touched := map[Key]bool{}
	gone, come := differ(c.services, services)
	for _, s := range gone {
		k := Key{s.Namespace, s.Name}
		if e := c.entry(k); e.Service == s {
			e.Service = nil
			touched[k] = true
		}
	}
	for _, s := range come {
		k := Key{s.Namespace, s.Name}
		c.entry(k).Service = s
		touched[k] = true
	}
	oldSlices, newSlices := differ(c.slices, eps)
	for _, s := range oldSlices {
		if k, ok := serviceOf(s); ok {
			e := c.entry(k)
			e.Slices = slices.DeleteFunc(slices.Clone(e.Slices), func(o *discoveryv1.EndpointSlice) bool { return o == s })
			touched[k] = true
		}
	}
	for _, s := range newSlices {
		if k, ok := serviceOf(s); ok {
			e := c.entry(k)
			// Of two slices of one name the later one counts.
			e.Slices = slices.DeleteFunc(slices.Clone(e.Slices), func(o *discoveryv1.EndpointSlice) bool { return o.Name == s.Name })
			e.Slices = append(e.Slices, s)
			slices.SortFunc(e.Slices, func(a, b *discoveryv1.EndpointSlice) int { return cmp.Compare(a.Name, b.Name) })
			touched[k] = true
		}
	}
	c.services, c.slices = slices.Clone(services), slices.Clone(eps)
	out := make([]Key, 0, len(touched))
	for k := range touched {
		if e := c.entries[k]; e.Service == nil && len(e.Slices) == 0 {
			delete(c.entries, k)
		}
		out = append(out, k)
	}
	slices.SortFunc(out, Compare)
	return out
}

func (c *Catalog) entry(k Key) *Entry {
	e := c.entries[k]
	if e == nil {
		e = &Entry{}
		c.entries[k] = e
	}
	return e
}

func serviceOf(s *discoveryv1.EndpointSlice) (Key, bool) {
	name := s.Labels[discoveryv1.LabelServiceName]
	return Key{s.Namespace, name}, name != ""
}

// differ compares two lists of pointers as sets, after what is equal at both ends has been cut off.
func differ[T any](before, after []*T) (gone, come []*T) {
	for len(before) > 0 && len(after) > 0 && before[0] == after[0] {
		before, after = before[1:], after[1:]
	}
	for len(before) > 0 && len(after) > 0 && before[len(before)-1] == after[len(after)-1] {
		before, after = before[:len(before)-1], after[:len(after)-1]
	}
	if len(before) == 0 {
		return nil, after
	}
	if len(after) == 0 {
		return before, nil
	}
	had := make(map[*T]bool, len(before))
	for _, p := range before {
		had[p] = true
	}
	for _, p := range after {
		if had[p] {
			delete(had, p)
		} else {
			come = append(come, p)
		}
	}
	for _, p := range before {
		if had[p] {
			gone = append(gone, p)
		}
	}
	return gone, come
}
