package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"sync"
	"time"

	"bramble.dev/link"
	"bramble.dev/link/carrier"
)

// OutsideConfig is what the server needs to be a client of a broker that others run.
type OutsideConfig struct {
	URL     string      // mqtts://user:password@host:port or mqtt://host:port
	TLS     *tls.Config // for mqtts; nil: the system's authorities
	Cluster string
	Logger  *slog.Logger
}

// outside is a client of another broker.
type outside struct {
	cfg     OutsideConfig
	url     *url.URL
	topics  link.Topics
	receive func(topic string, payload []byte)

	mu     sync.Mutex
	client *carrier.Client // nil while there is no connection
}

var errNotConnected = errors.New("broker: not connected")

// CheckURL says what is wrong with the URL of a broker that others run.
func CheckURL(s string) error {
	_, err := carrier.ParseURL(s)
	return err
}

// Outside makes a transport over a broker that others run.
func Outside(cfg OutsideConfig) (Transport, error) {
	u, err := carrier.ParseURL(cfg.URL)
	if err != nil {
		return nil, err
	}
	return &outside{cfg: cfg, url: u, topics: link.Topics{Cluster: cfg.Cluster}}, nil
}

func (b *outside) Receive(f func(topic string, payload []byte)) { b.receive = f }

func (b *outside) Publish(topic string, payload []byte) error {
	b.mu.Lock()
	client := b.client
	b.mu.Unlock()
	if client == nil {
		return errNotConnected
	}
	return client.Publish(topic, payload)
}

func (b *outside) Run(ctx context.Context) error {
	const most = 30 * time.Second
	wait := time.Second
	for ctx.Err() == nil {
		began := time.Now()
		err := b.connected(ctx)
		if ctx.Err() != nil {
			break
		}
		if time.Since(began) > most {
			wait = time.Second
		}
		b.cfg.Logger.Warn("connection to the broker lost", "broker", b.url.Redacted(), "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(wait/2 + rand.N(wait)):
		}
		wait = min(2*wait, most)
	}
	return nil
}

// connected connects once and returns when the connection ends.
func (b *outside) connected(ctx context.Context) error {
	client, err := carrier.Connect(ctx, carrier.Options{
		URL: b.url, TLS: b.cfg.TLS, ClientID: link.ClientID(b.cfg.Cluster, "server"),
		Subscribe: b.topics.Subscriptions(), Receive: b.receive,
	})
	if err != nil {
		return err
	}
	defer client.Close()
	b.cfg.Logger.Info("connected to the broker", "broker", b.url.Redacted())
	b.use(client)
	defer b.use(nil)
	select {
	case <-ctx.Done():
		return nil
	case err := <-client.Lost():
		return err
	}
}

func (b *outside) use(client *carrier.Client) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.client = client
}
