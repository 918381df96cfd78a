package nodeipam

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

func TestNext(t *testing.T) {
	for _, test := range []struct {
		name, cluster string
		taken         []string
		want          string
	}{
		{"the first", "10.42.0.0/16", nil, "10.42.0.0/24"},
		{"the next", "10.42.0.0/16", []string{"10.42.0.0/24", "10.42.1.0/24"}, "10.42.2.0/24"},
		{"a gap", "10.42.0.0/16", []string{"10.42.0.0/24", "10.42.2.0/24"}, "10.42.1.0/24"},
		{"others' networks do not count", "10.42.0.0/16", []string{"10.0.0.0/24"}, "10.42.0.0/24"},
		{"over a byte", "10.42.0.0/8", []string{"10.0.0.0/16"}, "10.1.0.0/24"},
		{"a network of one subnet", "10.42.7.0/24", nil, "10.42.7.0/24"},
		{"that is taken", "10.42.7.0/24", []string{"10.42.7.0/24"}, ""},
		{"a small network", "10.42.7.64/26", nil, "10.42.7.64/26"},
		{"the end of all addresses", "255.255.255.0/24", []string{"255.255.255.0/24"}, ""},
		{"IPv6", "fd00:42::/48", []string{"fd00:42::/64"}, "fd00:42:0:1::/64"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var taken []netip.Prefix
			for _, s := range test.taken {
				taken = append(taken, netip.MustParsePrefix(s))
			}
			got, ok := next(netip.MustParsePrefix(test.cluster), taken)
			if ok != (test.want != "") || (ok && got.String() != test.want) {
				t.Errorf("got %v, %v, want %q", got, ok, test.want)
			}
		})
	}
}

func TestNeverTwice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cluster := netip.PrefixFrom(netip.MustParseAddr("10.42.0.0"), rapid.IntRange(16, 28).Draw(t, "bits")).Masked()
		var taken []netip.Prefix
		for range rapid.IntRange(0, 20).Draw(t, "nodes") {
			p, ok := next(cluster, taken)
			if !ok {
				break
			}
			for _, other := range taken {
				if p.Overlaps(other) {
					t.Fatalf("%v overlaps %v", p, other)
				}
			}
			if !cluster.Contains(p.Addr()) {
				t.Fatalf("%v is not in %v", p, cluster)
			}
			taken = append(taken, p)
			if rapid.Bool().Draw(t, "leaves") {
				taken = append(taken[:0], taken[1:]...)
			}
		}
	})
}
