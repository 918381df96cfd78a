package kubelet

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"bramble.dev/agent/seam"
	"bramble.dev/agent/worker"
)

// Whoever reads the log of a container that has just started gets its first line.
func TestFirstLineIsAwaited(t *testing.T) {
	for _, x := range []struct {
		name    string
		state   seam.State
		started time.Duration // before now
		says    time.Duration // something, after now; 0: nothing
		waits   time.Duration
	}{
		{"it will say something", seam.Running, 0, 100 * time.Millisecond, 100 * time.Millisecond},
		{"it is silent", seam.Running, firstLine / 2, 0, firstLine / 2},
		{"it has been running", seam.Running, firstLine, 0, 0},
		{"it has ended", seam.Exited, 0, 0, 0},
		{"the clock has gone back", seam.Running, -time.Hour, 0, firstLine},
	} {
		t.Run(x.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "0.log")
				began := time.Now()
				if x.says > 0 {
					time.AfterFunc(x.says-time.Millisecond, func() { os.WriteFile(path, []byte("hello\n"), 0o600) })
				}
				v := worker.View{Sandboxes: []seam.Sandbox{{Containers: []seam.Container{{ID: "c", State: x.state, StartedAt: began.Add(-x.started)}}}}}
				awaitFirstLine(t.Context(), v, "c", path)
				if took := time.Since(began); took != x.waits {
					t.Errorf("it waited %s, want %s", took, x.waits)
				}
			})
		})
	}
}
