// Package broker gives the server its place on an MQTT broker: one that runs inside the server, or
// any other that the operator names.
//
// Invariant: a broker is trusted with nothing but delivery. What it carries is sealed by package
// link; what it loses is found by digests. So nothing is retained, sessions are clean, queues are
// short, and a full queue drops. The embedded broker also keeps clients apart: a node publishes and
// subscribes at its own place only, a client without a certificate may do nothing but join.
//
//	t, err := broker.Embedded(broker.EmbeddedConfig{Listener: l, Certificate: cert, Roots: ca, Cluster: id})
//	t.Receive(func(topic string, payload []byte) { queue.put(topic, payload) })
//	go t.Run(ctx)
//	t.Publish(topics.Down(link.NodePlace("pi1")), frame)
package broker

import "context"

// Transport carries frames between the server and its agents, or loses them.
type Transport interface {
	// Receive sets what is called for every message to the server. It must not block. It is
	// called before Run.
	Receive(func(topic string, payload []byte))
	// Publish sends a message. It does not wait for the receiver.
	Publish(topic string, payload []byte) error
	// Run works until ctx is done.
	Run(ctx context.Context) error
}
