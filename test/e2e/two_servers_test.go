package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"bramble.dev/server/auth"
	"bramble.dev/test/etcd"
	"bramble.dev/test/hosts"
)

// Three etcd with client certificates, two servers on them, and mosquitto between these and the agents. One of the etcd, the server that
// leads, and then the one that does not, are killed while others write. What was acknowledged is there, the controllers go on, and no
// container is started again.
func TestTwoServers(t *testing.T) {
	lab := newLab(t, 3)
	startMosquitto(t, lab)
	quorum := startQuorum(t, lab)
	broker := fmt.Sprintf("mqtt://bramble:bramble@%s:1883", lab.Root)
	flags := append(quorum.flags(), "--broker", broker)
	first := startOn(t, lab, hosts.ClusterOptions{Server: broker, ServerArgs: flags})
	second := first.join(t, 1, flags)

	first.kubectl("apply", "-f", manifest("01-deployment.yaml"))
	before := containers(second.ready("app=nginx", 3, 90*time.Second))
	pod := second.pods("app=nginx")[0].Name
	if out, err := second.exec(pod, "echo", "through the other server"); err != nil || strings.TrimSpace(out) != "through the other server" {
		t.Errorf("exec by way of the server that does not lead: %q, %v", out, err)
	}
	if !strings.Contains(second.kubectl("get", "--raw", "/api/v1/nodes/host3/proxy/healthz"), "ok") {
		t.Error("a node's API by way of the server that does not lead")
	}

	writing := []*writers{newWriters(t, first.Kubeconfig), newWriters(t, second.Kubeconfig)}
	ctx, stop := context.WithCancel(first.ctx)
	defer stop()
	var wait sync.WaitGroup
	for i := range 8 {
		wait.Go(func() { writing[i%2].write(ctx, i) })
	}

	at := time.Now()
	if err := quorum.members[0].Kill(); err != nil {
		t.Fatal(err)
	}
	for i, w := range writing {
		w.goesOn(t, first, fmt.Sprintf("server %d with one etcd less", i+1))
	}
	t.Logf("one of three etcd killed: both servers write again after %s", time.Since(at).Round(10*time.Millisecond))
	quorum.start(t, 0)

	at = time.Now()
	if err := first.Server.Kill(); err != nil {
		t.Fatal(err)
	}
	writing[1].goesOn(t, second, "the server that is left")
	t.Logf("the server that leads killed: the other writes after %s", time.Since(at).Round(10*time.Millisecond))
	second.kubectl("scale", "deployment", "nginx-deployment", "--replicas=5")
	second.ready("app=nginx", 5, 3*time.Minute)
	t.Logf("the server that leads killed: two pods more are ready after %s", time.Since(at).Round(10*time.Millisecond))
	if err := first.StartServer(first.ctx); err != nil {
		t.Fatal(err)
	}
	if out, err := first.exec(pod, "echo", "back"); err != nil || strings.TrimSpace(out) != "back" {
		t.Errorf("exec by way of the server that came back, and does not lead: %q, %v", out, err)
	}
	writing[0].goesOn(t, first, "the server that came back")

	if err := first.Server.Kill(); err != nil {
		t.Fatal(err)
	}
	writing[1].goesOn(t, second, "the server that leads, when the other is killed")
	second.kubectl("scale", "deployment", "nginx-deployment", "--replicas=6")
	second.ready("app=nginx", 6, 3*time.Minute)
	if err := first.StartServer(first.ctx); err != nil {
		t.Fatal(err)
	}
	stop()
	wait.Wait()

	now := first.ready("app=nginx", 6, time.Minute)
	if n := restarts(now); n != 0 {
		t.Errorf("%d restarts of healthy containers", n)
	}
	after := containers(now)
	for name, id := range before {
		if got := after[name]; got != id {
			t.Errorf("the container of %s was replaced: %q, before %s", name, got, id)
		}
	}
	for i, w := range writing {
		w.client = writing[1-i].client // each is asked for what the other has acknowledged
	}
	for _, w := range writing {
		w.verify(t)
	}
}

