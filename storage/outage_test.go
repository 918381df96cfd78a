package storage

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bramble.dev/internal/mountinfo"
)

// What Debian's kernel 6.1 says of two mounts of one server, shortened.
const stats = `device proc mounted on /proc with fstype proc
no device mounted on /none with fstype tmpfs
device nas:/srv/data mounted on /var/lib/a\040b/uid/data with fstype nfs4 statvers=1.1
	opts:	rw,vers=4.2,rsize=65536,hard,proto=tcp,timeo=600,retrans=2,sec=sys,clientaddr=10.99.0.2,local_lock=none
	age:	12
	nfsv4:	bm0=0xfdffbfff,bm1=0x40fdbe3e,bm2=0x60803,acl=0x3,sessions,pnfs=not configured,lease_time=90,lease_expired=0
	sec:	flavor=1,pseudoflavor=1
	RPC iostats version: 1.1  p/v: 100003/4 (nfs)
	xprt:	tcp 0 0 2 0 0 92 91 0 197 0 21 246 85
	xprt:	tcp 0 0 1 0 0 8 8 0 197 0 21 246 85
	per-op statistics
	        READ: 1 1 0 200 300 0 1 1 0
device nas:/old mounted on /old with fstype nfs statvers=1.1
	xprt:	tcp 832 1 7 0 0 11 11 0 11 0
device nas:/srv/soft mounted on /soft with fstype nfs4 statvers=1.1
	opts:	rw,vers=4.2,softerr,proto=tcp
	xprt:	udp 1 2 3 4
	xprt:	tcp 0 0 x 0 0 92 91
device tmpfs mounted on /run with fstype tmpfs
	opts:	rw,soft
`

func TestParseMountStats(t *testing.T) {
	got, err := parseMountStats(strings.NewReader(stats))
	want := []mountStats{
		{at: "/var/lib/a b/uid/data", lease: 90, connected: 3, sent: 100, received: 99},
		{at: "/soft", soft: true},
	}
	if err != nil || len(got) != len(want) {
		t.Fatalf("got %+v, %v", got, err)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("got %+v, want %+v", got[i], want[i])
		}
	}
}

func FuzzParseMountStats(f *testing.F) {
	f.Add([]byte(stats))
	f.Add([]byte("device  mounted on  with fstype nfs4\nxprt: tcp 1 2 3 4 5 18446744073709551615 9"))
	f.Fuzz(func(t *testing.T, b []byte) {
		all, err := parseMountStats(bytes.NewReader(b))
		if err != nil {
			return
		}
		if n := bytes.Count(b, []byte("device ")); len(all) > n {
			t.Errorf("%d mounts of %d devices", len(all), n)
		}
	})
}

func FuzzMountPoint(f *testing.F) {
	f.Add([]byte(`36 25 0:29 / /a\040b rw,relatime shared:1 - nfs4 nas:/srv/data rw,vers=4.2,addr=10.99.0.1`))
	f.Add([]byte("36 25 0:29 / /a - x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		all, _ := mountinfo.Parse(bytes.NewReader(b))
		for _, m := range all {
			_, _ = mountPoint{m}.server(), mountPoint{m}.option("addr")
		}
	})
}

