package mesh

import (
	"os/exec"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// TestBehindAFirewall: the policies that ufw sets, and Docker's, on all hosts.
func TestBehindAFirewall(t *testing.T) {
	if _, err := exec.LookPath("iptables-nft"); err != nil {
		t.Skip("iptables is not installed")
	}
	for _, who := range []string{"ufw", "docker"} {
		t.Run(who, func(t *testing.T) {
			c := newCluster(t, 2)
			for _, h := range c.hosts {
				h.Run("iptables-nft", "-P", "FORWARD", "DROP")
				if who == "docker" {
					h.Run("iptables-nft", "-N", "DOCKER-USER")
					h.Run("iptables-nft", "-A", "FORWARD", "-j", "DOCKER-USER")
					continue
				}
				h.Run("iptables-nft", "-P", "INPUT", "DROP")
				h.Run("iptables-nft", "-A", "INPUT", "-i", "lo", "-j", "ACCEPT")
				h.Run("iptables-nft", "-A", "INPUT", "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT")
			}
			before := c.hosts[0].Run("iptables-nft", "-S")
			c.set()
			a, b := c.hosts[0].pod("a"), c.hosts[1].pod("b")
			serve(t, b.in, ":8080", "b")
			c.services = []*corev1.Service{newService("web", "10.43.7.7", corev1.ServicePort{Port: 80, NodePort: 30080})}
			c.slices = []*discoveryv1.EndpointSlice{newSlice("web", 8080, b)}
			c.set()
			mustGet(t, a.in, b.IP.String()+":8080")
			mustGet(t, a.in, "10.43.7.7:80")
			mustGet(t, c.hosts[0].Do, "10.43.7.7:80")
			mustGet(t, c.outside.Do, "192.168.50.1:30080")
			if got, err := lookup(a.in, "udp4", "10.43.0.10:53", "web.default.svc.cluster.local."); got != "10.43.7.7" {
				t.Errorf("DNS: %q, %v", got, err)
			}
			h := c.hosts[0]
			h.Must(func() error { return h.Teardown(t.Context()) })
			if left := h.Run("iptables-nft", "-S"); left != before {
				t.Errorf("before:\n%s\nleft:\n%s", before, left)
			}
		})
	}
}
