package link

import (
	"bytes"
	"testing"
	"time"
)

// FuzzMessages: whatever an authentic peer says, nothing breaks, and the session still speaks.
func FuzzMessages(f *testing.F) {
	n := newNetwork(f, 5)
	src, stores := newSets(), emptyStores()
	fillSet(n.rand, src.node, "pods", 60, 400)
	fillSet(n.rand, src.status, "pods", 5, 400)
	n.connect(1, src, stores, nil)
	n.ends[atAgent].s.started = true
	server, agent := testKeys(1)
	n.log = func(to int, frame []byte) {
		k := server
		if to == atAgent {
			k = agent
		}
		o := opener{version: 1, session: 1, aead: newAEAD(k.Receive[:])}
		if b, _, err := o.open(frame); err == nil {
			f.Add(to == atAgent, b)
		}
	}
	st, err := n.ends[atAgent].s.Open("api")
	if err != nil {
		f.Fatal(err)
	}
	if _, err := st.Write([]byte("hello")); err != nil {
		f.Fatal(err)
	}
	n.run(time.Minute, n.inStep(src))
	f.Fuzz(func(t *testing.T, toAgent bool, messages []byte) {
		n := newNetwork(t, 6)
		src, stores := newSets(), emptyStores()
		fillSet(n.rand, src.node, "pods", 60, 40)
		n.connect(1, src, stores, func(st *Stream) { _ = st.Close() })
		n.ends[atAgent].s.started = true
		to := atServer
		if toAgent {
			to = atAgent
		}
		n.run(time.Second, nil)
		n.cut = true
		seal := &n.ends[1-to].s.seal
		_ = n.ends[to].s.Receive(seal.seal(messages), n.now)
		n.pump()
		_ = n.ends[to].s.Receive(seal.seal(messages), n.now)
		n.run(3*time.Second, nil)
		n.cut = false
		n.ends[atAgent].s.Resume()
		// What a peer says of itself may be wrong, but what this side holds may not.
		if src.node.Len() != 60 {
			t.Fatal("the source's set changed")
		}
		n.run(5*time.Second, nil)
	})
}

// FuzzFrames: what anybody may send.
func FuzzFrames(f *testing.F) {
	h := newHandshake(f)
	i, err := NewInitiator(h.initiator)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(i.Frame())
	welcome, _, err := h.responder.Receive(NodePlace("pi1"), i.Frame(), handshakeNow)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(welcome)
	if err := i.Receive(welcome); err != nil {
		f.Fatal(err)
	}
	f.Add(i.Frame())
	f.Add(Reject(RejectSession, 7))
	server, _ := testKeys(1)
	session := NewSession(SessionConfig{Keys: server, Sources: map[SetID]*Set{NodeSet: NewSet()}})
	sealed := sealer{version: 1, session: 1, aead: newAEAD(server.Receive[:])}
	f.Add(sealed.seal([]byte{typePong, 0}))
	f.Fuzz(func(t *testing.T, frame []byte) {
		if _, agent, _ := h.responder.Receive(NodePlace("pi1"), frame, handshakeNow); agent != nil && !bytes.Equal(frame, i.Frame()) {
			t.Fatal("an agent from a frame that nobody made")
		}
		other, err := NewInitiator(h.initiator)
		if err != nil {
			t.Fatal(err)
		}
		if other.Receive(frame) == nil {
			t.Fatal("a welcome that nobody made")
		}
		_ = session.Receive(frame, handshakeNow)
		_, _ = AsRejected(frame)
		_, _ = SessionOf(frame)
	})
}

// FuzzItems: what is decoded is what was encoded.
func FuzzItems(f *testing.F) {
	m := items{set: NodeSet, id: 3, last: true, root: Digest{1}, drops: []drop{{1, 2}}, changes: []Change{{Key: "a", Value: []byte("b")}, {Key: "gone"}, {Key: "empty", Value: []byte{}}}}
	f.Add(m.encode(deflateStrong))
	f.Add(m.encode(deflateSmall))
	f.Add(m.encode(func([]byte) []byte { return nil }))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeItems(b, inflate)
		if err != nil {
			return
		}
		again, err := decodeItems(m.encode(func([]byte) []byte { return nil }), inflate)
		if err != nil {
			t.Fatal(err)
		}
		if len(again.changes) != len(m.changes) || again.id != m.id || again.root != m.root || len(again.drops) != len(m.drops) {
			t.Fatalf("%+v became %+v", m, again)
		}
		for i := range m.changes {
			a, b := m.changes[i], again.changes[i]
			if a.Key != b.Key || !bytes.Equal(a.Value, b.Value) || (a.Value == nil) != (b.Value == nil) {
				t.Fatalf("%+v became %+v", a, b)
			}
		}
	})
}

// FuzzReports: the values of items.
func FuzzReports(f *testing.F) {
	pod, err := (&PodReport{UID: "u", Terminated: true}).Encode()
	if err != nil {
		f.Fatal(err)
	}
	node, err := (&NodeReport{Labels: map[string]string{"a": "b"}, Platforms: map[string][]string{"x:1": {"linux/arm"}}}).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(pod)
	f.Add(node)
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := DecodePodReport(b); err == nil {
			if again, err := r.Encode(); err != nil {
				t.Fatal(err)
			} else if _, err := DecodePodReport(again); err != nil {
				t.Fatal(err)
			}
		}
		if r, err := DecodeNodeReport(b); err == nil {
			if again, err := r.Encode(); err != nil {
				t.Fatal(err)
			} else if _, err := DecodeNodeReport(again); err != nil {
				t.Fatal(err)
			}
		}
		_, _ = DecodePeer(b)
		_, _ = DecodeClusterConfig(b)
	})
}

// FuzzTopics: topics that others choose.
func FuzzTopics(f *testing.F) {
	topics := Topics{Cluster: "0123456789"}
	f.Add(topics.Up(NodePlace("pi1")))
	f.Add(topics.Down(JoinPlace("aa")))
	f.Add(topics.Gone(NodePlace("pi1")))
	f.Fuzz(func(t *testing.T, topic string) {
		if place, leaf, ok := topics.Parse(topic); ok && topics.topic(place, leaf) != topic {
			t.Fatalf("%q is not %q %q", topic, place, leaf)
		}
	})
}
