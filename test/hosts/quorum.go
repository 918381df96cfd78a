package hosts

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"
)

// Quorum is what several servers share: three etcd, one on each of a lab's hosts, that talk to whoever shows a certificate of their
// authority, and mosquitto on the last host.
type Quorum struct {
	Members [3]*Process
	Broker  string // the URL of mosquitto

	lab    *Lab
	binary string
	dir    string // of certificates, outside the hosts' own folders
}

// StartQuorum starts them on a lab of three hosts. It does not wait for them: a server does.
func StartQuorum(lab *Lab, etcd string) (*Quorum, error) {
	last := lab.Hosts[len(lab.Hosts)-1]
	q := &Quorum{lab: lab, binary: etcd, dir: filepath.Join(lab.dir, "quorum"), Broker: "mqtt://" + net.JoinHostPort(last.IP.String(), "1883")}
	if err := q.writeCertificates(); err != nil {
		return nil, err
	}
	config := filepath.Join(q.dir, "mosquitto.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, "listener 1883 %s\nallow_anonymous true\nuser root\n", last.IP), 0o644); err != nil {
		return nil, err
	}
	if _, err := last.Start("mosquitto", "mosquitto", "-c", config); err != nil {
		return nil, err
	}
	for i := range q.Members {
		if err := q.StartMember(i); err != nil {
			return nil, err
		}
	}
	return q, nil
}

