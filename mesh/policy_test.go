package mesh

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// policies gives all hosts the same policies and peers, and each its own pods.
func (c *cluster) policies(known *bool, nps *[]*networkingv1.NetworkPolicy, pods map[string][]*corev1.Pod) {
	c.change = func(cfg *Config) {
		node := cfg.Node
		cfg.Policies = func() (Policies, bool) {
			p := Policies{Pods: pods[node], Policies: *nps}
			for _, on := range pods {
				p.Peers = append(p.Peers, on...)
			}
			return p, *known
		}
	}
}

func labelledPod(h *host, name, app string) *corev1.Pod {
	p := &corev1.Pod{}
	p.Namespace, p.Name, p.UID = "default", name, types.UID(h.Name+"-"+name)
	p.Labels = map[string]string{"app": app}
	p.Spec.Containers = []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: 8080}}}}
	return p
}

func isolating(name string, app string, types ...networkingv1.PolicyType) *networkingv1.NetworkPolicy {
	np := &networkingv1.NetworkPolicy{}
	np.Namespace, np.Name, np.Spec.PolicyTypes = "default", name, types
	if app != "" {
		np.Spec.PodSelector.MatchLabels = map[string]string{"app": app}
	}
	return np
}

func TestPolicies(t *testing.T) {
	c := newCluster(t, 2)
	h1, h2 := c.hosts[0], c.hosts[1]
	known := true
	var nps []*networkingv1.NetworkPolicy
	pods := map[string][]*corev1.Pod{
		h1.Name: {labelledPod(h1, "a", "web"), labelledPod(h1, "b", "front")},
		h2.Name: {labelledPod(h2, "d", "front"), labelledPod(h2, "e", "other")},
	}
	c.policies(&known, &nps, pods)
	c.services = []*corev1.Service{newService("web", "10.43.7.7", corev1.ServicePort{Port: 80, NodePort: 30080})}
	nps = []*networkingv1.NetworkPolicy{isolating("deny", "web", networkingv1.PolicyTypeIngress)}
	c.set()
	a, b, d, e := h1.pod("a"), h1.pod("b"), h2.pod("d"), h2.pod("e")
	for i, p := range []*testPod{a, b, d, e} {
		serve(t, p.in, ":8080", p.Name())
		serve(t, p.in, ":8081", p.Name())
		pods[p.host.Name][i%2].Status.PodIP = p.IP.String()
	}
	c.slices = []*discoveryv1.EndpointSlice{newSlice("web", 8080, a)}
	c.set()
	web := a.IP.String() + ":8080"
	check := func(t *testing.T, want string) {
		t.Helper()
		got := ""
		for _, from := range []struct {
			name string
			in   func(func() error) error
		}{{"a", a.in}, {"b", b.in}, {"d", d.in}, {"e", e.in}, {"1", h1.Do}, {"2", h2.Do}} {
			for i, to := range []string{web, "10.43.7.7:80", a.IP.String() + ":8081"} {
				if !dropped(from.in, to) {
					got += fmt.Sprintf("%s%d ", from.name, i)
				}
			}
		}
		if got != want {
			t.Errorf("passed %s, want %s\n%s", got, want, h1.NS.Run("nft", "list", "table", "inet", "bramble-"+h1.opts.Instance+"-policy"))
		}
	}
	t.Run("default deny", func(t *testing.T) { check(t, "a0 a1 a2 10 11 12 ") })
	allow := isolating("allow", "web", networkingv1.PolicyTypeIngress)
	allow.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{
		From:  []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "front"}}}},
		Ports: []networkingv1.NetworkPolicyPort{{Port: &intstr.IntOrString{Type: intstr.String, StrVal: "web"}}},
	}}
	nps = append(nps, allow)
	c.set()
	t.Run("by label and named port", func(t *testing.T) { check(t, "a0 a1 a2 b0 b1 d0 d1 10 11 12 ") })
	t.Run("an established connection goes on", func(t *testing.T) {
		var l net.Listener
		if err := a.in(func() (err error) { l, err = net.Listen("tcp4", ":9000"); return err }); err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		nps = nil
		c.set()
		var client net.Conn
		if err := d.in(func() (err error) {
			client, err = net.DialTimeout("tcp4", a.IP.String()+":9000", 2*time.Second)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		nps = []*networkingv1.NetworkPolicy{isolating("deny", "", networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress)}
		c.set()
		if _, err := client.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		server.SetReadDeadline(time.Now().Add(2 * time.Second))
		if _, err := server.Read(make([]byte, 1)); err != nil {
			t.Errorf("after the policy came: %v", err)
		}
		if !dropped(d.in, a.IP.String()+":9000") {
			t.Error("a new connection passed")
		}
	})
	t.Run("egress", func(t *testing.T) {
		out := isolating("out", "other", networkingv1.PolicyTypeEgress)
		nps = []*networkingv1.NetworkPolicy{out}
		c.set()
		if !dropped(e.in, web) || dropped(d.in, web) {
			t.Error("the wrong pod is isolated")
		}
		if dropped(e.in, "192.168.50.2:1") {
			t.Error("the pod does not reach its own node")
		}
		out.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{{To: []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: "10.42.1.0/24", Except: []string{b.IP.String() + "/32"}}}}}}
		nps = []*networkingv1.NetworkPolicy{out.DeepCopy()}
		c.set()
		if dropped(e.in, web) || !dropped(e.in, b.IP.String()+":8080") || !dropped(e.in, d.IP.String()+":8080") {
			t.Error("the range or its exception does not hold")
		}
		e.Run("ip", "address", "add", "10.42.2.77/32", "dev", "eth0")
		if out, err := e.Try("ping", "-c1", "-W1", "-I", "10.42.2.77", d.IP.String()); err == nil {
			t.Errorf("the pod got out under another address:\n%s", out)
		}
	})
	t.Run("a new agent that was not told yet", func(t *testing.T) {
		nps = []*networkingv1.NetworkPolicy{isolating("deny", "web", networkingv1.PolicyTypeIngress)}
		c.set()
		known = false
		if err := h1.Mesh.Close(); err != nil {
			t.Fatal(err)
		}
		h1.open()
		c.set()
		check(t, "a0 a1 a2 10 11 12 ")
		if _, err := h1.Mesh.Attach(context.Background(), PodNetwork{UID: "new", Namespace: "default", Name: "new"}); err == nil {
			t.Error("a pod was attached without knowing who isolates it")
		}
		known = true
		c.set()
		check(t, "a0 a1 a2 10 11 12 ")
	})
	t.Run("none left", func(t *testing.T) {
		nps = nil
		c.set()
		if out, err := h1.NS.Try("nft", "list", "table", "inet", "bramble-"+h1.opts.Instance+"-policy"); err == nil {
			t.Errorf("a table without policies:\n%s", out)
		}
	})
}

