package dispatch_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"bramble.dev/agent/uplink"
	"bramble.dev/link"
	"bramble.dev/server/auth"
	"bramble.dev/server/dispatch"
)

// refusal waits for the end of a board that nobody lets in, and checks that the error says what to do.
func (b *board) refusal(t *testing.T, remedy string) {
	t.Helper()
	select {
	case err := <-b.ended:
		b.ended <- err
		var refusal *link.Refusal
		if !errors.As(err, &refusal) || !strings.Contains(err.Error(), remedy) {
			t.Fatalf("error does not name %q: %v", remedy, err)
		}
		t.Log(err)
	case <-time.After(10 * time.Second):
		t.Fatal("not refused")
	}
}

func (c *cluster) instance(name string) string {
	n, err := c.client.CoreV1().Nodes().Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		return ""
	}
	return n.Annotations[dispatch.InstanceAnnotation]
}

func TestTokensThatAreRefused(t *testing.T) {
	c := newCluster(t)
	c.start()
	expired := must[string](t)(auth.NewJoinToken(context.Background(), c.client, time.Nanosecond, c.pki.CAHash()))
	parts := strings.Split(c.token, ".")
	tests := map[string]struct{ token, remedy string }{
		"wrong secret": {strings.Join(append(parts[:3:3], strings.Repeat("a", 16)), "."), "secret"},
		"unknown":      {strings.Join([]string{parts[0], parts[1], "zzzzzz", parts[3]}, "."), "bramble token create"},
		"expired":      {expired, "bramble token create"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			b := c.board("pi1")
			b.start(c, test.token)
			b.refusal(t, test.remedy)
			if _, err := os.Stat(filepath.Join(b.dir, "node.crt")); err == nil {
				t.Error("something half-done was left")
			}
		})
	}
	t.Run("malformed", func(t *testing.T) {
		_, err := uplink.Open(context.Background(), uplink.Config{Brokers: []string{c.url}, Dir: t.TempDir(), NodeName: "pi1", Token: "bramble1.x"})
		if err == nil || !strings.Contains(err.Error(), "bramble token create") {
			t.Error(err)
		}
	})
	t.Run("of another cluster", func(t *testing.T) {
		other := newCluster(t)
		b := c.board("pi1")
		b.start(c, other.token)
		time.Sleep(300 * time.Millisecond)
		if b.u.Connected() || c.instance("pi1") != "" {
			t.Error("joined with a token of another cluster")
		}
	})
	t.Run("bad name", func(t *testing.T) {
		_, err := uplink.Open(context.Background(), uplink.Config{Brokers: []string{c.url}, Dir: t.TempDir(), NodeName: "Pi 1", Token: c.token})
		if err == nil || !strings.Contains(err.Error(), "lower-case") {
			t.Error(err)
		}
	})
}

func TestTwoBoardsOfOneName(t *testing.T) {
	overBrokers(t, func(t *testing.T, c *cluster) {
		c.start()
		first := c.board("raspberrypi")
		first.start(c, c.token)
		eventually(t, "first board", first.u.Connected)
		c.pod("p", "raspberrypi")
		eventually(t, "pod", func() bool { return first.has("node", "pods/default/p") })
		second := c.board("raspberrypi")
		second.start(c, c.token)
		second.refusal(t, "--node-name")
		if !first.u.Connected() || c.instance("raspberrypi") != first.u.Instance() || second.sets["node"].Len() > 0 {
			t.Error("the first board was disturbed")
		}

		// The name is free once the Node is deleted and its board is gone; a reflashed board is a new
		// instance, and what ran on the old one is gone.
		first.wires.set(true)
		if err := first.stop(); err != nil {
			t.Error(err)
		}
		first.wires.set(false)
		eventually(t, "first board is offline", func() bool {
			online, _ := c.dispatcher.Online("raspberrypi")
			return !online
		})
		third := c.board("raspberrypi")
		third.start(c, c.token)
		eventually(t, "reflashed board", third.u.Connected)
		if c.instance("raspberrypi") != third.u.Instance() {
			t.Error("the Node is not the new board's")
		}
		eventually(t, "synced", func() bool { return third.u.Synced("node") })
		if third.has("node", "pods/default/p") {
			t.Error("the new board got the old one's pod")
		}
		if _, err := c.client.CoreV1().Pods("default").Get(context.Background(), "p", metav1.GetOptions{}); err == nil {
			t.Error("the pod of the old board is still there")
		}

		// The old board wakes up.
		first.start(c, "")
		time.Sleep(500 * time.Millisecond)
		if first.u.Connected() || !third.u.Connected() {
			t.Error("the old board took its name back")
		}
	})
}

