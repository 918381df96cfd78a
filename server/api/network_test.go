package api

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

func service(name string, nodePort int32) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
	if nodePort != 0 {
		s.Spec.Type = corev1.ServiceTypeNodePort
		if nodePort > 0 {
			s.Spec.Ports[0].NodePort = nodePort
		}
	}
	return s
}

// What has been handed out is not handed out again, also by the next process.
func TestAllocationsSurviveARestart(t *testing.T) {
	dir := t.TempDir()
	c := start(t, dir)
	ctx := t.Context()
	create := func(c *cluster, s *corev1.Service) (*corev1.Service, error) {
		return c.client.CoreV1().Services("default").Create(ctx, s, metav1.CreateOptions{})
	}
	kube := must(c.client.CoreV1().Services("default").Get(ctx, "kubernetes", metav1.GetOptions{}))(t)
	if kube.Spec.ClusterIP != "10.43.0.1" || kube.Spec.Ports[0].TargetPort.IntValue() == 0 {
		t.Errorf("default/kubernetes is %+v", kube.Spec)
	}
	slice := must(c.client.DiscoveryV1().EndpointSlices("default").Get(ctx, "kubernetes", metav1.GetOptions{}))(t)
	if slice.Endpoints[0].Addresses[0] != "192.0.2.10" {
		t.Errorf("its endpoint is %+v", slice.Endpoints)
	}
	seen := map[string]bool{kube.Spec.ClusterIP: true}
	// Of the lowest 86 ports, which are left to those that name theirs: none of the others is given one of these.
	made := must(create(c, service("chosen", 30023)))(t)
	seen[made.Spec.ClusterIP] = true
	for i := range 5 {
		s := must(create(c, service(fmt.Sprintf("free-%d", i), -1)))(t)
		if seen[s.Spec.ClusterIP] || s.Spec.Ports[0].NodePort < 30000 || s.Spec.Ports[0].NodePort > 32767 {
			t.Errorf("allocated %s %d", s.Spec.ClusterIP, s.Spec.Ports[0].NodePort)
		}
		seen[s.Spec.ClusterIP] = true
	}
	gone := must(create(c, service("gone", 30024)))(t)
	if err := c.client.CoreV1().Services("default").Delete(ctx, "gone", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	// What a crash between the two writes of a creation leaves.
	orphan := addressOf("10.43.200.200", &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "never-made"}})
	must(c.client.NetworkingV1().IPAddresses().Create(ctx, orphan, metav1.CreateOptions{}))(t)
	// And what a restored backup may lack.
	if err := c.client.NetworkingV1().IPAddresses().Delete(ctx, made.Spec.ClusterIP, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := c.stop(); err != nil {
		t.Fatal(err)
	}
	c.stop = nil

	c = start(t, dir)
	refused := service("again", 30023)
	if _, err := create(c, refused); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "provided port is already allocated") {
		t.Errorf("a port that is taken: %v", err)
	}
	taken := service("again", 0)
	taken.Spec.ClusterIP = made.Spec.ClusterIP
	if _, err := create(c, taken); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "provided IP is already allocated") {
		t.Errorf("an address that is taken: %v", err)
	}
	free := service("reuse", 30024)
	free.Spec.ClusterIP = gone.Spec.ClusterIP
	if _, err := create(c, free); err != nil {
		t.Errorf("what was freed: %v", err)
	}
	repaired := service("repaired", 0)
	repaired.Spec.ClusterIP = orphan.Name
	if _, err := create(c, repaired); err != nil {
		t.Errorf("an address whose service was never made: %v", err)
	}
	for i := range 50 {
		s := must(create(c, service(fmt.Sprintf("more-%d", i), 0)))(t)
		if seen[s.Spec.ClusterIP] {
			t.Errorf("%s was handed out twice", s.Spec.ClusterIP)
		}
		seen[s.Spec.ClusterIP] = true
	}
	outside := service("outside", 20000)
	if _, err := create(c, outside); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "30000-32767") {
		t.Errorf("a port outside of the range: %v", err)
	}
	if l := must(c.client.NetworkingV1().IPAddresses().List(ctx, metav1.ListOptions{LabelSelector: networkingv1.LabelManagedBy + "=ipallocator.k8s.io"}))(t); len(l.Items) != len(seen)+2 {
		t.Errorf("%d addresses are allocated for %d services", len(l.Items), len(seen)+2)
	}
}

