package carrier

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

func TestParseURL(t *testing.T) {
	for in, want := range map[string]string{
		"mqtts://server":           "mqtts://server:8883",
		"mqtt://server":            "mqtt://server:1883",
		"mqtts://u:p@10.0.0.1:443": "mqtts://u:p@10.0.0.1:443",
		"mqtts://[fd00::1]":        "mqtts://[fd00::1]:8883",
	} {
		if u, err := ParseURL(in); err != nil || u.String() != want {
			t.Errorf("%s: %v %v", in, u, err)
		}
	}
	for bad, want := range map[string]string{
		"server:8883": "did you mean mqtts://server:8883?", "10.99.0.1:8883": "did you mean mqtts://10.99.0.1:8883?", "foo": "mqtts://foo",
		"user:secret@server:8883": "mqtts://...@server:8883", "https://server": "mqtts://host:port", "mqtts://": "mqtts://host:port",
		"mqtts://a b": "mqtts://host:port", "mqtts://u:secret@a b": "mqtts://host:port", "mqtts://a:70000": "65535", "mqtts://a:0": "65535", "mqtts://a:x": "mqtts://host:port",
	} {
		u, err := ParseURL(bad)
		if err == nil {
			t.Errorf("%s became %v", bad, u)
		} else if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// TestPublishDoesNotWaitForALostConnection: the library waits for half a minute.
func TestPublishDoesNotWaitForALostConnection(t *testing.T) {
	near, far := net.Pipe()
	go broker(far)
	u, err := ParseURL("mqtt://server")
	if err != nil {
		t.Fatal(err)
	}
	c, err := Connect(context.Background(), Options{URL: u, ClientID: "c", Subscribe: []string{"t"}, Receive: func(string, []byte) {},
		Dial: func(context.Context, string, string) (net.Conn, error) { return near, nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	done := make(chan error, 1)
	go func() {
		for {
			if err := c.Publish("t", make([]byte, 32000)); err != nil {
				done <- err
				return
			}
		}
	}()
	time.Sleep(50 * time.Millisecond) // nobody reads: it waits
	_ = far.Close()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Fatal("Publish waits for a connection that is lost")
	}
}

// broker accepts a client and a subscription, and then reads no more.
func broker(conn net.Conn) {
	packet := func() []byte {
		head := make([]byte, 2)
		if _, err := io.ReadFull(conn, head); err != nil {
			return nil
		}
		body := make([]byte, head[1])
		_, _ = io.ReadFull(conn, body)
		return body
	}
	packet()
	_, _ = conn.Write([]byte{0x20, 2, 0, 0})
	if s := packet(); len(s) > 2 {
		_, _ = conn.Write([]byte{0x90, 3, s[0], s[1], 0})
	}
}