func TestNodeThatWasDeletedComesBack(t *testing.T) {
	c := newCluster(t)
	c.start()
	b := c.board("pi1")
	b.start(c, c.token)
	eventually(t, "connected", b.u.Connected)
	_ = b.stop()
	if err := c.client.CoreV1().Nodes().Delete(context.Background(), "pi1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	b.start(c, "")
	eventually(t, "connected and registered", func() bool { return b.u.Connected() && c.instance("pi1") == b.u.Instance() })
}

func TestCopiedCard(t *testing.T) {
	c := newCluster(t)
	c.start()
	b := c.board("pi1")
	b.start(c, c.token)
	eventually(t, "connected", b.u.Connected)
	_ = b.stop()
	// A copy of the data folder, older than the board's newest session.
	twin := c.board("pi1")
	if err := os.CopyFS(twin.dir, os.DirFS(b.dir)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		b.start(c, "")
		eventually(t, "connected", b.u.Connected)
		_ = b.stop()
	}
	if err := os.WriteFile(filepath.Join(twin.dir, "session"), []byte("1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	twin.start(c, "")
	time.Sleep(500 * time.Millisecond)
	if twin.u.Connected() {
		t.Error("a copied card was let in with an old counter")
	}
	_ = twin.stop()
	b.start(c, "")
	eventually(t, "the board itself", b.u.Connected)
}

func TestFolderOfAnotherNode(t *testing.T) {
	c := newCluster(t)
	c.start()
	b := c.board("pi1")
	b.start(c, c.token)
	eventually(t, "connected", b.u.Connected)
	_ = b.stop()
	load := func(string) (*link.Set, error) { return link.NewSet(), nil }
	_, err := uplink.Open(context.Background(), uplink.Config{Brokers: []string{c.url}, Dir: b.dir, NodeName: "pi2", Load: load})
	if err == nil || !strings.Contains(err.Error(), "another data folder") {
		t.Error(err)
	}
	_, err = uplink.Open(context.Background(), uplink.Config{Brokers: []string{c.url}, Dir: b.dir, NodeName: "pi1", Token: newCluster(t).token, Load: load})
	if err == nil || !strings.Contains(err.Error(), "bramble reset") {
		t.Error(err)
	}
	_, err = uplink.Open(context.Background(), uplink.Config{Brokers: []string{c.url}, Dir: t.TempDir(), NodeName: "pi1", Load: load})
	if err == nil || !strings.Contains(err.Error(), "bramble token create") {
		t.Error(err)
	}
}

// TestRenewal: a certificate is renewed in the running process, for the same key.
func TestRenewal(t *testing.T) {
	c := newCluster(t)
	c.start()
	b := c.board("pi1")
	b.start(c, c.token)
	eventually(t, "connected", b.u.Connected)
	_ = b.stop()
	path := filepath.Join(b.dir, "node.crt")
	before := must[[]byte](t)(os.ReadFile(path))
	b.floor = func() time.Time { return time.Now().Add(300 * 24 * time.Hour) } // it believes that the end is near
	b.start(c, "")
	eventually(t, "renewed", func() bool {
		after, err := os.ReadFile(path)
		return err == nil && !bytes.Equal(before, after)
	})
	_ = b.stop()
	b.floor = nil
	b.start(c, "")
	eventually(t, "connected with the new one", b.u.Connected)
}

// TestRejoin: a node whose certificate the server does not take any more joins again if it has a token.
func TestRejoin(t *testing.T) {
	c := newCluster(t)
	c.start()
	b := c.board("pi1")
	b.start(c, c.token)
	eventually(t, "connected", b.u.Connected)
	_ = b.stop()
	if err := os.WriteFile(filepath.Join(b.dir, "session"), []byte("0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.start(c, "")
	time.Sleep(300 * time.Millisecond)
	if b.u.Connected() {
		t.Error("let in with an old counter")
	}
	_ = b.stop()
	b.start(c, c.token)
	eventually(t, "joined again", b.u.Connected)
}
