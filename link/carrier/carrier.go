// Package carrier is a client of an MQTT broker that carries frames, for both ends of the link.
//
// Invariant: it promises nothing. A frame may be lost, whatever the library reports; callbacks only
// pass a frame on; a connection that is lost is not repaired here, its owner makes another. An idle
// connection is silent: the link has a keepalive of its own, so TCP's is off and MQTT's is long.
//
//	c, err := carrier.Connect(ctx, carrier.Options{URL: u, ClientID: id, Subscribe: []string{down}, Receive: queue.put})
//	err = c.Publish(up, frame)
//	<-c.Lost()
package carrier

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

const (
	connectTime = 20 * time.Second
	// keepalive is MQTT's. The link's own messages come more often, so that no PINGREQ is sent.
	keepalive = 60 * time.Second
	writeTime = 30 * time.Second
	// sendBuffer bounds what the kernel holds of what was sent: frames that wait there cannot be
	// overtaken by a more urgent one.
	sendBuffer = 128 << 10
)

// Options say where to connect and what to carry.
type Options struct {
	URL       *url.URL // see ParseURL
	ClientID  string
	TLS       *tls.Config // for mqtts
	Subscribe []string
	Will      string // topic that gets a message of one byte when the connection breaks; "": none
	// Receive is called for every message, one at a time. It must not block.
	Receive func(topic string, payload []byte)
	// Dial replaces the way to the broker, for tests.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// ParseURL reads the URL of a broker: mqtts://[user:password@]host[:port], or mqtt:// without TLS.
func ParseURL(s string) (*url.URL, error) {
	if !strings.Contains(s, "://") {
		return nil, fmt.Errorf("broker URL %q has no scheme: did you mean mqtts://%s?", redacted(s), redacted(s))
	}
	const form = "must look like mqtts://host:port or mqtt://host:port"
	u, err := url.Parse(s)
	if err != nil {
		return nil, fmt.Errorf("broker URL %q: "+form, redacted(s)) // url's error would show the password
	}
	port := map[string]string{"mqtts": "8883", "mqtt": "1883"}[u.Scheme]
	if port == "" || u.Hostname() == "" {
		return nil, fmt.Errorf("broker URL %q: "+form, u.Redacted())
	}
	if p := u.Port(); p != "" {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return nil, fmt.Errorf("broker URL %q: the port %s is no number from 1 to 65535", u.Redacted(), p)
		}
	}
	if u.Port() == "" {
		u.Host = net.JoinHostPort(u.Hostname(), port)
	}
	return u, nil
}

// Authorities reads those that a broker's certificate may come from: a PEM file.
func Authorities(file string) (*x509.CertPool, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s holds no certificate in PEM", file)
	}
	return roots, nil
}

// redacted leaves out what may be a user and a password of a text that is no URL.
func redacted(s string) string {
	if at := strings.LastIndex(s, "@"); at >= 0 {
		return "..." + s[at:]
	}
	return s
}

// Client is a connection to a broker.
type Client struct {
	client mqtt.Client
	lost   chan error

	out  chan message
	down chan struct{} // closed when nothing can be published any more
	once sync.Once
}

type message struct {
	topic   string
	payload []byte
}

// Connect connects and subscribes.
func Connect(ctx context.Context, o Options) (*Client, error) {
	c := &Client{lost: make(chan error, 1), out: make(chan message), down: make(chan struct{})}
	m := mqtt.NewClientOptions()
	m.AddBroker(o.URL.Scheme + "://" + o.URL.Host)
	if o.URL.User != nil {
		m.SetUsername(o.URL.User.Username())
		password, _ := o.URL.User.Password()
		m.SetPassword(password)
	}
	m.SetClientID(o.ClientID)
	m.SetProtocolVersion(4)
	m.SetCleanSession(true)
	m.SetAutoReconnect(false)
	m.SetConnectRetry(false)
	m.SetOrderMatters(true)
	m.SetKeepAlive(keepalive)
	m.SetPingTimeout(20 * time.Second)
	m.SetConnectTimeout(connectTime)
	m.SetWriteTimeout(writeTime)
	m.SetCustomOpenConnectionFn(func(*url.URL, mqtt.ClientOptions) (net.Conn, error) { return dial(ctx, o) })
	m.SetConnectionLostHandler(func(_ mqtt.Client, err error) { c.lose(err) })
	m.SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) { o.Receive(m.Topic(), m.Payload()) })
	if o.Will != "" {
		m.SetBinaryWill(o.Will, []byte{1}, 0, false) // mochi refuses an empty one
	}
	c.client = mqtt.NewClient(m)
	if err := wait(ctx, c.client.Connect()); err != nil {
		c.Close()
		return nil, fmt.Errorf("connect to broker %s: %w", o.URL.Redacted(), err)
	}
	if err := c.subscribe(ctx, o.Subscribe); err != nil {
		c.Close()
		return nil, fmt.Errorf("subscribe at broker %s: %w", o.URL.Redacted(), err)
	}
	go c.write()
	return c, nil
}

// write passes messages to the library, one at a time. The library may hold a message for writeTime
// after the connection was lost; nobody waits for that, and then this ends.
func (c *Client) write() {
	for {
		select {
		case <-c.down:
			return
		case m := <-c.out:
			// What fails here is lost, like any other; a broken connection is told by the handler.
			_ = c.client.Publish(m.topic, 0, false, m.payload)
		}
	}
}

func (c *Client) subscribe(ctx context.Context, topics []string) error {
	filters := map[string]byte{}
	for _, t := range topics {
		filters[t] = 0
	}
	token := c.client.SubscribeMultiple(filters, nil)
	if err := wait(ctx, token); err != nil {
		return err
	}
	for topic, code := range token.(*mqtt.SubscribeToken).Result() {
		if code == 0x80 {
			return fmt.Errorf("the broker does not allow %s", topic)
		}
	}
	return nil
}

func (c *Client) lose(err error) {
	c.once.Do(func() { close(c.down) })
	select {
	case c.lost <- err:
	default:
	}
}

// Lost gets an error when the connection is lost.
func (c *Client) Lost() <-chan error { return c.lost }

// Publish sends a message. It waits while an earlier one is being written, but not for a connection
// that is lost.
func (c *Client) Publish(topic string, payload []byte) error {
	select {
	case c.out <- message{topic, payload}:
		return nil
	case <-c.down:
		return errLost
	}
}

var errLost = errors.New("publish: the connection is lost")

// Close ends the connection.
func (c *Client) Close() {
	c.once.Do(func() { close(c.down) })
	c.client.Disconnect(100)
}

func wait(ctx context.Context, t mqtt.Token) error {
	limit := time.NewTimer(connectTime)
	defer limit.Stop()
	select {
	case <-t.Done():
		return t.Error()
	case <-ctx.Done():
		return ctx.Err()
	case <-limit.C:
		return errors.New("no answer in time")
	}
}

func dial(ctx context.Context, o Options) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	open := o.Dial
	if open == nil {
		// The kernel's keepalive would cost more than all else that an idle node sends.
		open = (&net.Dialer{KeepAlive: -1}).DialContext
	}
	conn, err := open(ctx, "tcp", o.URL.Host)
	if err != nil {
		return nil, err
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetWriteBuffer(sendBuffer)
	}
	if o.URL.Scheme == "mqtt" {
		return conn, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.TLS != nil {
		config = o.TLS.Clone()
	}
	if config.ServerName == "" {
		config.ServerName = o.URL.Hostname()
	}
	secure := tls.Client(conn, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return secure, nil
}