// What becomes of a mount's counters, look after look, and what is concluded.
func TestVigil(t *testing.T) {
	type look struct {
		at             time.Duration
		sent, received uint64
		connected      uint64
		answers        bool // if it is asked
		want           string
	}
	tests := []struct {
		name  string
		looks []look
	}{
		{"a busy server is asked once, when nothing is known of it", []look{
			{0, 10, 9, 1, true, "asked"}, {5, 20, 20, 1, false, ""}, {60, 90, 89, 1, false, ""}, {65, 95, 94, 1, false, ""},
		}},
		{"an idle one is not, as long as the lease is renewed", []look{
			{0, 10, 10, 1, true, "asked"}, {60, 11, 11, 1, false, ""}, {120, 12, 12, 1, false, ""}, {180, 13, 13, 1, false, ""},
		}},
		{"a call without an answer", []look{
			{0, 10, 10, 1, true, "asked"}, {5, 11, 10, 1, false, ""}, {10, 11, 10, 1, false, "asked"}, {15, 11, 10, 1, false, "asked begins"},
			{20, 12, 10, 1, false, ""}, {300, 13, 10, 1, false, ""}, {305, 15, 12, 2, false, "over"}, {310, 17, 14, 2, false, ""}, {330, 17, 14, 2, false, ""},
		}},
		{"what a broken connection lost is not waited for", []look{
			{0, 10, 10, 1, true, "asked"}, {5, 15, 12, 2, false, ""}, {20, 15, 12, 2, false, ""}, {40, 16, 12, 2, true, "asked"}, {60, 16, 12, 2, true, ""},
		}},
		{"a lease that is not renewed", []look{
			{0, 10, 10, 1, true, "asked"}, {60, 10, 10, 1, true, ""}, {95, 10, 10, 1, true, ""}, {200, 11, 11, 1, true, ""},
			{299, 11, 11, 1, false, ""}, {301, 11, 11, 1, false, "asked"}, {306, 11, 11, 1, false, "asked begins"}, {400, 12, 12, 1, false, "over"},
		}},
		{"one refusal is no outage", []look{
			{0, 10, 10, 1, false, "asked"}, {5, 10, 10, 1, true, "asked"}, {10, 10, 10, 1, false, ""}, {15, 10, 10, 1, false, ""},
		}},
	}
	start := time.Now()
	for _, tt := range tests {
		v := &vigil{}
		for _, l := range tt.looks {
			now := start.Add(l.at * time.Second)
			ask, over := v.look(mountStats{lease: 90, sent: l.sent, received: l.received, connected: l.connected}, now)
			got := ""
			if ask {
				got = "asked"
				if v.answered(l.answers, now) {
					got += " begins"
				}
			}
			if over {
				got += "over"
			}
			if got != l.want {
				t.Errorf("%s: after %d s: %q, want %q", tt.name, l.at, got, l.want)
			}
		}
	}
}

// A server that listens and says what a test wants.
func replies(t *testing.T, reply func(call []byte) []byte) (host, port string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() { // ends with the listener
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			call := make([]byte, 44)
			if _, err := io.ReadFull(conn, call); err == nil {
				_, _ = conn.Write(reply(call))
			}
			conn.Close()
		}
	}()
	host, port, _ = net.SplitHostPort(l.Addr().String())
	return host, port
}

func words(list ...uint32) []byte {
	b := binary.BigEndian.AppendUint32(nil, lastFragment|uint32(4*len(list)))
	for _, w := range list {
		b = binary.BigEndian.AppendUint32(b, w)
	}
	return b
}

func TestAsk(t *testing.T) {
	id := func(call []byte) uint32 { return binary.BigEndian.Uint32(call[4:]) }
	tests := []struct {
		name  string
		reply func([]byte) []byte
		want  string // part of the error
		away  bool
	}{
		{"it serves", func(c []byte) []byte { return words(id(c), 1, 0, 0, 0, 0) }, "", false},
		{"with a verifier", func(c []byte) []byte { return words(id(c), 1, 0, 1, 5, 7, 7, 0) }, "", false},
		{"an old one", func(c []byte) []byte { return words(id(c), 1, 0, 0, 0, 2, 2, 3) }, "speaks NFS version 3 at most", false},
		{"denied", func(c []byte) []byte { return words(id(c), 1, 1, 0, 0, 0) }, "no NFS server", false},
		{"another's reply", func(c []byte) []byte { return words(id(c)+1, 1, 0, 0, 0, 0) }, "no NFS server", false},
		{"short", func(c []byte) []byte { return words(id(c)) }, "no NFS server", false},
		{"a long verifier", func(c []byte) []byte { return words(id(c), 1, 0, 0, 0xffffffff, 0) }, "no NFS server", false},
		{"a web server", func([]byte) []byte { return []byte("HTTP/1.0 400 Bad Request\r\n\r\n") }, "does not answer", true},
		{"nothing", func([]byte) []byte { return nil }, "does not answer", true},
	}
	for _, tt := range tests {
		host, port := replies(t, tt.reply)
		err := ask(t.Context(), "nas", host, port)
		if tt.want == "" && err == nil {
			continue
		}
		if err == nil || tt.want == "" || !strings.Contains(err.Error(), tt.want) || errors.Is(err, errAway) != tt.away {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host, port, _ := net.SplitHostPort(l.Addr().String())
	l.Close()
	if err := ask(t.Context(), "nas", host, port); err == nil || !strings.Contains(err.Error(), "nas (127.0.0.1) refuses connections on port "+port) {
		t.Errorf("nobody listens: %v", err)
	}
}

func FuzzUnderstand(f *testing.F) {
	f.Add(words(7, 1, 0, 0, 0, 0)[4:])
	f.Add(words(7, 1, 0, 0, 8, 1, 2, 2, 2, 3)[4:])
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := understand(b, 7); err == nil && len(b) < 24 {
			t.Errorf("%x is taken for an answer", b)
		}
	})
}