// join starts a second server, on a host that runs an agent already. It gets the cluster's keys as an operator would give it them.
func (c *cluster) join(t *testing.T, host int, flags []string) *cluster {
	t.Helper()
	h := c.Hosts[host]
	if err := os.CopyFS(h.Data("server", "pki"), os.DirFS(c.Hosts[0].Data("server", "pki"))); err != nil {
		t.Fatal(err)
	}
	other := *c.Cluster
	other.Kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	api := net.JoinHostPort(h.IP.String(), hosts.APIPort)
	p, err := h.Start("server", append([]string{c.Program("bramble"), "server", "--data-dir", hosts.DataDir, "--api-listen", api}, flags...)...)
	if err != nil {
		t.Fatal(err)
	}
	other.Server = p
	second := &cluster{Cluster: &other, t: t, ctx: c.ctx}
	second.eventually(time.Minute, "the second server answers", func() error {
		if p.Ended() {
			return hosts.Stop(errors.New(p.Tail(10)))
		}
		data, err := os.ReadFile(h.Data("kubeconfig"))
		if err != nil {
			return err
		}
		if err := os.WriteFile(other.Kubeconfig, data, 0o600); err != nil {
			return err
		}
		_, err = other.Kubectl(c.ctx, "get", "--raw", "/readyz")
		return err
	})
	return second
}

// goesOn waits for more acknowledged writes.
func (w *writers) goesOn(t *testing.T, c *cluster, who string) {
	t.Helper()
	count := func() int {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.acked)
	}
	start := count()
	c.eventually(2*time.Minute, who+" goes on", func() error {
		if n := count() - start; n < 60 {
			return fmt.Errorf("%d writes more are acknowledged", n)
		}
		return nil
	})
}

// quorum is three etcd, one on each host, that talk to whoever shows a certificate of their authority.
type quorum struct {
	lab     *hosts.Lab
	binary  string
	dir     string // of the certificates
	members [3]*hosts.Process
}

func startQuorum(t *testing.T, lab *hosts.Lab) *quorum {
	t.Helper()
	binary, err := etcd.Binary(t.Context())
	if err != nil {
		t.Fatalf("this test needs a real etcd: %v", err)
	}
	q := &quorum{lab: lab, binary: binary, dir: t.TempDir()}
	var ips []net.IP
	for _, h := range lab.Hosts {
		ips = append(ips, h.IP.AsSlice())
	}
	if err := writeCertificates(q.dir, ips); err != nil {
		t.Fatal(err)
	}
	for i := range q.members {
		q.start(t, i)
	}
	return q
}

// writeCertificates makes an authority of etcd's own, a certificate for all members, and one for clients.
func writeCertificates(dir string, ips []net.IP) error {
	authority, err := auth.OpenPKI(filepath.Join(dir, "authority"), auth.PKIOptions{})
	if err != nil {
		return err
	}
	serving, err := authority.ServingCertificate([]string{"etcd"}, ips)
	if err != nil {
		return err
	}
	member, err := serving(&tls.ClientHelloInfo{})
	if err != nil {
		return err
	}
	key, err := x509.MarshalPKCS8PrivateKey(member.PrivateKey)
	if err != nil {
		return err
	}
	certPEM, keyPEM, err := authority.ClientCertificate("bramble")
	if err != nil {
		return err
	}
	for name, data := range map[string][]byte{
		"ca.crt": authority.CACertPEM(), "client.crt": certPEM, "client.key": keyPEM,
		"member.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: member.Certificate[0]}),
		"member.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (q *quorum) url(scheme string, i, port int) string {
	return scheme + "://" + netip.AddrPortFrom(q.lab.Hosts[i].IP, uint16(port)).String()
}

// start starts a member, or starts it again.
func (q *quorum) start(t *testing.T, i int) {
	t.Helper()
	var all []string
	for n := range q.members {
		all = append(all, fmt.Sprintf("m%d=%s", n, q.url("http", n, 2380)))
	}
	client, peer := q.url("https", i, 2379), q.url("http", i, 2380)
	p, err := q.lab.Hosts[i].Start("etcd", q.binary, "--name", fmt.Sprint("m", i), "--data-dir", filepath.Join(hosts.DataDir, "etcd"),
		"--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
		"--initial-cluster", strings.Join(all, ","), "--client-cert-auth", "--trusted-ca-file", filepath.Join(q.dir, "ca.crt"),
		"--cert-file", filepath.Join(q.dir, "member.crt"), "--key-file", filepath.Join(q.dir, "member.key"), "--enable-grpc-gateway=false", "--log-level", "warn")
	if err != nil {
		t.Fatal(err)
	}
	q.members[i] = p
}

// flags are those of a server on it.
func (q *quorum) flags() []string {
	var all []string
	for i := range q.members {
		all = append(all, q.url("https", i, 2379))
	}
	return []string{"--store", "etcd", "--etcd-servers", strings.Join(all, ","), "--etcd-cafile", filepath.Join(q.dir, "ca.crt"),
		"--etcd-certfile", filepath.Join(q.dir, "client.crt"), "--etcd-keyfile", filepath.Join(q.dir, "client.key")}
}