// What a Secret holds is nowhere in the files, and the next process reads it.
func TestSecretsAreEncrypted(t *testing.T) {
	dir := t.TempDir()
	c := start(t, dir)
	const secret = "correct horse battery staple"
	made := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, StringData: map[string]string{"k": secret}}
	must(c.client.CoreV1().Secrets("default").Create(t.Context(), made, metav1.CreateOptions{}))(t)
	must(c.client.CoreV1().ConfigMaps("default").Create(t.Context(), configMap("plain", "k", "lies there openly"), metav1.CreateOptions{}))(t)
	f := must(c.db.Follow("/registry/secrets"))(t)
	if kv := f.Snapshot(); len(kv) != 1 || !bytes.Contains(kv[0].Value, []byte(secret)) {
		t.Error("a follower does not see it in the clear")
	}
	f.Close()
	if err := c.stop(); err != nil {
		t.Fatal(err)
	}
	c.stop = nil
	var open bool
	for _, name := range must(filepath.Glob(filepath.Join(dir, "state.db*")))(t) {
		data := must(os.ReadFile(name))(t)
		open = open || bytes.Contains(data, []byte("lies there openly"))
		if bytes.Contains(data, []byte(secret)) {
			t.Errorf("%s shows it", name)
		}
	}
	if !open {
		t.Error("this test would see nothing")
	}
	c = start(t, dir)
	if s := must(c.client.CoreV1().Secrets("default").Get(t.Context(), "s", metav1.GetOptions{}))(t); string(s.Data["k"]) != secret {
		t.Errorf("read %q", s.Data["k"])
	}
}

// TestLoopbackHasNoEndpoint: what a server published that others could reach is taken back, and said.
func TestLoopbackHasNoEndpoint(t *testing.T) {
	dir := t.TempDir()
	c := start(t, dir)
	if err := c.stop(); err != nil {
		t.Fatal(err)
	}
	c.stop = nil
	var said bytes.Buffer
	c = start(t, dir, func(c *Config) {
		c.AdvertiseAddress = netip.MustParseAddr("127.0.0.1")
		c.Logger = slog.New(slog.NewTextHandler(&said, &slog.HandlerOptions{Level: slog.LevelWarn}))
	})
	if !strings.Contains(said.String(), "--advertise-address") {
		t.Errorf("the log says %s", said.String())
	}
	slices := must(c.client.DiscoveryV1().EndpointSlices("default").List(t.Context(), metav1.ListOptions{}))(t)
	endpoints := must(c.client.CoreV1().Endpoints("default").List(t.Context(), metav1.ListOptions{}))(t) //nolint:staticcheck // old clients read them
	if len(slices.Items) != 0 || len(endpoints.Items) != 0 {
		t.Errorf("published: %v %v", slices.Items, endpoints.Items)
	}
	must(c.client.CoreV1().Services("default").Get(t.Context(), "kubernetes", metav1.GetOptions{}))(t)
}

func TestAnotherServiceNetworkIsRefused(t *testing.T) {
	dir := t.TempDir()
	c := start(t, dir)
	if err := c.stop(); err != nil {
		t.Fatal(err)
	}
	c.stop = nil
	_, err := boot(dir, func(c *Config) { c.ServiceCIDR = netip.MustParsePrefix("10.96.0.0/16") })
	if err == nil || !strings.Contains(err.Error(), "made with the service network 10.43.0.0/16") {
		t.Errorf("got %v", err)
	}
}

// listening serves h and gives the way to it.
func listening(t *testing.T, h http.Handler) func(context.Context) (net.Conn, error) {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", s.Listener.Addr().String())
	}
}

