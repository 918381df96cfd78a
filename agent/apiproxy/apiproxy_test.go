package apiproxy

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"syscall"
	"testing"
	"time"
)

func echo(t *testing.T, greeting string) net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				io.WriteString(c, greeting)
				io.Copy(c, c)
				c.Close()
			}()
		}
	}()
	return l
}

func proxy(t *testing.T, c Config) string {
	c.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := New(c).Serve(ctx, l); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return l.Addr().String()
}

func talk(t *testing.T, address string) string {
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(c, "hello")
	c.(*net.TCPConn).CloseWrite()
	b, err := io.ReadAll(c)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) { // a proxy that has nowhere to go hangs up without reading
		t.Fatal(err)
	}
	return string(b)
}

func TestStraightWay(t *testing.T) {
	server := echo(t, "direct:")
	got := talk(t, proxy(t, Config{
		Servers: func() []string { return []string{"https://" + server.Addr().String()} },
		Dial:    func(context.Context, string) (net.Conn, error) { return nil, errors.New("not needed") },
	}))
	if got != "direct:hello" {
		t.Errorf("%q", got)
	}
}

func TestOverTheLink(t *testing.T) {
	server := echo(t, "link:")
	closed, _ := net.Listen("tcp", "127.0.0.1:0")
	closed.Close()
	address := proxy(t, Config{
		Servers: func() []string { return []string{"https://" + closed.Addr().String()} },
		Dial: func(_ context.Context, target string) (net.Conn, error) {
			if target != "api" {
				t.Errorf("target %q", target)
			}
			return net.Dial("tcp", server.Addr().String())
		},
	})
	for range 2 {
		if got := talk(t, address); got != "link:hello" {
			t.Errorf("%q", got)
		}
	}
}

// TestOnePodTakesAll: what one opens beyond its share is closed, and the others are served.
func TestOnePodTakesAll(t *testing.T) {
	server := echo(t, "direct:")
	address := proxy(t, Config{Servers: func() []string { return []string{"https://" + server.Addr().String()} }})
	greeted := func(from string) (net.Conn, bool) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		c, err := d.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(10 * time.Second))
		_, err = io.ReadFull(c, make([]byte, len("direct:")))
		return c, err == nil
	}
	var last net.Conn
	for i := range maxOfOne {
		c, ok := greeted("127.0.0.2")
		if last = c; !ok {
			t.Fatalf("connection %d is not served", i)
		}
	}
	if _, ok := greeted("127.0.0.2"); ok {
		t.Error("one pod has more than its share")
	}
	if _, ok := greeted("127.0.0.3"); !ok {
		t.Error("another pod is not served")
	}
	last.Close()
	for range 100 {
		if _, ok := greeted("127.0.0.2"); ok {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("what a pod has closed still counts")
}

func TestNobodyThere(t *testing.T) {
	got := talk(t, proxy(t, Config{
		Servers: func() []string { return nil },
		Dial:    func(context.Context, string) (net.Conn, error) { return nil, errors.New("not connected") },
	}))
	if got != "" {
		t.Errorf("%q", got)
	}
}
