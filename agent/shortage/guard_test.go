package shortage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"bramble.dev/agent/events"
	"bramble.dev/agent/seam"
	"bramble.dev/agent/status"
	"bramble.dev/agent/worker"
)

// board is a board whose disk has 100 units, and whose memory 1000.
type board struct {
	disk, memory int64 // available
	images       map[string]seam.Image
	stuck        bool // no image can be removed
	pods         map[string]*worker.View
	gives        map[string]int64 // of the disk, with a pod's end
	uses         map[string]int64 // of the memory
	ready        bool
	said         []string
	marked       []string
	turn         atomic.Int64 // orders what the test sets before what the guard reads next: synctest does not
}

func (b *board) levels() Levels {
	b.turn.Load()
	return Levels{Of: map[Signal]Level{ImageFsAvailable: {b.disk, 100}, MemoryAvailable: {b.memory, 1000}}}
}

func (b *board) List(context.Context) ([]seam.Image, error) {
	var out []seam.Image
	for _, i := range b.images {
		out = append(out, i)
	}
	return out, nil
}

func (b *board) Resolve(_ context.Context, ref string) (seam.Image, bool) {
	i, ok := b.images[ref]
	return i, ok
}

func (b *board) Remove(_ context.Context, id string) error {
	if b.stuck {
		return errors.New("read-only file system")
	}
	b.disk += b.images[id].Size
	delete(b.images, id)
	b.say("removed %s", id)
	return nil
}

func (b *board) MarkUsed(id string, _ time.Time) { b.marked = append(b.marked, id) }
func (b *board) Reclaim() error                  { return nil }

func (b *board) say(format string, args ...any) {
	b.said = append(b.said, fmt.Sprintf(format, args...))
}

func (b *board) evict(uid types.UID, e worker.Eviction) bool {
	v := b.pods[string(uid)]
	if v == nil || v.Finished {
		return false
	}
	v.Finished = true
	b.memory += b.uses[string(uid)]
	b.disk += b.gives[string(uid)]
	b.say("evicted %s (%v)", uid, e.Disruption != nil)
	return true
}

func (b *board) pod(name, image string, memory int64) {
	v := &worker.View{Pod: &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: image}}}}, Sandboxes: []seam.Sandbox{{ID: name}}}
	v.Pod.Name, v.Pod.UID = name, types.UID(name)
	v.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	b.pods[name], b.uses[name] = v, memory
}

func (b *board) guard(t *testing.T) *Guard {
	g := New(Config{
		Node: "pi", Thresholds: []Threshold{{Signal: MemoryAvailable, Quantity: 100}, {Signal: ImageFsAvailable, Percent: 10}}, High: 85, Low: 80,
		Levels: b.levels, Evict: b.evict, Images: b, Ready: func() bool { return b.ready },
		Pods: func() []worker.View {
			var out []worker.View
			for _, v := range b.pods {
				out = append(out, *v)
			}
			return out
		},
		Stats: func(context.Context) ([]seam.PodStats, error) {
			var out []seam.PodStats
			for uid, used := range b.uses {
				out = append(out, seam.PodStats{PodUID: types.UID(uid), MemoryWorkingSet: uint64(used)})
			}
			return out, nil
		},
		Folders: func(worker.View) Folders { return Folders{} },
		Events:  events.New("pi", func(e *corev1.Event) { b.say("%s x%d", e.Reason, e.Count) }, time.Now), Logger: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); g.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return g
}

func (b *board) expect(t *testing.T, after time.Duration, want ...string) {
	t.Helper()
	b.turn.Add(1)
	time.Sleep(after)
	synctest.Wait()
	slices.Sort(b.said)
	slices.Sort(want)
	if got := strings.Join(b.said, ", "); got != strings.Join(want, ", ") {
		t.Errorf("got  %s\nwant %s", got, strings.Join(want, ", "))
	}
	b.said = nil
}

func newBoard() *board {
	return &board{disk: 50, memory: 500, images: map[string]seam.Image{}, pods: map[string]*worker.View{}, gives: map[string]int64{}, uses: map[string]int64{}, ready: true}
}

func (b *board) image(name string, size int64, ago time.Duration, imported bool) {
	b.images[name] = seam.Image{ID: name, Names: []string{name}, Size: size, Used: time.Now().Add(-ago), Imported: imported}
}

func TestGuardMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard()
		b.pod("small", "a:1", 30)
		b.pod("large", "a:1", 70)
		b.memory, b.ready = 50, false
		g := b.guard(t)
		if g.Pressure() != (status.Pressure{Memory: true}) {
			t.Errorf("pressure %v", g.Pressure())
		}
		b.expect(t, time.Minute) // nobody knows yet what is to run
		b.ready = true
		b.expect(t, time.Minute, "EvictionThresholdMet x1", "evicted large (true)")
		if !g.Pressure().Memory {
			t.Error("the condition went at once")
		}
		b.expect(t, 5*time.Minute)
		if g.Pressure().Memory {
			t.Error("the condition stays")
		}
	})
}

func TestGuardImages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard()
		b.pod("p", "docker.io/library/used:1", 0)
		b.image("docker.io/library/used:1", 10, 0, false)
		b.image("old", 3, 50*time.Hour, false)
		b.image("older", 4, 60*time.Hour, false)
		b.image("by-hand", 9, 90*time.Hour, true)
		b.guard(t)
		b.expect(t, 20*time.Second)
		b.disk = 14 // 86 % are used: six are to be had
		b.expect(t, 20*time.Second, "removed old", "removed older")
		if b.disk != 21 {
			t.Errorf("%d are free", b.disk)
		}
		b.disk = 13
		b.expect(t, 5*time.Minute+20*time.Second, "FreeDiskSpaceFailed x1")
		b.expect(t, 30*time.Minute, "ImageGCFailed x1") // and not every five minutes
		if len(b.images) != 2 {
			t.Errorf("images %v", b.images)
		}
		if !slices.Equal(b.marked, []string{"docker.io/library/used:1"}) {
			t.Errorf("marked as used: %v", b.marked)
		}
	})
}

func TestGuardDiskPressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard()
		b.pod("p", "docker.io/library/used:1", 0)
		b.image("docker.io/library/used:1", 10, 0, false)
		b.image("old", 2, 50*time.Hour, false)
		b.image("by-hand", 9, 90*time.Hour, true)
		b.disk = 9
		g := b.guard(t)
		b.expect(t, 15*time.Second, "removed old", "FreeDiskSpaceFailed x1")
		b.disk = 2 // a pod that holds nothing is not ended for it; what was imported goes, and is named
		b.expect(t, 15*time.Second, "EvictionThresholdMet x1", "removed by-hand", "ImportedImageRemoved x1")
		b.disk, b.stuck = 2, true
		b.expect(t, time.Minute, "EvictionThresholdMet x2")
		if !g.Pressure().Disk || b.pods["p"].Finished {
			t.Errorf("pressure %v, pod %+v", g.Pressure(), b.pods["p"])
		}
	})
}
