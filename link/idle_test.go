package link

import (
	"testing"
	"time"
)

// TestIdleTraffic holds the budget of an idle node on the wire: 1 KiB a minute, everything included.
func TestIdleTraffic(t *testing.T) {
	n := newNetwork(t, 1)
	src, stores := newSets(), emptyStores()
	fillSet(n.rand, src.shared, "services", 30, 500)
	fillSet(n.rand, src.status, "pods", 30, 500)
	n.connect(1, src, stores, nil)
	n.ends[atAgent].s.started = true
	if !n.run(time.Minute, n.inStep(src)) {
		t.Fatal("not in step")
	}
	n.run(time.Minute, nil)
	topic := len((Topics{Cluster: "0123456789"}).Down(NodePlace("raspberrypi")))
	const (
		ethernet = 14
		ip       = 20
		tcp      = 32 // with timestamps
		tls      = 5 + 1 + 16
		mqtt     = 2 + 2
	)
	frames, size := 0, 0
	n.log = func(_ int, frame []byte) {
		frames++
		size += ethernet + ip + tcp + tls + mqtt + topic + len(frame)
	}
	const minutes = 10
	n.run(minutes*time.Minute, nil)
	acks := frames / 2 // the answer carries the acknowledgement of the question, and is acknowledged
	size += acks * (ethernet + ip + tcp)
	t.Logf("%d frames in %d minutes, %d bytes a minute", frames, minutes, size/minutes)
	if size/minutes > 1024 {
		t.Errorf("%d bytes a minute", size/minutes)
	}
	if heard := n.now.Sub(n.ends[atServer].s.LastHeard()); heard > KeepaliveInterval+time.Second {
		t.Errorf("the server has heard nothing for %v", heard)
	}
}

// TestADeadConnectionInUse: what is sent again and again into a connection that leads nowhere does not put off the question whether
// somebody is there.
func TestADeadConnectionInUse(t *testing.T) {
	n := newNetwork(t, 1)
	src, stores := newSets(), emptyStores()
	fillSet(n.rand, src.status, "pods", 30, 500)
	n.connect(1, src, stores, nil)
	n.ends[atAgent].s.started = true
	if !n.run(time.Minute, n.inStep(src)) {
		t.Fatal("not in step")
	}
	n.run(time.Second, nil)
	n.cut = true
	begun := n.now
	for i := range 20 {
		src.status.Put("node", []byte{byte(i)})
		n.run(3*time.Second, nil)
		if n.ends[atAgent].s.Silent(n.now) {
			break
		}
	}
	if took := n.now.Sub(begun); took > KeepaliveInterval+pongTime+3*time.Second {
		t.Errorf("the agent noticed after %v", took)
	}
}
