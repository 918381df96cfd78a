package broker

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"bramble.dev/link"
)

// rules decide who may connect, and what a client may publish and subscribe: its own place.
type rules struct {
	mqtt.HookBase
	topics link.Topics
	roots  *x509.CertPool
	log    *slog.Logger

	places sync.Map // *mqtt.Client -> string
}

func (r *rules) ID() string { return "rules" }

func (r *rules) Provides(b byte) bool {
	return bytes.IndexByte([]byte{mqtt.OnConnect, mqtt.OnConnectAuthenticate, mqtt.OnACLCheck, mqtt.OnPublish, mqtt.OnDisconnect}, b) >= 0
}

var errRefused = errors.New("broker: connection refused")

// OnConnect refuses what this broker does not do: sessions that outlive a connection, wills at
// other places, retained messages.
func (r *rules) OnConnect(cl *mqtt.Client, pk packets.Packet) error {
	place, err := r.place(cl)
	if err != nil {
		r.log.Info("broker refused a client", "remote", cl.Net.Remote, "err", err)
		return errRefused
	}
	if !pk.Connect.Clean || !link.IsClientOf(pk.Connect.ClientIdentifier, r.topics.Cluster, place) {
		return errRefused
	}
	will := pk.Connect.WillFlag
	if will && (pk.Connect.WillTopic != r.topics.Gone(place) || len(pk.Connect.WillPayload) > 1 || pk.Connect.WillRetain || pk.Connect.WillQos > 0) {
		return errRefused
	}
	r.places.Store(cl, place)
	return nil
}

// place is the part of the topics that a client may use.
func (r *rules) place(cl *mqtt.Client) (string, error) {
	conn, ok := cl.Net.Conn.(*tls.Conn)
	if !ok {
		return "", errors.New("no TLS")
	}
	certificates := conn.ConnectionState().PeerCertificates
	if len(certificates) == 0 {
		// It may join: at a place that its client id names.
		id, ok := strings.CutPrefix(cl.ID, link.ClientID(r.topics.Cluster, link.JoinPlace("")))
		if !ok || !link.IsJoinID(id) {
			return "", errors.New("a client without a certificate may only join")
		}
		return link.JoinPlace(id), nil
	}
	c, err := link.VerifyNodeCertificate(certificates[0].Raw, r.roots, time.Now())
	if err != nil {
		return "", err
	}
	return link.NodePlace(c.Name), nil
}

// OnConnectAuthenticate: OnConnect has decided.
func (r *rules) OnConnectAuthenticate(cl *mqtt.Client, _ packets.Packet) bool {
	_, ok := r.places.Load(cl)
	return ok
}

// OnACLCheck allows a client its own topics.
func (r *rules) OnACLCheck(cl *mqtt.Client, topic string, write bool) bool {
	place, ok := r.places.Load(cl)
	if !ok {
		return false
	}
	if write {
		return topic == r.topics.Up(place.(string))
	}
	return topic == r.topics.Down(place.(string))
}

// OnPublish drops what would be retained.
func (r *rules) OnPublish(_ *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	if pk.FixedHeader.Retain {
		return pk, packets.ErrRejectPacket
	}
	return pk, nil
}

// OnDisconnect forgets a client.
func (r *rules) OnDisconnect(cl *mqtt.Client, _ error, _ bool) { r.places.Delete(cl) }
