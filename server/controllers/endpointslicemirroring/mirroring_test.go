package endpointslicemirroring

import (
	"log/slog"
	"testing"
	"testing/synctest"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	"pgregory.net/rapid"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/cache/cachetest"
)

// What is written by hand, changed, labelled, adopted by a selector and deleted, with crashes between any two writes: in the end the
// slices show the Endpoints, others' slices are left alone, and nothing more is written.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		cachetest.InBubble(t, rt, func(rt *rapid.T) {
			m := &model{t: t, rt: rt, api: cachetest.New()}
			m.foreign()
			m.process = m.api.Start(func(client kubernetes.Interface, set *cache.Set) cachetest.Runner {
				return New(Inputs{Client: client, Events: record.NewFakeRecorder(1000), Services: set.Services(), Endpoints: set.Endpoints(),
					EndpointSlices: set.EndpointSlices(), Log: slog.New(slog.DiscardHandler)})
			})
			defer func() { m.process.Stop() }()
			rt.Repeat(map[string]func(*rapid.T){
				"Service": func(rt *rapid.T) { m.service(rt) }, "Endpoints": func(rt *rapid.T) { m.endpoints(rt) },
				"crash": func(rt *rapid.T) { m.process.CrashAfter(int64(rapid.IntRange(0, 3).Draw(rt, "writes"))) },
				"":      func(*rapid.T) { m.check() },
			})
		})
	})
}

type model struct {
	t       *testing.T
	rt      *rapid.T
	api     *cachetest.API
	process *cachetest.Process
}

func meta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: "default", Name: name}
}

func (m *model) must(err error) {
	if err != nil {
		m.rt.Fatal(err)
	}
}

// foreign is a slice of somebody else's for the same Service.
func (m *model) foreign() {
	s := &discoveryv1.EndpointSlice{ObjectMeta: meta("by-hand"), AddressType: discoveryv1.AddressTypeIPv4}
	s.Labels = map[string]string{discoveryv1.LabelServiceName: "db", discoveryv1.LabelManagedBy: "me"}
	_, err := m.api.Client().DiscoveryV1().EndpointSlices("default").Create(m.t.Context(), s, metav1.CreateOptions{})
	m.must(err)
}

func (m *model) service(rt *rapid.T) {
	client := m.api.Client().CoreV1().Services("default")
	old, err := client.Get(m.t.Context(), "db", metav1.GetOptions{})
	var selector map[string]string
	if rapid.IntRange(0, 3).Draw(rt, "selector") == 0 {
		selector = map[string]string{"app": "db"}
	}
	switch {
	case err != nil:
		_, err = client.Create(m.t.Context(), &corev1.Service{ObjectMeta: meta("db"), Spec: corev1.ServiceSpec{Selector: selector}}, metav1.CreateOptions{})
	case rapid.IntRange(0, 3).Draw(rt, "delete") == 0:
		err = client.Delete(m.t.Context(), "db", metav1.DeleteOptions{})
	default:
		old.Spec.Selector = selector
		_, err = client.Update(m.t.Context(), old, metav1.UpdateOptions{})
	}
	m.must(err)
}

func (m *model) endpoints(rt *rapid.T) {
	client := m.api.Client().CoreV1().Endpoints("default")
	old, err := client.Get(m.t.Context(), "db", metav1.GetOptions{})
	exists := err == nil
	if exists && rapid.IntRange(0, 3).Draw(rt, "delete") == 0 {
		m.must(client.Delete(m.t.Context(), "db", metav1.DeleteOptions{}))
		return
	}
	if !exists {
		old = &corev1.Endpoints{ObjectMeta: meta("db")}
	}
	old.Labels = map[string]string{"tier": rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "tier")}
	if rapid.IntRange(0, 4).Draw(rt, "skip") == 0 {
		old.Labels[discoveryv1.LabelSkipMirror] = "true"
	}
	old.Subsets = nil
	for range rapid.IntRange(0, 3).Draw(rt, "subsets") {
		var s corev1.EndpointSubset
		for _, ip := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"192.0.2.1", "192.0.2.2", "2001:db8::1"}), 1, 3, rapid.ID[string]).Draw(rt, "addresses") {
			s.Addresses = append(s.Addresses, corev1.EndpointAddress{IP: ip})
		}
		s.Ports = []corev1.EndpointPort{{Name: "sql", Port: rapid.SampledFrom([]int32{5432, 3306}).Draw(rt, "port")}}
		old.Subsets = append(old.Subsets, s)
	}
	if exists {
		_, err = client.Update(m.t.Context(), old, metav1.UpdateOptions{})
	} else {
		_, err = client.Create(m.t.Context(), old, metav1.CreateOptions{})
	}
	m.must(err)
}

func (m *model) check() {
	m.process.Restart()
	synctest.Wait()
	want := map[string]int{} // ip:port -> how often
	service, err := m.api.Client().CoreV1().Services("default").Get(m.t.Context(), "db", metav1.GetOptions{})
	if e, missing := m.api.Client().CoreV1().Endpoints("default").Get(m.t.Context(), "db", metav1.GetOptions{}); err == nil && missing == nil &&
		service.Spec.Selector == nil && e.Labels[discoveryv1.LabelSkipMirror] == "" {
		for _, s := range e.Subsets {
			for _, a := range s.Addresses {
				want[key(a.IP, s.Ports[0].Port)]++
			}
		}
	}
	foreign := 0
	for _, s := range cachetest.All[discoveryv1.EndpointSlice](m.api, "discovery.k8s.io", "endpointslices") {
		if s.Labels[discoveryv1.LabelManagedBy] != managedBy {
			foreign++
			continue
		}
		for _, e := range s.Endpoints {
			want[key(e.Addresses[0], *s.Ports[0].Port)]--
		}
	}
	for k, n := range want {
		if n != 0 {
			m.rt.Fatalf("%s is shown %d times too seldom", k, n)
		}
	}
	if foreign != 1 {
		m.rt.Fatalf("%d slices of somebody else's, there was one", foreign)
	}
	before := m.process.Writes()
	m.process.Restart()
	synctest.Wait()
	if n := m.process.Writes() - before; n != 0 {
		m.rt.Fatalf("%d writes at rest", n)
	}
}

func key(ip string, port int32) string { return ip + ":" + string(rune('0'+port%10)) }
