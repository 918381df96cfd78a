package broker

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"bramble.dev/link"
)

// Bounds of the embedded broker.
const (
	maxPacket     = 32 << 10
	maxClients    = 8192
	maxPending    = 32               // messages that wait for one client; more are dropped
	handshakeTime = 20 * time.Second // from the connection to the CONNECT packet
)

// EmbeddedConfig is what the embedded broker needs.
type EmbeddedConfig struct {
	Listener    net.Listener // plain; the broker speaks TLS on it
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	Roots       *x509.CertPool // of the nodes' certificates
	Cluster     string         // link.ClusterID
	Logger      *slog.Logger
}

// embedded is mochi-mqtt with a TLS listener and our rules.
type embedded struct {
	cfg     EmbeddedConfig
	topics  link.Topics
	server  *mqtt.Server
	receive func(topic string, payload []byte)
}

// Embedded makes a broker that runs inside this process.
func Embedded(cfg EmbeddedConfig) (Transport, error) {
	caps := mqtt.NewDefaultServerCapabilities()
	caps.MaximumClients = maxClients
	caps.MaximumClientWritesPending = maxPending
	caps.MaximumPacketSize = maxPacket
	caps.MaximumSessionExpiryInterval = 0
	caps.MaximumMessageExpiryInterval = 60
	caps.MaximumQos = 0
	caps.MaximumInflight = 8
	caps.ReceiveMaximum = 8
	caps.TopicAliasMaximum = 0
	caps.RetainAvailable = 0
	caps.SharedSubAvailable = 0
	caps.SubIDAvailable = 0
	b := &embedded{cfg: cfg, topics: link.Topics{Cluster: cfg.Cluster}}
	b.server = mqtt.New(&mqtt.Options{
		Capabilities: caps,
		InlineClient: true,
		// The broker's own log would name what its hooks already say, and hold payloads.
		Logger: slog.New(slog.DiscardHandler),
		// Nobody reads $SYS topics, and gathering them stops the world.
		SysTopicResendInterval: int64((365 * 24 * time.Hour).Seconds()),
	})
	if err := b.server.AddHook(&rules{topics: b.topics, roots: cfg.Roots, log: cfg.Logger}, nil); err != nil {
		return nil, fmt.Errorf("broker: %w", err)
	}
	listener := &tlsListener{inner: cfg.Listener, config: &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: cfg.Certificate,
		// The certificate is checked by our rules, which know what an expired one is worth.
		ClientAuth:             tls.RequestClientCert,
		SessionTicketsDisabled: true,
	}}
	if err := b.server.AddListener(listener); err != nil {
		return nil, fmt.Errorf("broker: %w", err)
	}
	return b, nil
}

func (b *embedded) Receive(f func(topic string, payload []byte)) { b.receive = f }

func (b *embedded) Publish(topic string, payload []byte) error {
	if err := b.server.Publish(topic, payload, false, 0); err != nil {
		return fmt.Errorf("broker: publish: %w", err)
	}
	return nil
}

func (b *embedded) Run(ctx context.Context) error {
	for i, filter := range b.topics.Subscriptions() {
		err := b.server.Subscribe(filter, i+1, func(_ *mqtt.Client, _ packets.Subscription, pk packets.Packet) {
			b.receive(pk.TopicName, pk.Payload)
		})
		if err != nil {
			return fmt.Errorf("broker: %w", err)
		}
	}
	if err := b.server.Serve(); err != nil {
		return fmt.Errorf("broker: %w", err)
	}
	b.cfg.Logger.Info("broker listens", "address", b.cfg.Listener.Addr().String())
	<-ctx.Done()
	if err := b.server.Close(); err != nil {
		return fmt.Errorf("broker: close: %w", err)
	}
	return nil
}
