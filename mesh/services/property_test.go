package services

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"pgregory.net/rapid"

	"bramble.dev/mesh/nft"
	"bramble.dev/mesh/nft/nfttest"
)

// strict fails when a Proxy complains: in these tests nobody else touches the kernel.
type strict struct {
	slog.Handler
	fail func(string)
}

func (s strict) Handle(_ context.Context, r slog.Record) error {
	msg := r.Message
	r.Attrs(func(a slog.Attr) bool { msg += " " + a.String(); return true })
	s.fail(msg)
	return nil
}

func (s strict) Enabled(context.Context, slog.Level) bool { return true }

func proxy(k *nfttest.Kernel, t interface{ Fatalf(string, ...any) }) *Proxy {
	return Open(k, Options{Table: table, Logger: slog.New(strict{slog.DiscardHandler, func(s string) { t.Fatalf("the proxy says: %s", s) }})})
}

func drawService(t *rapid.T, i int) *corev1.Service {
	s := service(fmt.Sprintf("s%d", i), fmt.Sprintf("10.43.1.%d", i))
	for p := range rapid.IntRange(0, 2).Draw(t, "ports") {
		sp := corev1.ServicePort{Name: fmt.Sprintf("p%d", p), Port: int32(80 + p), Protocol: rapid.SampledFrom([]corev1.Protocol{"", "UDP", "SCTP"}).Draw(t, "protocol")}
		if rapid.Bool().Draw(t, "node port") {
			sp.NodePort = int32(30000 + rapid.IntRange(0, 9).Draw(t, "number")) // two Services may claim one
		}
		s.Spec.Ports = append(s.Spec.Ports, sp)
	}
	if rapid.Bool().Draw(t, "external IP") {
		s.Spec.ExternalIPs = []string{"198.51.100.1"}
	}
	if rapid.Bool().Draw(t, "balanced") {
		s.Spec.Type = corev1.ServiceTypeLoadBalancer
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.1"}}
		if rapid.Bool().Draw(t, "ranges") {
			s.Spec.LoadBalancerSourceRanges = []string{"192.0.2.0/24"}
		}
	}
	if rapid.IntRange(0, 3).Draw(t, "affinity") == 0 {
		s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr(int32(rapid.IntRange(1, 2).Draw(t, "seconds")))}}
	}
	if rapid.IntRange(0, 2).Draw(t, "external policy") == 0 {
		s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	}
	if rapid.IntRange(0, 4).Draw(t, "internal policy") == 0 {
		s.Spec.InternalTrafficPolicy = ptr(corev1.ServiceInternalTrafficPolicyLocal)
	}
	if rapid.IntRange(0, 9).Draw(t, "headless") == 0 {
		s.Spec.ClusterIP = corev1.ClusterIPNone
	}
	return s
}

func drawSlice(t *rapid.T, i int) *discoveryv1.EndpointSlice {
	var ports []discoveryv1.EndpointPort
	for p := range 2 {
		for _, proto := range []corev1.Protocol{"TCP", "UDP", "SCTP"} {
			ports = append(ports, to(fmt.Sprintf("p%d", p), int32(8000+p), proto)...)
		}
	}
	var eps []discoveryv1.Endpoint
	for n := range rapid.IntRange(0, 6).Draw(t, "endpoints") {
		node := rapid.IntRange(1, 2).Draw(t, "node")
		eps = append(eps, ep(fmt.Sprintf("10.42.%d.%d", node, 10+n), fmt.Sprintf("n%d", node), rapid.SampledFrom([]string{"", "", "unready", "terminating", "nil", "for-n1", "for-z1"}).Draw(t, "state")))
	}
	return slice(fmt.Sprintf("s%d", i), ports, eps...)
}

func drawConfig(t *rapid.T, c Config) Config {
	services, eps := slices.Clone(c.Services), slices.Clone(c.Endpoints)
	for range rapid.IntRange(0, 3).Draw(t, "changes") {
		i := rapid.IntRange(0, 4).Draw(t, "service")
		name := fmt.Sprintf("s%d", i)
		switch rapid.IntRange(0, 2).Draw(t, "kind") {
		case 0:
			services = slices.DeleteFunc(services, func(s *corev1.Service) bool { return s.Name == name })
			if rapid.IntRange(0, 2).Draw(t, "delete") > 0 {
				services = append(services, drawService(t, i))
			}
		default:
			eps = slices.DeleteFunc(eps, func(s *discoveryv1.EndpointSlice) bool { return s.Name == name+"-x" })
			if rapid.IntRange(0, 3).Draw(t, "delete slice") > 0 {
				eps = append(eps, drawSlice(t, i))
			}
		}
	}
	c.Services, c.Endpoints = services, eps
	if rapid.IntRange(0, 3).Draw(t, "pods") == 0 {
		c.Pods = nil
		for n := range rapid.IntRange(0, 3).Draw(t, "number of pods") {
			p := Pod{IP: netip.AddrFrom4([4]byte{10, 42, 1, byte(10 + n)})}
			if rapid.Bool().Draw(t, "host port") {
				p.Ports = []HostPort{{HostPort: uint16(8080 + rapid.IntRange(0, 1).Draw(t, "hp")), Port: 80}}
			}
			c.Pods = append(c.Pods, p)
		}
	}
	if rapid.IntRange(0, 9).Draw(t, "environment") == 0 {
		c.API = netip.MustParseAddrPort(rapid.SampledFrom([]string{"10.42.1.1:6444", "127.0.0.1:7000"}).Draw(t, "api"))
		c.Zone = rapid.SampledFrom([]string{"z1", "z2"}).Draw(t, "zone")
	}
	return c
}