// writeCertificates makes an authority of etcd's own, a certificate for all members, and one for clients.
func (q *Quorum) writeCertificates() error {
	if err := os.MkdirAll(q.dir, 0o700); err != nil {
		return err
	}
	member := &x509.Certificate{Subject: pkix.Name{CommonName: "etcd"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, h := range q.lab.Hosts {
		member.IPAddresses = append(member.IPAddresses, h.IP.AsSlice())
	}
	authority := &x509.Certificate{Subject: pkix.Name{CommonName: "etcd's authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	client := &x509.Certificate{Subject: pkix.Name{CommonName: "bramble"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	by, err := q.writeCertificate("ca", authority, authority, nil)
	for name, template := range map[string]*x509.Certificate{"member": member, "client": client} {
		if err == nil {
			_, err = q.writeCertificate(name, template, authority, by)
		}
	}
	return err
}

// writeCertificate writes NAME.crt and NAME.key; without the parent's key it is signed by its own, which is returned.
func (q *Quorum) writeCertificate(name string, template, parent *x509.Certificate, by crypto.Signer) (crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	if by == nil {
		by = key
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(365*24*time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	for file, block := range map[string]*pem.Block{".crt": {Type: "CERTIFICATE", Bytes: der}, ".key": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(filepath.Join(q.dir, name+file), pem.EncodeToMemory(block), 0o600); err != nil {
			return nil, err
		}
	}
	return key, nil
}

func (q *Quorum) url(scheme string, i int, port uint16) string {
	return scheme + "://" + netip.AddrPortFrom(q.lab.Hosts[i].IP, port).String()
}

// StartMember starts an etcd, or starts it again.
func (q *Quorum) StartMember(i int) error {
	var all []string
	for n := range q.Members {
		all = append(all, fmt.Sprintf("m%d=%s", n, q.url("http", n, 2380)))
	}
	client, peer := q.url("https", i, 2379), q.url("http", i, 2380)
	p, err := q.lab.Hosts[i].Start("etcd", q.binary, "--name", fmt.Sprint("m", i), "--data-dir", filepath.Join(DataDir, "etcd"),
		"--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
		"--initial-cluster", strings.Join(all, ","), "--client-cert-auth", "--trusted-ca-file", filepath.Join(q.dir, "ca.crt"),
		"--cert-file", filepath.Join(q.dir, "member.crt"), "--key-file", filepath.Join(q.dir, "member.key"), "--enable-grpc-gateway=false", "--log-level", "warn")
	q.Members[i] = p
	return err
}

// StoreArgs are the flags of a command that works on the objects in etcd, ServerArgs those of a server.
func (q *Quorum) StoreArgs() []string {
	var all []string
	for i := range q.Members {
		all = append(all, q.url("https", i, 2379))
	}
	return []string{"--store", "etcd", "--etcd-servers", strings.Join(all, ","), "--etcd-cafile", filepath.Join(q.dir, "ca.crt"),
		"--etcd-certfile", filepath.Join(q.dir, "client.crt"), "--etcd-keyfile", filepath.Join(q.dir, "client.key")}
}

// ServerArgs are StoreArgs, the broker, and where Balance answers.
func (q *Quorum) ServerArgs() []string {
	return append(q.StoreArgs(), "--broker", q.Broker, "--api-name", q.lab.Root.String())
}

// Join starts a second server on a host, or starts it again, with the keys of the first, as an operator would give it them. What it
// returns is the cluster by way of that server.
func (c *Cluster) Join(ctx context.Context, host int) (*Cluster, error) {
	h := c.Hosts[host]
	if _, err := os.Stat(h.Data("server", "pki")); err != nil {
		if err := os.CopyFS(h.Data("server", "pki"), os.DirFS(c.Hosts[0].Data("server", "pki"))); err != nil {
			return nil, err
		}
	}
	other := *c
	other.Kubeconfig = c.Kubeconfig + "." + h.Name
	api := net.JoinHostPort(h.IP.String(), APIPort)
	p, err := h.Start("server", append([]string{c.program("bramble"), "server", "--data-dir", DataDir, "--api-listen", api}, c.o.ServerArgs...)...)
	if err != nil {
		return nil, err
	}
	other.Server = p
	err = Eventually(ctx, time.Minute, func() error {
		if p.Ended() {
			return Stop(errors.New("the server ended"))
		}
		data, err := os.ReadFile(h.Data("kubeconfig"))
		if err != nil {
			return err
		}
		if err := os.WriteFile(other.Kubeconfig, data, 0o600); err != nil {
			return err
		}
		_, err = other.Kubectl(ctx, "get", "--raw", "/readyz")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("a second server: %w\n%s", err, p.Tail(20))
	}
	return &other, nil
}

// Balance gives each new connection to an address of the root namespace to the next of the servers on the first two hosts, or to the other one where that does
// not answer, until the listener is closed. The kubeconfig that it writes leads there.
func (c *Cluster) Balance() (kubeconfig string, l net.Listener, err error) {
	if l, err = net.Listen("tcp", net.JoinHostPort(c.Root.String(), "0")); err != nil {
		return "", nil, err
	}
	data, err := os.ReadFile(c.Kubeconfig)
	if err != nil {
		return "", nil, errors.Join(err, l.Close())
	}
	kubeconfig = c.Kubeconfig + ".balanced"
	text := strings.Replace(string(data), "server: "+c.URL(), "server: https://"+l.Addr().String(), 1)
	if err := os.WriteFile(kubeconfig, []byte(text), 0o600); err != nil {
		return "", nil, errors.Join(err, l.Close())
	}
	addresses := []string{net.JoinHostPort(c.Hosts[0].IP.String(), APIPort), net.JoinHostPort(c.Hosts[1].IP.String(), APIPort)}
	var turn atomic.Uint32
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			n := turn.Add(1)
			go relay(near, addresses[n%2], addresses[(n+1)%2])
		}
	}()
	return kubeconfig, l, nil
}

func relay(near net.Conn, addresses ...string) {
	defer near.Close()
	for _, a := range addresses {
		far, err := net.DialTimeout("tcp", a, time.Second)
		if err != nil {
			continue
		}
		defer far.Close()
		go func() { io.Copy(far, near); far.(*net.TCPConn).CloseWrite() }()
		io.Copy(near, far)
		return
	}
}

// Disturb kills, again and again until ctx is done, by turns an etcd, the first server and the second one, each some time after the one
// before is back. It tells of each.
func (q *Quorum) Disturb(ctx context.Context, first, second *Cluster, every time.Duration, tell func(string)) error {
	turns := []struct {
		what        string
		kill, again func() error
	}{
		{"an etcd", func() error { return q.Members[2].Kill() }, func() error { return q.StartMember(2) }},
		{"the server on host1", func() error { return first.Server.Kill() }, func() error { return first.StartServer(ctx) }},
		{"the server on host2", func() error { return second.Server.Kill() }, func() (err error) {
			second, err = first.Join(ctx, 1)
			return err
		}},
	}
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(every):
		}
		turn := turns[n%len(turns)]
		tell("killing " + turn.what)
		err := turn.kill()
		if err == nil {
			err = turn.again()
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", turn.what, err)
		}
	}
}