// What hangs for one server delays nobody else, and is never begun twice.
func TestRemote(t *testing.T) {
	r := newRemote()
	hang := make(chan struct{})
	defer close(hang)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	for _, about := range []string{"1", "2", "3", "4", "5", "1"} {
		if err := r.do(ctx, "dead", about, func() error { <-hang; return nil }); !errors.Is(err, errAway) {
			t.Errorf("%s: %v", about, err)
		}
	}
	if err := r.do(t.Context(), "alive", "6", func() error { return os.ErrExist }); !errors.Is(err, os.ErrExist) {
		t.Errorf("another server: %v", err)
	}
	if err := r.do(t.Context(), "", "7", func() error { return nil }); err != nil {
		t.Errorf("what ends something: %v", err)
	}
}

// The kernel's client gets a name that it keeps, and keeps one that it has.
func TestClientName(t *testing.T) {
	v := open(t, &cluster{})
	file := filepath.Join(t.TempDir(), "identifier")
	name := func(before string) string {
		t.Helper()
		if err := os.WriteFile(file, []byte(before), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := v.setClientName(file); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	first := name("(null)\n")
	if !strings.HasPrefix(first, "bramble-") || name("") != first {
		t.Errorf("the client is called %q, later otherwise", first)
	}
	if err := v.Sweep(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if again := name("(null)\n"); again != first {
		t.Errorf("after a sweep it is called %q, and was %q", again, first)
	}
	if got := name("mine\n"); got != "mine\n" {
		t.Errorf("a name that somebody gave became %q", got)
	}
	if err := v.setClientName(filepath.Join(t.TempDir(), "none")); err != nil {
		t.Errorf("an older kernel: %v", err)
	}
}

// A pod that goes while something of it is still being mounted: its folder goes, and what is mounted later finds no place.
func TestUnmountWhileMounting(t *testing.T) {
	v := open(t, &cluster{})
	at := filepath.Join(v.podDir("uid-1"), "v")
	if err := os.MkdirAll(at, 0o750); err != nil {
		t.Fatal(err)
	}
	hang := make(chan struct{})
	defer close(hang)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := v.remote.do(ctx, "dead", mounting+at, func() error { <-hang; return nil }); !errors.Is(err, errAway) {
		t.Fatal(err)
	}
	// It comes true just now: nothing of it may be removed.
	server := t.TempDir()
	if err := os.WriteFile(filepath.Join(server, "data"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(server, at, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	if err := v.Unmount(t.Context(), "uid-1"); err == nil {
		t.Error("the folder was removed while something was being mounted in it")
	}
	if err := unix.Unmount(at, 0); err != nil {
		t.Fatal(err)
	}
	if err := v.Unmount(t.Context(), "uid-1"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(server, "data")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(v.podDir("uid-1")); !os.IsNotExist(err) {
		t.Errorf("the pod's folder is left: %v", err)
	}
}