// TestAnyWayLeadsToTheSameTable: whatever came before, the table is what the configuration alone makes.
func TestAnyWayLeadsToTheSameTable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ctx := context.Background()
		k := nfttest.New()
		p := proxy(k, t)
		c := testConfig()
		for range rapid.IntRange(1, 8).Draw(t, "steps") {
			c = drawConfig(t, c)
			if err := p.Set(ctx, c); err != nil {
				t.Fatal(err)
			}
			applied := k.Applied
			if err := p.Set(ctx, c); err != nil || k.Applied != applied {
				t.Fatalf("the same configuration again made %d transactions (%v)", k.Applied-applied, err)
			}
			fresh := nfttest.New()
			if err := proxy(fresh, t).Set(ctx, c); err != nil {
				t.Fatal(err)
			}
			if got, want := canonical(k.Text(table), c), canonical(fresh.Text(table), c); got != want {
				t.Fatalf("step by step (+), from nothing (-):\n%s", nfttest.Differences(got, want))
			}
		}
		c.Services, c.Endpoints, c.Pods = nil, nil, nil
		if err := p.Set(ctx, c); err != nil {
			t.Fatal(err)
		}
		fresh := nfttest.New()
		if err := proxy(fresh, t).Set(ctx, c); err != nil {
			t.Fatal(err)
		}
		if got, want := k.Text(table), fresh.Text(table); got != want {
			t.Fatalf("something is left of Services that are gone (+):\n%s", nfttest.Differences(got, want))
		}
	})
}

var (
	slotMap = regexp.MustCompile(`^\tmap ((?:vip|port)(?:-local)?)-\d+ \{$`)
	spread  = regexp.MustCompile(`numgen random mod (\d+) vmap \{ (.*) \}`)
)

// contested are the fronts that several Services claim. The first has them; what the others have in
// slots that it does not use is never reached.
func contested(c Config) map[string]bool {
	claims := map[string]int{}
	for _, s := range c.Services {
		if !served(s) {
			continue
		}
		for _, p := range s.Spec.Ports {
			port := fmt.Sprintf("%s . %d", nft.ProtoName(protocols[p.Protocol]), p.Port)
			claims[fmt.Sprintf("%s . %d", nft.ProtoName(protocols[p.Protocol]), p.NodePort)]++
			for _, a := range s.Spec.ExternalIPs {
				claims[a+" . "+port]++
			}
			for _, in := range s.Status.LoadBalancer.Ingress {
				claims[in.IP+" . "+port]++
			}
		}
	}
	out := map[string]bool{}
	for k, n := range claims {
		out[k] = n > 1
	}
	return out
}

// canonical forgets which slot an endpoint is in.
func canonical(s string, c Config) string {
	var out, pool []string
	several := contested(c)
	family := ""
	sticky := false
	for _, line := range strings.Split(s, "\n") {
		if m := slotMap.FindStringSubmatch(line); m != nil {
			family = m[1]
		} else if line == "\t}" {
			family, sticky = "", false
		}
		if strings.HasPrefix(line, "\tchain service") {
			sticky = true
		}
		switch {
		case family != "" && strings.HasPrefix(line, "\t\t\t"):
			if front, _, _ := strings.Cut(strings.TrimSpace(line), " : "); !several[front] {
				pool = append(pool, family+" "+strings.TrimSpace(line))
			}
			continue
		case sticky && spread.MatchString(line):
			m := spread.FindStringSubmatch(line)
			targets := strings.Split(m[2], ", ")
			for i := range targets {
				_, targets[i], _ = strings.Cut(targets[i], " : ")
			}
			slices.Sort(targets)
			line = m[1] + strings.Join(targets, ",")
		case sticky && strings.Contains(line, "@clients/"):
			pool = append(pool, line)
			continue
		}
		out = append(out, line)
	}
	slices.Sort(pool)
	return strings.Join(out, "\n") + "\n" + strings.Join(pool, "\n")
}

// TestAFlipTouchesFewElements: one endpoint of many comes or goes.
func TestAFlipTouchesFewElements(t *testing.T) {
	ctx := context.Background()
	k := nfttest.New()
	p := proxy(k, t)
	c := testConfig()
	var many []discoveryv1.Endpoint
	for i := range 100 {
		many = append(many, ep(fmt.Sprintf("10.42.2.%d", i+2), "n2"))
	}
	for i := range 50 {
		name := fmt.Sprintf("s%d", i)
		c.Services = append(c.Services, service(name, fmt.Sprintf("10.43.1.%d", i), corev1.ServicePort{Port: 80, NodePort: int32(30000 + i)}))
		c.Endpoints = append(c.Endpoints, slice(name, to("", 80, "TCP"), many[:50]...))
	}
	if err := p.Set(ctx, c); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		eps  []discoveryv1.Endpoint
		want int
	}{
		{"the first of 50 goes", many[1:50], 10}, // two fronts: one slot taken over, the last one gone, one verdict
		{"it comes back", many[:50], 6},          // a new slot and a verdict
		{"one is exchanged", append(many[1:50:50], many[60]), 4},
		{"nothing changes", append(many[1:50:50], many[60]), 0},
	} {
		c.Endpoints = slices.Clone(c.Endpoints)
		c.Endpoints[7] = slice("s7", to("", 80, "TCP"), tt.eps...)
		before := k.Applied
		if err := p.Set(ctx, c); err != nil {
			t.Fatal(err)
		}
		got := k.Touched
		if k.Applied == before {
			got = 0
		}
		if got > tt.want {
			t.Errorf("%s: %d elements touched, want at most %d", tt.name, got, tt.want)
		}
	}
}