// TestIsolatedFromTheFirstPacket attaches pods while a neighbour hammers at their addresses.
func TestIsolatedFromTheFirstPacket(t *testing.T) {
	c := newCluster(t, 1)
	h := c.hosts[0]
	known := true
	nps := []*networkingv1.NetworkPolicy{isolating("deny", "web", networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress)}
	pods := map[string][]*corev1.Pod{}
	c.policies(&known, &nps, pods)
	c.set()
	neighbour := h.pod("neighbour")
	var conn net.PacketConn
	if err := neighbour.in(func() (err error) { conn, err = net.ListenPacket("udp4", ":7000"); return err }); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		for {
			select {
			case <-done:
				return
			default:
			}
			for n := 2; n < 12; n++ {
				conn.WriteTo([]byte("x"), &net.UDPAddr{IP: net.IPv4(10, 42, 1, byte(n)), Port: 7000})
			}
		}
	}()
	for i := range 8 {
		name := fmt.Sprintf("p%d", i)
		var p *testPod
		h.Must(func() error {
			at, err := h.Mesh.Attach(context.Background(), PodNetwork{UID: types.UID(name), Namespace: "default", Name: name, Labels: map[string]string{"app": "web"}})
			p = &testPod{t: t, host: h, Attachment: at, uid: types.UID(name)}
			return err
		})
		time.Sleep(5 * time.Millisecond)
		if got := received(t, p); got != 0 {
			t.Errorf("pod %s got %d datagrams", name, got)
		}
	}
	close(done)
	<-finished
	conn.Close()
}

// received counts the datagrams that a pod got, for a socket or none.
func received(t *testing.T, p *testPod) int {
	t.Helper()
	lines := strings.Split(p.Run("cat", "/proc/net/snmp"), "\n")
	i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "Udp: InDatagrams") })
	var in, noPort int
	if i < 0 {
		t.Fatal("no counters")
	}
	if _, err := fmt.Sscanf(lines[i+1], "Udp: %d %d", &in, &noPort); err != nil {
		t.Fatal(err)
	}
	return in + noPort
}

func TestPortsOf(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	p := &corev1.Pod{Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: 80}, {ContainerPort: 81}}}},
		InitContainers: []corev1.Container{
			{Ports: []corev1.ContainerPort{{Name: "early", ContainerPort: 82}}},
			{RestartPolicy: &always, Ports: []corev1.ContainerPort{{Name: "proxy", ContainerPort: 83}}},
		},
	}}
	if got, want := PortsOf(p), []corev1.ContainerPort{{Name: "web", ContainerPort: 80}, {Name: "proxy", ContainerPort: 83}}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