func TestNodesAndPodsAreReachedThroughDialers(t *testing.T) {
	echo := func(who string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%s %s %s", who, r.Method, r.URL.RequestURI())
		})
	}
	kubelet, inPod := listening(t, echo("kubelet")), listening(t, echo("pod"))
	var dialedNode, dialedPod string
	c := start(t, t.TempDir(), func(c *Config) {
		c.NodeDialer = func(ctx context.Context, node string) (net.Conn, error) { dialedNode = node; return kubelet(ctx) }
		c.PodDialer = func(ctx context.Context, _, address string) (net.Conn, error) { dialedPod = address; return inPod(ctx) }
	})
	ctx, ns := t.Context(), c.namespace(t)
	must(c.client.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "pi"}}, metav1.CreateOptions{}))(t)
	p := pod("p")
	p.Spec.NodeName = "pi"
	p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 8080}}
	p = must(c.client.CoreV1().Pods(ns).Create(ctx, p, metav1.CreateOptions{}))(t)
	p.Status.PodIP, p.Status.Phase = "10.42.0.7", corev1.PodRunning
	p.Status.PodIPs = []corev1.PodIP{{IP: p.Status.PodIP}}
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	must(c.client.CoreV1().Pods(ns).UpdateStatus(ctx, p, metav1.UpdateOptions{}))(t)
	must(c.client.CoreV1().Services(ns).Create(ctx, service("s", 0), metav1.CreateOptions{}))(t)
	port, ready, name := int32(8080), true, ""
	must(c.client.DiscoveryV1().EndpointSlices(ns).Create(ctx, &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Name: "s", Labels: map[string]string{discoveryv1.LabelServiceName: "s"}}, AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.42.0.7"}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}, TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: ns, Name: "p"}}},
		Ports:     []discoveryv1.EndpointPort{{Name: &name, Port: &port}},
	}, metav1.CreateOptions{}))(t)

	logs := must(c.client.CoreV1().Pods(ns).GetLogs("p", &corev1.PodLogOptions{Follow: true}).Stream(ctx))(t)
	text := string(must(io.ReadAll(logs))(t))
	if want := "kubelet GET /containerLogs/" + ns + "/p/c?follow=true"; text != want || dialedNode != "pi" {
		t.Errorf("logs: %q from %q, want %q", text, dialedNode, want)
	}
	base := "/api/v1/namespaces/" + ns
	for path, want := range map[string]string{
		"/api/v1/nodes/pi/proxy/stats/summary":     "kubelet GET /stats/summary",
		"/api/v1/nodes/pi:10250/proxy/healthz?x=y": "kubelet GET /healthz?x=y",
		base + "/pods/p/proxy/a/b":                 "pod GET /a/b",
		base + "/pods/http:p:8080/proxy/":          "pod GET /",
		base + "/services/s/proxy/c":               "pod GET /c",
	} {
		dialedPod = ""
		if a := ask(t, c.config, "GET", path, ""); a.code != 200 || a.body != want {
			t.Errorf("%s: %d %s, want %s", path, a.code, a.body, want)
		}
		if strings.HasPrefix(want, "pod") && dialedPod != "10.42.0.7:8080" && dialedPod != "" {
			t.Errorf("%s dialed %s", path, dialedPod)
		}
	}
	if a := ask(t, c.config, "GET", "/api/v1/nodes/pi:22/proxy/", ""); a.code != 400 || !strings.Contains(a.body, "where only 10250 answers") {
		t.Errorf("another port: %d %s", a.code, a.body)
	}
	if a := ask(t, c.config, "GET", "/api/v1/nodes/none/proxy/", ""); a.code != 404 {
		t.Errorf("another node: %d %s", a.code, a.body)
	}
	exec := ask(t, c.config, "POST", base+"/pods/p/exec?command=ls&stdout=1", "")
	if exec.code != 400 || !strings.Contains(exec.body, "Upgrade request required") {
		t.Errorf("exec without an upgrade: %d %s", exec.code, exec.body)
	}
}

func TestInProcess(t *testing.T) {
	c, ns := shared(t)
	client := must(kubernetes.NewForConfig(c.ClientConfig("system:serviceaccount:kube-system:deployment-controller")))(t)
	if _, err := client.AppsV1().ReplicaSets(ns).List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Errorf("what its role allows: %v", err)
	}
	if _, err := client.CoreV1().Secrets(ns).List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("what it does not: %v", err)
	}
	admin := must(kubernetes.NewForConfig(c.ClientConfig("admin", "system:masters")))(t)
	ctx, cancel := context.WithCancel(t.Context())
	w := must(admin.CoreV1().ConfigMaps(ns).Watch(ctx, metav1.ListOptions{}))(t)
	must(admin.CoreV1().ConfigMaps(ns).Create(t.Context(), configMap("a", "k", "v"), metav1.CreateOptions{}))(t)
	if e := next(t, w); e.Object.(*corev1.ConfigMap).Data["k"] != "v" {
		t.Errorf("got %v", e)
	}
	cancel()
	for range w.ResultChan() {
	}
	// A watcher that is stopped and not cancelled ends its handler too.
	other := must(admin.CoreV1().ConfigMaps(ns).Watch(t.Context(), metav1.ListOptions{}))(t)
	other.Stop()
	for range other.ResultChan() {
	}
	if _, err := admin.CoreV1().ConfigMaps(ns).Get(ctx, "a", metav1.GetOptions{}); err == nil {
		t.Error("a cancelled request was answered")
	}
	if err := admin.CoreV1().ConfigMaps(ns).Delete(t.Context(), "none", metav1.DeleteOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
}
