package hosts

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestHostsShareOnlyTheLink(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	lab, err := New(Options{Hosts: 2, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
		left, _ := filepath.Glob("/sys/fs/cgroup/*/" + lab.name)
		if len(left) > 0 {
			t.Errorf("cgroups left behind: %v", left)
		}
		if _, err := net.InterfaceByName(lab.uplink); err == nil {
			t.Errorf("interface %s left behind", lab.uplink)
		}
	})
	a, b := lab.Hosts[0], lab.Hosts[1]
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	run := func(h *Host, argv ...string) string {
		t.Helper()
		out, err := h.Run(ctx, argv...)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(out)
	}
	if got := run(a, "hostname"); got != "host1" {
		t.Errorf("host name %q", got)
	}
	if got := run(a, "sh", "-c", "echo a >/var/lib/bramble/x; ls /var/lib/bramble; ls /proc | grep -c '^[0-9]'"); !strings.HasPrefix(got, "x\n") || len(got) > len("x\n99") {
		t.Errorf("data folder and processes: %q", got)
	}
	if got := run(b, "ls", "/var/lib/bramble"); got != "" {
		t.Errorf("host 2 sees host 1's data: %q", got)
	}
	if got := run(a, "cat", "/proc/self/cgroup"); strings.Contains(got, "bramble-lab") || strings.Contains(got, "/..") {
		t.Errorf("a host sees more than its own cgroup:\n%s", got)
	}
	connects(t, ctx, lab)
	cutsAndRestores(t, ctx, lab)
	killedIsGone(t, a)
}

// connects: hosts reach each other and the root namespace reaches them.
func connects(t *testing.T, ctx context.Context, lab *Lab) {
	t.Helper()
	l, err := lab.Hosts[1].Listen("tcp", lab.Hosts[1].IP.String()+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for name, dial := range map[string]func(context.Context, string, string) (net.Conn, error){"host 1": lab.Hosts[0].Dial, "root": (&net.Dialer{}).DialContext} {
		c, err := dial(ctx, "tcp", l.Addr().String())
		if err != nil {
			t.Errorf("%s does not reach host 2: %v", name, err)
			continue
		}
		c.Close()
	}
}

func cutsAndRestores(t *testing.T, ctx context.Context, lab *Lab) {
	t.Helper()
	b := lab.Hosts[1]
	l, err := b.Listen("tcp", b.IP.String()+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	reach := func() bool {
		ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		defer cancel()
		c, err := lab.Hosts[0].Dial(ctx, "tcp", l.Addr().String())
		if err == nil {
			c.Close()
		}
		return err == nil
	}
	if err := b.Cut(); err != nil {
		t.Fatal(err)
	}
	if reach() {
		t.Error("host 2 answers without a cable")
	}
	if err := b.Restore(); err != nil {
		t.Fatal(err)
	}
	for i := 0; !reach(); i++ {
		if i == 20 {
			t.Fatal("host 2 does not answer after its cable is back")
		}
	}
	traffic, err := b.Traffic()
	if err != nil || traffic.Received == 0 || traffic.Sent == 0 {
		t.Errorf("traffic %+v, %v", traffic, err)
	}
}

func killedIsGone(t *testing.T, h *Host) {
	t.Helper()
	p, err := h.Start("sleeper", "A=b", "sh", "-c", "echo $A; exec sleep 100")
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; !strings.Contains(p.Tail(1), "b"); i++ {
		if i == 100 {
			t.Fatalf("log: %q", p.Tail(5))
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if !p.Ended() {
		t.Error("still there after SIGKILL")
	}
}

func TestSlowLinkIsSlow(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		buf := make([]byte, 64<<10)
		for {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			if _, err := c.Write(buf[:n]); err != nil {
				return
			}
		}
	}()
	s, err := NewSlowLink("127.0.0.1:0", l.Addr().String(), 1_000_000, 100*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c, err := net.Dial("tcp", s.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	began := time.Now()
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(began); d < 200*time.Millisecond || d > 600*time.Millisecond {
		t.Errorf("a byte there and back took %s, want 200 ms", d)
	}
	began = time.Now()
	const size = 125_000 // one second of 1 Mbit/s
	go func() { _, _ = c.Write(make([]byte, size)) }()
	for got, buf := 0, make([]byte, 32<<10); got < size; {
		n, err := c.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		got += n
	}
	if d := time.Since(began); d < time.Second || d > 3*time.Second {
		t.Errorf("one second's worth took %s", d)
	}
}
