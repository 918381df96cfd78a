package dispatch_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"bramble.dev/link"
)

// sited makes a board with an address, a subnet and, if it has one, a site.
func (c *cluster) sited(name, site string, number int) *board {
	c.t.Helper()
	b := c.board(name)
	b.start(c, c.token)
	report := link.NodeReport{Labels: map[string]string{"kubernetes.io/hostname": name}, Status: corev1.NodeStatus{
		Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("192.168.1.%d", number)}}}}
	if site != "" {
		report.Labels[link.SiteLabel] = site
	}
	b.put(link.NodeReportKey, must[[]byte](c.t)(report.Encode()))
	eventually(c.t, "the node's labels", func() bool {
		n, err := c.client.CoreV1().Nodes().Get(context.Background(), name, metav1.GetOptions{})
		if err != nil || n.Labels[link.SiteLabel] != site || len(n.Status.Addresses) == 0 {
			return false
		}
		n.Spec.PodCIDR = fmt.Sprintf("10.42.%d.0/24", number)
		_, err = c.client.CoreV1().Nodes().Update(context.Background(), n, metav1.UpdateOptions{})
		return err == nil
	})
	return b
}

// shares lists what a board knows of what nodes share, in short: the peers, the endpoints' addresses (a dot for one
// that is not ready), the names of Services, the sites that it does not reach.
func (b *board) shares() string {
	var out []string
	for _, key := range b.sets["shared"].Keys() {
		value, there := b.sets["shared"].Get(key)
		if !there {
			continue // gone since the keys were listed
		}
		kind, name, _ := strings.Cut(key, "/")
		switch kind {
		case "cluster":
			config := must[link.ClusterConfig](b.t)(link.DecodeClusterConfig(value))
			out = append(out, fmt.Sprintf("without%q", config.OtherSites))
		case "peers":
			p := must[link.Peer](b.t)(link.DecodePeer(value))
			out = append(out, name+"@"+p.Site)
		case "services":
			out = append(out, name)
		case "endpointslices":
			var slice discoveryv1.EndpointSlice
			if err := slice.Unmarshal(value); err != nil {
				b.t.Fatal(err)
			}
			for _, e := range slice.Endpoints {
				ready := ""
				if !*e.Conditions.Ready {
					ready = "."
				}
				out = append(out, e.Addresses[0]+ready)
			}
		}
	}
	return strings.Join(out, " ")
}

func (b *board) eventuallyShares(want string) {
	b.t.Helper()
	for range 1000 {
		if b.shares() == want && b.u.Synced("shared") {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	b.t.Fatalf("%s knows\n%s, should know\n%s", b.name, b.shares(), want)
}

// carryOver labels a node with another site; the server writes to nodes too, so the write may have to be made again.
func (c *cluster) carryOver(name, site string) {
	c.t.Helper()
	eventually(c.t, "the node's site", func() bool {
		n := must[*corev1.Node](c.t)(c.client.CoreV1().Nodes().Get(context.Background(), name, metav1.GetOptions{}))
		n.Labels[link.SiteLabel] = site
		_, err := c.client.CoreV1().Nodes().Update(context.Background(), n, metav1.UpdateOptions{})
		return err == nil
	})
}

// settled waits until the answers to what a board said have arrived too, and counts what it has received until then.
func (b *board) settled() int64 {
	before := b.wires.in.Load()
	for {
		time.Sleep(300 * time.Millisecond)
		now := b.wires.in.Load()
		if now == before {
			return now
		}
		before = now
	}
}

func endpoint(ip, node string, ready bool) discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{Addresses: []string{ip}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}
	if node != "" {
		e.NodeName = &node
	}
	return e
}

// TestSites: peers and endpoints are told where pods can reach them; a pod that becomes ready wakes nobody elsewhere.
func TestSites(t *testing.T) {
	c := newCluster(t)
	c.start()
	ctx := context.Background()
	pi1, pi2, cow := c.sited("pi1", "", 1), c.sited("pi2", "", 2), c.sited("cow", "farm", 3)
	must[*corev1.Service](t)(c.client.CoreV1().Services("ns").Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"}}, metav1.CreateOptions{}))
	slices := c.client.DiscoveryV1().EndpointSlices("ns")
	slice := must[*discoveryv1.EndpointSlice](t)(slices.Create(ctx, &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web-1"},
		Endpoints: []discoveryv1.Endpoint{endpoint("10.42.1.1", "pi1", true), endpoint("10.42.3.1", "cow", true), endpoint("1.2.3.4", "", true)}}, metav1.CreateOptions{}))
	home := `without["farm"] 10.42.1.1 1.2.3.4 pi1@ pi2@ ns/web`
	pi1.eventuallyShares(home)
	pi2.eventuallyShares(home)
	cow.eventuallyShares(`without[""] 10.42.3.1 1.2.3.4 cow@farm ns/web`)

	quiet := pi2.settled()
	for i := range 10 {
		slice.Endpoints[1] = endpoint("10.42.3.1", "cow", i%2 == 1)
		slice.Annotations = map[string]string{"endpoints.kubernetes.io/last-change-trigger-time": fmt.Sprint(i)}
		slice = must[*discoveryv1.EndpointSlice](t)(slices.Update(ctx, slice, metav1.UpdateOptions{}))
		cow.eventuallyShares(`without[""] 10.42.3.1` + []string{".", ""}[i%2] + ` 1.2.3.4 cow@farm ns/web`)
	}
	if n := pi2.wires.in.Load() - quiet; n != 0 {
		t.Errorf("%d bytes reached a node at another site", n)
	}

	// A board is carried over; then there is one site with a name and one without.
	c.carryOver("pi1", "farm")
	farm := `without[""] 10.42.1.1 10.42.3.1 1.2.3.4 cow@farm pi1@farm ns/web`
	pi1.eventuallyShares(farm)
	cow.eventuallyShares(farm)
	pi2.eventuallyShares(`without["farm"] 1.2.3.4 pi2@ ns/web`)

	// So is the last one: there is one site again, and nothing that is not reached.
	c.carryOver("pi2", "farm")
	all := `without[] 10.42.1.1 10.42.3.1 1.2.3.4 cow@farm pi1@farm pi2@farm ns/web`
	for _, b := range []*board{pi1, pi2, cow} {
		b.eventuallyShares(all)
	}
	// A server that is started again tells the same.
	c.stop()
	c.start()
	eventually(t, "the board is back", func() bool { online, _ := c.dispatcher.Online("pi2"); return online })
	pi2.eventuallyShares(all)
}

// TestAcrossSites: where the operator lets packets travel, sites are no border.
func TestAcrossSites(t *testing.T) {
	c := newCluster(t)
	c.across = true
	c.start()
	pi1, cow := c.sited("pi1", "", 1), c.sited("cow", "farm", 3)
	pi1.eventuallyShares(`without[] cow@farm pi1@`)
	cow.eventuallyShares(`without[] cow@farm pi1@`)
}
