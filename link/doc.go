// Package link is what a server and its agents say to each other.
//
// What both must agree on is held in sets: a Set is a collection of items, each a key and a value,
// and the version of an item is a hash of its value. One side is the source of a set, the other
// keeps a replica, and a Session brings the replica up to date over a transport that may lose,
// repeat and reorder what it carries (MQTT does). Both sides compare digests; what differs is sent.
// There is no other path: a first contact, a restart, a lost message and an ordinary change all go
// through it. Streams of bytes share the session with the sets and give way to them.
//
// Invariants: everything between the two ends is sealed and authenticated (see Initiator and
// Responder), so that who carries it can only delay or lose it; what a peer can make this package
// hold in memory is bounded; nothing here does I/O or reads a clock, but for Splice: a driver passes
// the time, payloads that arrived, and sends what Next returns.
//
//	set := link.NewSet()
//	set.Put("configmaps/default/motd", value)
//	session := link.NewSession(link.SessionConfig{Keys: keys, Sources: map[link.SetID]*link.Set{link.NodeSet: set}})
//	for d, ok := session.Next(now); ok; d, ok = session.Next(now) {
//		transport.Send(d)
//	}
//
// The protocol is written down in docs/protocol.md.
package link
