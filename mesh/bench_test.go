package mesh

import (
	"context"
	"fmt"
	"io"
	"net"
	"sort"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"bramble.dev/mesh/internal/nstest"
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

// BenchmarkSet is one endpoint that goes and comes back, with all parts of the mesh asked, and nothing
// that changes at all:
//
//	go test ./mesh -run - -bench Set -count 6 | benchstat -col /services -
func BenchmarkSet(b *testing.B) {
	for _, what := range []string{"nothing", "endpoint"} {
		for _, n := range []int{10, 5000} {
			b.Run(fmt.Sprintf("changes=%s/services=%d", what, n), func(b *testing.B) {
				c := newCluster(b, 2)
				c.set()
				h := c.hosts[0]
				p, q := h.pod("p"), h.pod("q")
				for i := range n {
					name := fmt.Sprintf("s%04d", i)
					c.services = append(c.services, newService(name, fmt.Sprintf("10.43.%d.%d", 1+i/250, 1+i%250), corev1.ServicePort{Port: 80}))
					c.slices = append(c.slices, newSlice(name, 8080, p, q))
				}
				c.set()
				k, both, one := 0, c.slices[n/2], newSlice(c.services[n/2].Name, 8080, p)
				b.ReportAllocs()
				for b.Loop() {
					if k++; what == "endpoint" && k%2 == 1 {
						c.slices[n/2] = one
					} else {
						c.slices[n/2] = both
					}
					h.Must(func() error { return h.Mesh.Set(context.Background(), c.config(h)) })
				}
			})
		}
	}
}

// sink takes what comes on a port of a namespace, and answers a first byte 'p' with one byte.
func sink(b *testing.B, in func(func() error) error, addr string) {
	b.Helper()
	var l net.Listener
	if err := in(func() (err error) { l, err = net.Listen("tcp4", addr); return err }); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				first := make([]byte, 1)
				if _, err := io.ReadFull(c, first); err != nil {
					return
				}
				if first[0] == 's' {
					io.Copy(io.Discard, c)
				}
				c.Write(first)
			}()
		}
	}()
}

// rate is bytes a second of one connection, in a short time.
func rate(b *testing.B, in func(func() error) error, addr string, d time.Duration) float64 {
	b.Helper()
	var c net.Conn
	if err := in(func() (err error) { c, err = net.Dial("tcp4", addr); return err }); err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	buf := make([]byte, 256<<10)
	buf[0] = 's'
	start, n := time.Now(), 0
	for time.Since(start) < d {
		k, err := c.Write(buf)
		if err != nil {
			b.Fatal(err)
		}
		n += k
	}
	c.(*net.TCPConn).CloseWrite()
	io.ReadAll(c) // all has arrived
	return float64(n) / time.Since(start).Seconds()
}

