package services

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"pgregory.net/rapid"
)

func addrPorts(s string) []netip.AddrPort {
	out := []netip.AddrPort{}
	for _, f := range strings.Fields(s) {
		out = append(out, netip.MustParseAddrPort(f))
	}
	return out
}

func TestChoose(t *testing.T) {
	http := to("http", 8080, "TCP")
	v6 := slice("v6", http, ep("2001:db8::1", "n1"))
	v6.AddressType = discoveryv1.AddressTypeIPv6
	unproxied := slice("s", http, ep("10.42.1.1", "n1"))
	unproxied.Labels[corev1.IsHeadlessService] = ""
	for _, tt := range []struct {
		name       string
		slices     []*discoveryv1.EndpointSlice
		all, local string
	}{
		{"no slices", nil, "", ""},
		{"ready, unready, terminating", []*discoveryv1.EndpointSlice{slice("s", http, ep("10.42.1.1", "n1"), ep("10.42.1.2", "n1", "unready"), ep("10.42.2.3", "n2", "terminating"))}, "10.42.1.1:8080", "10.42.1.1:8080"},
		{"conditions not given mean ready", []*discoveryv1.EndpointSlice{slice("s", http, ep("10.42.2.1", "n2", "nil"))}, "10.42.2.1:8080", ""},
		{"all are terminating", []*discoveryv1.EndpointSlice{slice("s", http, ep("10.42.1.1", "n1", "terminating"), ep("10.42.2.1", "n2", "terminating"))}, "10.42.1.1:8080 10.42.2.1:8080", "10.42.1.1:8080"},
		{"the local one is terminating", []*discoveryv1.EndpointSlice{slice("s", http, ep("10.42.1.1", "n1", "terminating"), ep("10.42.2.1", "n2"))}, "10.42.2.1:8080", "10.42.1.1:8080"},
		{"unready is never used", []*discoveryv1.EndpointSlice{slice("s", http, ep("10.42.1.1", "n1", "unready"))}, "", ""},
		{"one endpoint in two slices", []*discoveryv1.EndpointSlice{slice("s", http, ep("10.42.1.1", "n1")), slice("s", http, ep("10.42.1.1", "n1"), ep("10.42.1.2", "n1"))}, "10.42.1.1:8080 10.42.1.2:8080", "10.42.1.1:8080 10.42.1.2:8080"},
		{"slices with other numbers", []*discoveryv1.EndpointSlice{slice("s", http, ep("10.42.1.1", "n1")), slice("s", to("http", 9090, "TCP"), ep("10.42.2.2", "n2"))}, "10.42.1.1:8080 10.42.2.2:9090", "10.42.1.1:8080"},
		{"another port's slice", []*discoveryv1.EndpointSlice{slice("s", to("admin", 8080, "TCP"), ep("10.42.1.1", "n1"))}, "", ""},
		{"another protocol's slice", []*discoveryv1.EndpointSlice{slice("s", to("http", 8080, "UDP"), ep("10.42.1.1", "n1"))}, "", ""},
		{"labelled as headless", []*discoveryv1.EndpointSlice{unproxied, slice("s", http, ep("10.42.1.2", "n1"))}, "10.42.1.2:8080", "10.42.1.2:8080"},
		{"IPv6 is not ours", []*discoveryv1.EndpointSlice{v6}, "", ""},
		{"near: this node", []*discoveryv1.EndpointSlice{slice("s", http, ep("10.42.1.1", "n1", "for-n1"), ep("10.42.2.1", "n2", "for-n2"))}, "10.42.1.1:8080", "10.42.1.1:8080"},
		{"near: this zone", []*discoveryv1.EndpointSlice{slice("s", http, ep("10.42.1.1", "n1", "for-z2"), ep("10.42.2.1", "n2", "for-z1"))}, "10.42.2.1:8080", "10.42.1.1:8080"},
		{"near: nobody is for this zone", []*discoveryv1.EndpointSlice{slice("s", http, ep("10.42.1.1", "n1", "for-z2"), ep("10.42.2.1", "n2", "for-z2"))}, "10.42.1.1:8080 10.42.2.1:8080", "10.42.1.1:8080"},
		{"near: a hint is missing", []*discoveryv1.EndpointSlice{slice("s", http, ep("10.42.1.1", "n1", "for-z2"), ep("10.42.2.1", "n2"))}, "10.42.1.1:8080 10.42.2.1:8080", "10.42.1.1:8080"},
		{"broken addresses", []*discoveryv1.EndpointSlice{slice("s", http, discoveryv1.Endpoint{}, ep("nonsense", "n1"), ep("::1", "n1"))}, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := choose(corev1.ServicePort{Name: "http", Port: 80}, tt.slices, place{"n1", "z1"})
			want := endpoints{all: addrPorts(tt.all), local: addrPorts(tt.local)}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

// TestSlotsAreStable: who stays keeps the slot, nobody is lost or doubled, and there is no gap.
func TestSlotsAreStable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(label string) []netip.AddrPort {
			set := rapid.SliceOfNDistinct(rapid.IntRange(1, 12), 0, 10, rapid.ID[int]).Draw(t, label)
			out := []netip.AddrPort{}
			for _, n := range set {
				out = append(out, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}), 80))
			}
			return out
		}
		before, want := slots(nil, draw("before")), draw("want")
		got := slots(before, want)
		if len(got) != len(want) {
			t.Fatalf("%d slots for %d endpoints", len(got), len(want))
		}
		count := map[netip.AddrPort]int{}
		for _, e := range got {
			count[e]++
		}
		for _, e := range want {
			if count[e] != 1 {
				t.Fatalf("%v is in %d slots", e, count[e])
			}
		}
		for i, e := range before {
			if i < len(want) && count[e] == 1 && got[i] != e {
				t.Fatalf("%v left slot %d", e, i)
			}
		}
	})
}
