package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"bramble.dev/test/hosts"
)

// What may reach a node of another site while things change here: nothing but keepalives, and what a link carries by
// itself.
const otherSiteBudget = 2 << 10

// Two sites: no tunnel between them, a Service answers with the site's own pods, and what changes at one costs the other
// nothing. When the operator says so, pods of both reach each other.
func TestSites(t *testing.T) {
	t.Parallel() // most of it is waiting
	c := start(t, 3, hosts.ClusterOptions{Images: []string{image("nginx")}})
	for i := range c.Hosts {
		c.apply(fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: web%d, labels: {app: web, pod: web%[1]d}}
spec: {nodeName: host%[1]d, terminationGracePeriodSeconds: 0, containers: [{name: nginx, image: "nginx:1.7.9", imagePullPolicy: IfNotPresent}]}
`, i+1))
	}
	c.apply("apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {selector: {app: web}, ports: [{port: 80}]}")
	address := map[string]string{}
	for _, p := range c.ready("app=web", 3, 90*time.Second) {
		address[p.Name] = p.Status.PodIP
	}
	fetch := func(from, to string) error {
		_, err := c.exec(from, "timeout", "3", "wget", "-qO-", "http://"+to+"/")
		return err
	}
	reaches := func(from, to string) {
		t.Helper()
		c.eventually(30*time.Second, from+" reaches "+to, func() error { return fetch(from, address[to]) })
	}
	reaches("web1", "web3")

	c.kubectl("label", "node", "host1", "host2", "topology.bramble.dev/site=home")
	c.kubectl("label", "node", "host3", "topology.bramble.dev/site=farm")
	for node, other := range map[string]string{"host1": "farm", "host3": "home"} {
		c.eventually(30*time.Second, node+" says that it does not reach "+other, func() error {
			return c.sitesConnected(node, "False TunnelNotEncrypted", ": "+other+";", "--across-sites")
		})
	}
	for _, pair := range [][2]string{{"web1", "web3"}, {"web3", "web1"}} {
		c.eventually(30*time.Second, "the tunnel between sites is closed", func() error {
			if fetch(pair[0], address[pair[1]]) == nil {
				return fmt.Errorf("%s still reaches %s", pair[0], pair[1])
			}
			return nil
		})
	}
	reaches("web1", "web2")
	for _, from := range []string{"web1", "web3"} { // chance would find the wrong pod in one of twelve
		for range 12 {
			if err := fetch(from, "web"); err != nil {
				t.Errorf("the Service from %s: %v", from, err)
			}
		}
	}
	t.Run("the other site is left alone", func(t *testing.T) { c.leavesAlone(t) })

	if err := c.RestartServer(c.ctx, "--across-sites"); err != nil {
		t.Fatal(err)
	}
	for _, node := range []string{"host1", "host3"} {
		c.eventually(time.Minute, node+" says that it reaches all", func() error { return c.sitesConnected(node, "True AllSitesConnected") })
	}
	reaches("web1", "web3")
	reaches("web3", "web2")
}

// sitesConnected checks what a node says about it.
func (c *cluster) sitesConnected(node string, want ...string) error {
	out, err := c.Kubectl(c.ctx, "get", "node", node, "-o", `jsonpath={range .status.conditions[?(@.type=="SitesConnected")]}{.status} {.reason} {.message}{end}`)
	for _, w := range want {
		if err == nil && !strings.Contains(out, w) {
			return missing{w, out}
		}
	}
	return err
}

// leavesAlone changes the endpoints at one site again and again, and counts what the hosts get of it.
func (c *cluster) leavesAlone(t *testing.T) {
	const flips = 10
	c.settle(1)
	c.settle(2)
	near, err := c.Hosts[1].Traffic()
	if err != nil {
		t.Fatal(err)
	}
	far, err := c.Hosts[2].Traffic()
	if err != nil {
		t.Fatal(err)
	}
	for range flips {
		c.kubectl("label", "pod", "web1", "app=other", "--overwrite")
		c.endpointsOfWeb(2)
		c.kubectl("label", "pod", "web1", "app=web", "--overwrite")
		c.endpointsOfWeb(3)
	}
	c.settle(1)
	nearAfter, err := c.Hosts[1].Traffic()
	if err != nil {
		t.Fatal(err)
	}
	farAfter, err := c.Hosts[2].Traffic()
	if err != nil {
		t.Fatal(err)
	}
	here, there := nearAfter.Received-near.Received, farAfter.Received-far.Received
	t.Logf("%d changes: %d bytes to a node of the site, %d to one of the other", 2*flips, here, there)
	if there > otherSiteBudget {
		t.Errorf("%d bytes reached the other site, more than %d", there, otherSiteBudget)
	}
	if here < 2*flips*100 {
		t.Errorf("only %d bytes reached the site itself: nothing was measured", here)
	}
}

func (c *cluster) endpointsOfWeb(n int) {
	c.t.Helper()
	c.eventually(30*time.Second, fmt.Sprintf("%d endpoints", n), func() error {
		out, err := c.Kubectl(c.ctx, "get", "endpointslices", "-l", "kubernetes.io/service-name=web", "-o", "jsonpath={.items[*].endpoints[*].addresses}")
		if got := strings.Count(out, "["); err == nil && got != n {
			err = fmt.Errorf("%d endpoints, should be %d", got, n)
		}
		return err
	})
}
