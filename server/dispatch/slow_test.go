package dispatch_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// slowLink is a wire of a given rate and delay (one way) between a board and a broker.
type slowLink struct {
	rate  float64 // bytes a second
	delay time.Duration
}

func (s slowLink) dial(ctx context.Context, network, address string) (net.Conn, error) {
	far, err := (&net.Dialer{KeepAlive: -1}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	near, mine := net.Pipe()
	go s.carry(far, near)
	go s.carry(near, far)
	return mine, nil
}

type packet struct {
	due  time.Time
	data []byte
}

// carry moves bytes at the link's pace. Little waits in the link itself, but the sockets at its ends
// hold what sockets hold.
func (s slowLink) carry(to, from net.Conn) {
	queue := make(chan packet, 256)
	go func() {
		defer close(queue)
		free := time.Now()
		for {
			b := make([]byte, 1400)
			n, err := from.Read(b)
			if n > 0 {
				if now := time.Now(); free.Before(now) {
					free = now
				}
				free = free.Add(time.Duration(float64(n+60) / s.rate * float64(time.Second)))
				queue <- packet{free.Add(s.delay), b[:n]}
				time.Sleep(time.Until(free))
			}
			if err != nil {
				return
			}
		}
	}()
	for p := range queue {
		time.Sleep(time.Until(p.due))
		if _, err := to.Write(p.data); err != nil {
			break
		}
	}
	_ = to.Close()
	_ = from.Close()
	for range queue {
	}
}

// resident is the anonymous memory of a process in bytes.
func resident(t testing.TB, pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kb, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return kb << 10
		}
	}
	t.Fatal("no RssAnon")
	return 0
}

func heap() int {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// TestStreamDoesNotDelaySets: on a link of 1 Mbit/s and 200 ms through mosquitto, a stream of 50 MB is
// running in either direction; a changed ConfigMap arrives within 3 s and nobody's memory grows.
func TestStreamDoesNotDelaySets(t *testing.T) {
	const size = 50 << 20
	for _, direction := range []string{"from the node", "to the node"} {
		t.Run(direction, func(t *testing.T) {
			c := newCluster(t)
			m := startMosquitto(t)
			m.use(c)
			c.configMap("m", "before")
			c.pod("p", "pi1", "m")
			c.start()
			b := c.board("pi1")
			b.dial = slowLink{rate: 1e6 / 8, delay: 100 * time.Millisecond}.dial
			output := bytes.Repeat([]byte("0123456789abcdef"), 4096)
			b.serve = func(_ string, conn net.Conn) {
				defer conn.Close()
				if direction == "to the node" {
					_, _ = io.Copy(io.Discard, conn)
					return
				}
				for n := 0; n < size; n += len(output) {
					if _, err := conn.Write(output); err != nil {
						return
					}
				}
			}
			b.start(c, c.token)
			eventually(t, "synced", func() bool { return b.u.Synced("node") && b.has("node", "configmaps/default/m") })
			heapBefore, brokerBefore := heap(), resident(t, m.cmd.Process.Pid)
			conn := must[net.Conn](t)(c.dispatcher.DialNode(context.Background(), "pi1", "kubelet"))
			moved := make(chan int64, 1)
			go func() {
				var n int64
				if direction == "to the node" {
					n, _ = io.CopyN(conn, endless{output}, size)
				} else {
					n, _ = io.Copy(io.Discard, conn)
				}
				moved <- n
			}()
			began := time.Now()
			time.Sleep(6 * time.Second) // the stream has found its pace, and filled what can be filled
			var worst time.Duration
			for i := range 4 {
				data := fmt.Sprint("after ", i, strings.Repeat("x", 2000))
				c.configMap("m", data)
				at := time.Now()
				eventually(t, "change", func() bool {
					v, _ := b.sets["node"].Get("configmaps/default/m")
					var cm corev1.ConfigMap
					return cm.Unmarshal(v) == nil && cm.Data["data"] == data
				})
				worst = max(worst, time.Since(at))
				time.Sleep(time.Second)
			}
			grown, brokerGrown := heap()-heapBefore, resident(t, m.cmd.Process.Pid)-brokerBefore
			wire := b.wires.in.Load()
			if direction == "from the node" {
				wire = b.wires.out.Load()
			}
			_ = conn.Close()
			b.wires.set(true)
			select {
			case <-moved:
			case <-time.After(10 * time.Second):
			}
			t.Logf("worst delay of a change %v; heap of server and agent grew by %d KiB, the broker by %d KiB; %.0f kbit/s on the wire",
				worst.Round(time.Millisecond), grown>>10, brokerGrown>>10, float64(wire)*8/1000/time.Since(began).Seconds())
			if worst > 3*time.Second {
				t.Errorf("a change took %v", worst)
			}
			if grown > 4<<20 || brokerGrown > 4<<20 {
				t.Error("memory grew by more than 4 MiB")
			}
			if float64(wire) < 0.5*1e6/8*time.Since(began).Seconds() {
				t.Error("the stream leaves half of the link unused")
			}
		})
	}
}

type endless struct{ b []byte }

func (e endless) Read(p []byte) (int, error) { return copy(p, e.b), nil }
