package broker_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"bramble.dev/link"
	"bramble.dev/link/carrier"
	"bramble.dev/server/auth"
	"bramble.dev/server/broker"
)

type fixture struct {
	t       *testing.T
	pki     *auth.PKI
	cluster string
	topics  link.Topics
	address string
	t2      broker.Transport

	mu       sync.Mutex
	received []string
}

func start(t *testing.T) *fixture {
	pki, err := auth.OpenPKI(t.TempDir(), auth.PKIOptions{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := pki.ServingCertificate([]string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{t: t, pki: pki, cluster: link.ClusterID(pki.CAHash()), address: l.Addr().String()}
	f.topics = link.Topics{Cluster: f.cluster}
	f.t2, err = broker.Embedded(broker.EmbeddedConfig{Listener: l, Certificate: certificate, Roots: pki.CAPool(), Cluster: f.cluster, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	f.t2.Receive(func(topic string, payload []byte) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.received = append(f.received, topic+" "+string(payload))
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.t2.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return f
}

func (f *fixture) has(text string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.received {
		if strings.Contains(r, text) {
			return true
		}
	}
	return false
}

// tls is a client's side; node "" has no certificate.
func (f *fixture) tls(pki *auth.PKI, node string) *tls.Config {
	c := &tls.Config{RootCAs: f.pki.CAPool(), ServerName: "localhost"}
	if node != "" {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			f.t.Fatal(err)
		}
		der, err := pki.SignNode(node, key.Public())
		if err != nil {
			f.t.Fatal(err)
		}
		c.Certificates = []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}
	}
	return c
}

func (f *fixture) connect(id string, c *tls.Config, subscribe ...string) (*carrier.Client, error) {
	u, err := carrier.ParseURL("mqtts://" + f.address)
	if err != nil {
		f.t.Fatal(err)
	}
	client, err := carrier.Connect(context.Background(), carrier.Options{URL: u, ClientID: id, TLS: c, Subscribe: subscribe, Receive: func(string, []byte) {}})
	if err == nil {
		f.t.Cleanup(client.Close)
	}
	return client, err
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not in time: ", what)
		}
	}
}

func TestWhoMayConnect(t *testing.T) {
	f := start(t)
	other, err := auth.OpenPKI(t.TempDir(), auth.PKIOptions{})
	if err != nil {
		t.Fatal(err)
	}
	instance := strings.Repeat("a", link.InstanceLength)
	join := strings.Repeat("b", link.JoinIDLength)
	tests := []struct {
		name, id  string
		tls       *tls.Config
		subscribe string
		ok        bool
	}{
		{"node", link.NodeClientID(f.cluster, "pi1", instance), f.tls(f.pki, "pi1"), f.topics.Down(link.NodePlace("pi1")), true},
		{"node at another's topic", link.NodeClientID(f.cluster, "pi1", instance), f.tls(f.pki, "pi1"), f.topics.Down(link.NodePlace("pi2")), false},
		{"node at all topics", link.NodeClientID(f.cluster, "pi1", instance), f.tls(f.pki, "pi1"), "#", false},
		{"node at the server's topic", link.NodeClientID(f.cluster, "pi1", instance), f.tls(f.pki, "pi1"), f.topics.Up(link.NodePlace("pi1")), false},
		{"node with another's client id", link.NodeClientID(f.cluster, "pi2", instance), f.tls(f.pki, "pi1"), f.topics.Down(link.NodePlace("pi1")), false},
		{"node with the server's client id", link.ClientID(f.cluster, "server"), f.tls(f.pki, "pi1"), f.topics.Down(link.NodePlace("pi1")), false},
		{"node of another cluster", link.NodeClientID(f.cluster, "pi1", instance), f.tls(other, "pi1"), f.topics.Down(link.NodePlace("pi1")), false},
		{"joining", link.ClientID(f.cluster, link.JoinPlace(join)), f.tls(nil, ""), f.topics.Down(link.JoinPlace(join)), true},
		{"joining, at a node's topic", link.ClientID(f.cluster, link.JoinPlace(join)), f.tls(nil, ""), f.topics.Down(link.NodePlace("pi1")), false},
		{"joining, at all joins", link.ClientID(f.cluster, link.JoinPlace(join)), f.tls(nil, ""), f.topics.Down(link.JoinPlace("+")), false},
		{"without a certificate as a node", link.NodeClientID(f.cluster, "pi1", instance), f.tls(nil, ""), f.topics.Down(link.NodePlace("pi1")), false},
		{"joining with a wildcard as id", link.ClientID(f.cluster, link.JoinPlace("+")), f.tls(nil, ""), f.topics.Down(link.JoinPlace("+")), false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := f.connect(test.id, test.tls, test.subscribe)
			if (err == nil) != test.ok {
				t.Error(err)
			}
		})
	}
}

func TestWhatMayBePublished(t *testing.T) {
	f := start(t)
	instance := strings.Repeat("a", link.InstanceLength)
	client, err := f.connect(link.NodeClientID(f.cluster, "pi1", instance), f.tls(f.pki, "pi1"), f.topics.Down(link.NodePlace("pi1")))
	if err != nil {
		t.Fatal(err)
	}
	for _, topic := range []string{f.topics.Up(link.NodePlace("pi2")), f.topics.Gone(link.NodePlace("pi2")), f.topics.Up(link.JoinPlace("x")), f.topics.Down(link.NodePlace("pi1"))} {
		if err := client.Publish(topic, []byte("forged")); err != nil {
			t.Fatal(err)
		}
	}
	if err := client.Publish(f.topics.Up(link.NodePlace("pi1")), []byte("mine")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "own message", func() bool { return f.has("mine") })
	if f.has("forged") {
		t.Error("a node spoke at another's place")
	}
	// What is too large ends the connection.
	if err := client.Publish(f.topics.Up(link.NodePlace("pi1")), bytes.Repeat([]byte("x"), 40<<10)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-client.Lost():
	case <-time.After(5 * time.Second):
		t.Error("a packet of 40 KiB was taken")
	}
}

// TestNothingIsKept: no retained message, no session that outlives its connection, no will elsewhere.
func TestNothingIsKept(t *testing.T) {
	f := start(t)
	instance := strings.Repeat("a", link.InstanceLength)
	options := func() *mqtt.ClientOptions {
		o := mqtt.NewClientOptions().AddBroker("mqtts://" + f.address).SetTLSConfig(f.tls(f.pki, "pi1"))
		return o.SetClientID(link.NodeClientID(f.cluster, "pi1", instance)).SetProtocolVersion(4).SetAutoReconnect(false).SetConnectRetry(false)
	}
	for name, o := range map[string]*mqtt.ClientOptions{
		"session that stays": options().SetCleanSession(false),
		"will elsewhere":     options().SetWill(f.topics.Gone(link.NodePlace("pi2")), "1", 0, false),
		"retained will":      options().SetWill(f.topics.Gone(link.NodePlace("pi1")), "1", 0, true),
	} {
		c := mqtt.NewClient(o)
		// paho takes a return code that it does not know for success, so only what arrives counts.
		if token := c.Connect(); token.WaitTimeout(5*time.Second) && token.Error() == nil {
			c.Publish(f.topics.Up(link.NodePlace("pi1")), 0, false, name).WaitTimeout(time.Second)
			c.Disconnect(0)
		}
	}
	c := mqtt.NewClient(options())
	if token := c.Connect(); !token.WaitTimeout(5*time.Second) || token.Error() != nil {
		t.Fatal(token.Error())
	}
	c.Publish(f.topics.Up(link.NodePlace("pi1")), 0, true, "retained").WaitTimeout(time.Second)
	c.Publish(f.topics.Up(link.NodePlace("pi1")), 0, false, "plain").WaitTimeout(time.Second)
	eventually(t, "plain message", func() bool { return f.has("plain") })
	if f.has("session that stays") || f.has("will elsewhere") || f.has("retained will") {
		t.Error("a client was let in that should not be")
	}
	if f.has(" retained") {
		t.Error("a retained message was taken")
	}
	c.Disconnect(0)
}

// TestSlowClientHoldsNothing: a client that does not read costs the broker a bounded number of messages.
func TestSlowClientHoldsNothing(t *testing.T) {
	f := start(t)
	conn, err := tls.Dial("tcp", f.address, f.tls(f.pki, "pi1"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	id := link.NodeClientID(f.cluster, "pi1", strings.Repeat("a", link.InstanceLength))
	topic := f.topics.Down(link.NodePlace("pi1"))
	connect := append([]byte{0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 60, byte(len(id) >> 8), byte(len(id))}, id...)
	subscribe := append(append([]byte{0, 1, byte(len(topic) >> 8), byte(len(topic))}, topic...), 0)
	for _, p := range [][]byte{append([]byte{0x10, byte(len(connect))}, connect...), append([]byte{0x82, byte(len(subscribe))}, subscribe...)} {
		if _, err := conn.Write(p); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := conn.Read(make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	// It reads no more. 64 MiB are published; the time that takes shows that nobody waits for it.
	began := time.Now()
	for range 2048 {
		if err := f.t2.Publish(topic, make([]byte, 32000)); err != nil {
			t.Fatal(err)
		}
	}
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("publishing waited %v for a client", d)
	}
}
