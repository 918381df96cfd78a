package announce

import (
	"bytes"
	"net"
	"net/netip"
	"reflect"
	"testing"
)

func TestWireForms(t *testing.T) {
	b := beat{cluster: clusterTag("c"), node: "pi1", serves: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")}}
	if got, err := decodeBeat(b.encode()); err != nil || !reflect.DeepEqual(got, b) {
		t.Errorf("got %v, %v, want %v", got, err, b)
	}
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	a := netip.MustParseAddr("10.0.0.9")
	for _, frame := range claim(mac, a) {
		p, ok := decodeARP(frame)
		if !ok || p.senderIP != a || p.receiverIP != a || !bytes.Equal(p.sender, mac) || !bytes.Equal(p.to, broadcast) {
			t.Errorf("a claim reads as %+v", p)
		}
	}
	q := arp{to: broadcast, from: net.HardwareAddr{2, 0, 0, 0, 0, 2}, request: true, sender: net.HardwareAddr{2, 0, 0, 0, 0, 2}, senderIP: netip.MustParseAddr("10.0.0.7"), receiver: nobody, receiverIP: a}
	r, ok := decodeARP(answer(mac, q))
	if !ok || r.request || r.senderIP != a || r.receiverIP != q.senderIP || !bytes.Equal(r.to, q.sender) || !bytes.Equal(r.sender, mac) {
		t.Errorf("an answer reads as %+v", r)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(beat{node: "pi1", serves: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}.encode())
	f.Add(claim(net.HardwareAddr{2, 0, 0, 0, 0, 1}, netip.MustParseAddr("10.0.0.9"))[0])
	f.Fuzz(func(t *testing.T, in []byte) {
		if b, err := decodeBeat(in); err == nil && !bytes.Equal(b.encode(), in) {
			t.Errorf("%x is read as %+v", in, b)
		}
		if p, ok := decodeARP(in); ok && !bytes.Equal(p.encode(), in[:frameSize]) {
			t.Errorf("%x is read as %+v", in, p)
		}
	})
}
