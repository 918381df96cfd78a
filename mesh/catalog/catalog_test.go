package catalog

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"pgregory.net/rapid"
)

func service(i int) *corev1.Service {
	s := &corev1.Service{}
	s.Namespace, s.Name = "ns", fmt.Sprintf("s%d", i)
	return s
}

func slice(i, n int) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{}
	s.Namespace, s.Name = "ns", fmt.Sprintf("s%d-%d", i, n)
	if i < 5 {
		s.Labels = map[string]string{discoveryv1.LabelServiceName: fmt.Sprintf("s%d", i)}
	}
	return s
}

// dumb is the same without any cleverness.
func dumb(services []*corev1.Service, eps []*discoveryv1.EndpointSlice) map[Key]Entry {
	out := map[Key]Entry{}
	for _, s := range services {
		e := Entry{Service: s}
		for _, sl := range eps {
			if sl.Namespace == s.Namespace && sl.Labels[discoveryv1.LabelServiceName] == s.Name {
				e.Slices = append(e.Slices, sl)
			}
		}
		slices.SortFunc(e.Slices, func(a, b *discoveryv1.EndpointSlice) int {
			if a.Name < b.Name {
				return -1
			}
			return 1
		})
		out[Key{s.Namespace, s.Name}] = e
	}
	return out
}

func equal(a, b Entry) bool { return a.Service == b.Service && slices.Equal(a.Slices, b.Slices) }

// TestUpdate compares random updates with the dumb version: the entries, and that all of those that
// differ, and only those, are said to have changed.
func TestUpdate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := New()
		services, eps := map[int]*corev1.Service{}, map[[2]int]*discoveryv1.EndpointSlice{}
		var before map[Key]Entry
		for range rapid.IntRange(1, 10).Draw(t, "updates") {
			for range rapid.IntRange(0, 3).Draw(t, "changes") {
				i, n := rapid.IntRange(0, 5).Draw(t, "service"), rapid.IntRange(0, 2).Draw(t, "slice")
				switch rapid.IntRange(0, 3).Draw(t, "what") {
				case 0:
					services[i] = service(i)
				case 1:
					delete(services, i)
				case 2:
					eps[[2]int{i, n}] = slice(i, n)
				case 3:
					delete(eps, [2]int{i, n})
				}
			}
			svcList := slices.Collect(maps.Values(services)) // in any order
			epList := slices.Collect(maps.Values(eps))
			changed := c.Update(svcList, epList)
			want := dumb(svcList, epList)
			if !slices.IsSortedFunc(changed, Compare) {
				t.Fatalf("not in order: %v", changed)
			}
			for k, w := range want {
				got, ok := c.Get(k)
				if !ok || !equal(got, w) {
					t.Fatalf("%v: got %v, want %v", k, got, w)
				}
				if old, had := before[k]; (!had || !equal(old, w)) && !slices.Contains(changed, k) {
					t.Fatalf("%v changed, but is not said to", k)
				} else if had && equal(old, w) && slices.Contains(changed, k) {
					t.Fatalf("%v did not change, but is said to", k)
				}
			}
			for k := range before {
				if _, ok := want[k]; !ok && !slices.Contains(changed, k) {
					t.Fatalf("%v went, but is not said to", k)
				}
			}
			if got := c.Keys(); len(got) != len(want) {
				t.Fatalf("keys %v, want %d", got, len(want))
			}
			before = want
		}
	})
}

// BenchmarkUpdate: one slice of many changes, the lists keep their order.
func BenchmarkUpdate(b *testing.B) {
	c := New()
	var services []*corev1.Service
	var eps []*discoveryv1.EndpointSlice
	for i := range 5000 {
		services = append(services, service(i))
		s := slice(0, i)
		s.Labels[discoveryv1.LabelServiceName] = services[i].Name
		eps = append(eps, s)
	}
	c.Update(services, eps)
	b.ReportAllocs()
	for b.Loop() {
		eps[2500] = eps[2500].DeepCopy()
		if n := len(c.Update(services, eps)); n != 1 {
			b.Fatalf("%d changed", n)
		}
	}
}
