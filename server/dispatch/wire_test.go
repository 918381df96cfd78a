package dispatch_test

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestIdleOnTheWire measures an idle node by the kernel's counters, in a network namespace of its own:
//
//	go test -c -o /tmp/dispatch.test ./server/dispatch
//	unshare -n sh -c 'ip link set lo up; BRAMBLE_IDLE=5m /tmp/dispatch.test -test.run IdleOnTheWire -test.v'
func TestIdleOnTheWire(t *testing.T) {
	wait, err := time.ParseDuration(os.Getenv("BRAMBLE_IDLE"))
	if err != nil {
		t.Skip("takes minutes and a network namespace: set BRAMBLE_IDLE=5m")
	}
	c := newCluster(t)
	c.start()
	b := c.board("raspberrypi")
	b.start(c, c.token)
	eventually(t, "synced", func() bool { return b.u.Synced("node") && b.u.Synced("shared") })
	time.Sleep(35 * time.Second)
	before := loopback(t)
	time.Sleep(wait)
	perMinute := float64(loopback(t)-before) / wait.Minutes()
	t.Logf("%.0f bytes a minute on the wire", perMinute)
	if perMinute > 1024 {
		t.Error("more than 1 KiB a minute")
	}
	if online, _ := c.dispatcher.Online("raspberrypi"); !online || !b.u.Connected() {
		t.Error("the node is not connected any more")
	}
}

// loopback is the number of bytes that passed through the loopback, link-layer headers included.
func loopback(t *testing.T) int {
	content, err := os.ReadFile("/proc/net/dev")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(content)) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), "lo:"); ok {
			n, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("no loopback")
	return 0
}