// connections is new connections a second, each with one byte there and back.
func connections(b *testing.B, in func(func() error) error, addr string, d time.Duration) float64 {
	b.Helper()
	n := 0
	start := time.Now()
	err := in(func() error {
		for time.Since(start) < d {
			c, err := net.Dial("tcp4", addr)
			if err != nil {
				return err
			}
			c.(*net.TCPConn).SetLinger(0) // ports do not run out
			c.Write([]byte("p"))
			_, err = io.ReadFull(c, make([]byte, 1))
			c.Close()
			if err != nil {
				return err
			}
			n++
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	return float64(n) / time.Since(start).Seconds()
}

// compare measures two things in turn, theirs before and after ours, and gives the median of the turns' ratios: what disturbs a
// machine lasts longer than a turn, and a best is luck where two processors wake each other.
func compare(rounds int, ours, theirs func() float64) (ratio, us, them float64) {
	var ratios, as, bs []float64
	before := theirs()
	for range rounds {
		a, after := ours(), theirs()
		ratios, as, bs = append(ratios, 2*a/(before+after)), append(as, a), append(bs, after)
		before = after
	}
	return median(ratios), median(as), median(bs)
}

const (
	rounds = 120
	slice  = 100 * time.Millisecond
)

// BenchmarkService compares a Service's address with the pod's own, by the number of Services; the
// design's budget is 0.95:
//
//	go test ./mesh -run - -bench Service -benchtime 1x
func BenchmarkService(b *testing.B) {
	for _, n := range []int{10, 1000, 5000} {
		for _, where := range []string{"node", "other-node"} {
			b.Run(fmt.Sprintf("services=%d/pod=%s", n, where), func(b *testing.B) {
				c := newCluster(b, 2)
				c.set()
				client, server := c.hosts[0].pod("client"), c.hosts[0].pod("server")
				if where == "other-node" {
					server = c.hosts[1].pod("server")
				}
				sink(b, server.in, ":8080")
				for i := range n {
					name := fmt.Sprintf("s%04d", i)
					c.services = append(c.services, newService(name, fmt.Sprintf("10.43.%d.%d", 1+i/250, 1+i%250), corev1.ServicePort{Port: 80}))
					c.slices = append(c.slices, newSlice(name, 8080, server))
				}
				c.set()
				vip, direct := c.services[n/2].Spec.ClusterIP+":80", server.IP.String()+":8080"
				for b.Loop() {
					ratio, us, _ := compare(rounds, func() float64 { return rate(b, client.in, vip, slice) }, func() float64 { return rate(b, client.in, direct, slice) })
					b.ReportMetric(ratio, "throughput-ratio")
					b.ReportMetric(us*8/1e9, "Gbit/s")
					ratio, us, _ = compare(rounds, func() float64 { return connections(b, client.in, vip, slice) }, func() float64 { return connections(b, client.in, direct, slice) })
					b.ReportMetric(ratio, "connections-ratio")
					b.ReportMetric(us, "connections/s")
				}
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

// BenchmarkTunnel compares pods on two of our hosts with two pods that `ip` alone has connected, by
// VXLAN too; the design's budget is 0.95:
//
//	go test ./mesh -run - -bench Tunnel -benchtime 1x
func BenchmarkTunnel(b *testing.B) {
	_, ours, theirs := tunnels(b)
	for b.Loop() {
		ratio, us, them := compare(rounds, func() float64 { return rate(b, ours[0].in, ours[1].IP.String()+":8080", slice) }, func() float64 { return rate(b, theirs[0].Do, "10.66.2.2:8080", slice) })
		b.ReportMetric(ratio, "throughput-ratio")
		b.ReportMetric(us*8/1e9, "Gbit/s")
		b.ReportMetric(them*8/1e9, "Gbit/s-by-hand")
		ratio, _, _ = compare(rounds, func() float64 { return connections(b, ours[0].in, ours[1].IP.String()+":8080", slice) }, func() float64 { return connections(b, theirs[0].Do, "10.66.2.2:8080", slice) })
		b.ReportMetric(ratio, "connections-ratio")
	}
	b.ReportMetric(0, "ns/op")
}

// tunnels are two pods on two of our hosts, and two that were connected by hand; the second of each takes what it gets at port 8080.
func tunnels(b *testing.B) (c *cluster, ours [2]*testPod, theirs [2]*nstest.NS) {
	c = newCluster(b, 2)
	c.set()
	ours = [2]*testPod{c.hosts[0].pod("p"), c.hosts[1].pod("p")}
	sink(b, ours[1].in, ":8080")
	theirs = byHand(b)
	sink(b, theirs[1].Do, ":8080")
	return c, ours, theirs
}

// BenchmarkTunnelRules says whose the cost of the tunnel is. Our hosts have their rules, none at all, and rules that make the
// kernel follow connections and do nothing else; each turn of theirs has one by hand beside it. The ratios are medians of the
// turns' own, of bytes a second and of bytes for a second of the processor: the latter is disturbed less by what else runs.
//
//	go test ./mesh -run - -bench TunnelRules -benchtime 1x
func BenchmarkTunnelRules(b *testing.B) {
	c, ours, theirs := tunnels(b)
	const follow = `flush ruleset
table inet follow {
	chain in { type filter hook prerouting priority -300; udp dport 8472 notrack; }
	chain out { type filter hook output priority -300; udp dport 8472 notrack; }
	chain forward { type filter hook forward priority 0; ct state established accept; }
}`
	var saved [2]string
	for i, h := range c.hosts {
		saved[i] = "flush ruleset\n" + h.Run("nft", "list", "ruleset")
	}
	rules := func(text string) { // "": ours
		for i, h := range c.hosts {
			if text == "" {
				h.Run("nft", saved[i])
			} else {
				h.Run("nft", text)
			}
		}
	}
	turn := func(in func(func() error) error, addr string) (perSecond, perProcessor float64) {
		before, start := processor(b), time.Now()
		perSecond = rate(b, in, addr, slice)
		return perSecond, perSecond * time.Since(start).Seconds() / (processor(b) - before)
	}
	names := []string{"ours", "none", "follow"}
	speed, cost := map[string][]float64{}, map[string][]float64{}
	for b.Loop() {
		for range rounds {
			for i, text := range []string{"", "flush ruleset", follow} {
				rules(text)
				rate(b, ours[0].in, ours[1].IP.String()+":8080", slice/2) // what the change itself leaves behind is not measured
				us, usCost := turn(ours[0].in, ours[1].IP.String()+":8080")
				them, themCost := turn(theirs[0].Do, "10.66.2.2:8080")
				speed[names[i]] = append(speed[names[i]], us/them)
				cost[names[i]] = append(cost[names[i]], usCost/themCost)
			}
		}
	}
	rules("")
	for _, name := range names {
		b.ReportMetric(median(speed[name]), name+"-throughput-ratio")
		b.ReportMetric(median(cost[name]), name+"-cpu-ratio")
	}
	b.ReportMetric(0, "ns/op")
}

// processor is the seconds of processor time of this process: those of the packets that it sends are among them.
func processor(b *testing.B) float64 {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano()).Seconds()
}

func median(of []float64) float64 {
	sort.Float64s(of)
	return of[len(of)/2]
}

// byHand makes two hosts with a pod each: bridge, veth, VXLAN, routes, nothing else.
func byHand(b *testing.B) [2]*nstest.NS {
	hosts, pods := [2]*nstest.NS{}, [2]*nstest.NS{}
	for i := range hosts {
		hosts[i], pods[i] = nstest.New(b, fmt.Sprintf("hand%d", i+1)), nstest.New(b, fmt.Sprintf("handpod%d", i+1))
	}
	nstest.Switch(b, map[*nstest.NS]string{hosts[0]: "192.168.60.1/24", hosts[1]: "192.168.60.2/24"})
	for i, h := range hosts {
		me, you := i+1, 2-i
		nstest.Wire(b, h, "v0", pods[i], "eth0", 1450)
		for _, cmd := range []string{
			"link add br0 type bridge", "link set br0 mtu 1450 up", fmt.Sprintf("addr add 10.66.%d.1/24 dev br0", me), "link set v0 master br0 up",
			fmt.Sprintf("link add vx0 address 02:00:00:00:66:0%d mtu 1450 type vxlan id 66 local 192.168.60.%d dstport 8472 nolearning", me, me), "link set vx0 up",
			fmt.Sprintf("route add 10.66.%d.0/24 via 10.66.%d.1 dev vx0 onlink", you, you), fmt.Sprintf("neigh add 10.66.%d.1 lladdr 02:00:00:00:66:0%d dev vx0", you, you),
		} {
			h.Run("sh", "-c", "ip "+cmd)
		}
		h.Run("bridge", "fdb", "append", fmt.Sprintf("02:00:00:00:66:0%d", you), "dst", fmt.Sprintf("192.168.60.%d", you), "dev", "vx0")
		h.Sysctl("net/ipv4/ip_forward", "1")
		pods[i].Run("ip", "addr", "add", fmt.Sprintf("10.66.%d.2/24", me), "dev", "eth0")
		pods[i].Run("ip", "link", "set", "eth0", "up")
		pods[i].Run("ip", "route", "add", "default", "via", fmt.Sprintf("10.66.%d.1", me))
	}
	return pods
}
