package hostports

import (
	"net"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestWhatListensIsFound(t *testing.T) {
	wanted := map[Port]bool{}
	all, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer all.Close()
	own, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	udp, err := net.ListenPacket("udp4", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	tcpPort := Port{corev1.ProtocolTCP, uint16(all.Addr().(*net.TCPAddr).Port)}
	udpPort := Port{corev1.ProtocolUDP, uint16(udp.LocalAddr().(*net.UDPAddr).Port)}
	wanted[tcpPort], wanted[udpPort] = true, true
	wanted[Port{corev1.ProtocolTCP, uint16(own.Addr().(*net.TCPAddr).Port)}] = true
	got, err := Find("/proc", wanted)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0].Port != tcpPort || got[1].Port != udpPort || !strings.HasPrefix(got[0].Program, "hostports") {
		t.Errorf("got %v, want %v and %v of this test", got, tcpPort, udpPort)
	}
}

func FuzzListening(f *testing.F) {
	f.Add("   0: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12345 1 0 100 0 0 10 0")
	f.Add("   0: 00000000000000000000000001000000:0277 0:0 0A 0 0 0 0 0 1")
	f.Fuzz(func(t *testing.T, line string) {
		if _, inode, ok := listening(line, "0A"); ok && inode == "" {
			t.Errorf("%q gives nothing", line)
		}
	})
}
