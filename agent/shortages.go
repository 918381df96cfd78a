package agent

import (
	"cmp"
	"fmt"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"bramble.dev/agent/catalog"
	"bramble.dev/agent/seam"
	"bramble.dev/agent/shortage"
	"bramble.dev/agent/status"
	"bramble.dev/agent/worker"
	"bramble.dev/runtime/engine"
	"bramble.dev/storage"
)

// openShortage opens what looks after the board's memory and disk.
func (a *agent) openShortage(e *engine.Engine, volumes *storage.Volumes) {
	c := &a.config
	a.shortage = shortage.New(shortage.Config{
		Node: c.NodeName, Thresholds: c.thresholds, Transition: c.PressureTransition, High: c.ImagesHigh, Low: c.ImagesLow, Age: c.ImagesAge,
		Levels: func() shortage.Levels { return shortage.Look(c.dir(), c.dir("runtime")) },
		Pods:   func() []worker.View { return a.pods.Pods() }, Evict: func(uid types.UID, why worker.Eviction) bool { return a.pods.Evict(uid, why) },
		Stats: a.runtime.Stats, Images: collectable{a.images, e},
		Folders: func(v worker.View) shortage.Folders { return folders(c.dir(), e, volumes, v) },
		Ready:   func() bool { return a.catalog.Loaded(catalog.Node) },
		Changed: func() { a.self.poke() }, Events: a.events, Logger: a.log,
	})
}

// completeShortage reads and checks what is said about shortages.
func (c *Config) completeShortage() error {
	var err error
	if c.thresholds, err = shortage.ParseThresholds(shortage.Defaults(status.Meminfo()["MemTotal"]), c.EvictionHard); err != nil {
		return fmt.Errorf("--eviction-hard %w", err)
	}
	c.ImagesHigh, c.ImagesLow = cmp.Or(c.ImagesHigh, shortage.DefaultHigh), cmp.Or(c.ImagesLow, min(shortage.DefaultLow, cmp.Or(c.ImagesHigh, shortage.DefaultHigh)))
	if c.ImagesHigh < 1 || c.ImagesHigh > 100 || c.ImagesLow < 0 || c.ImagesLow > c.ImagesHigh {
		return fmt.Errorf("--image-gc-high-threshold %d, --image-gc-low-threshold %d: want percentages, the low one no higher than the high one", c.ImagesHigh, c.ImagesLow)
	}
	if c.ImagesAge < 0 {
		return fmt.Errorf("--minimum-image-ttl-duration %v: want a time that is not negative", c.ImagesAge)
	}
	if c.PressureTransition < 0 {
		return fmt.Errorf("--eviction-pressure-transition-period %v: want a time that is not negative", c.PressureTransition)
	}
	return nil
}

// reserved is what pods may not use: what the board needs for itself, and what is to stay free.
func (c *Config) reserved(m status.Machine) corev1.ResourceList {
	out := shortage.Reservation(c.thresholds, corev1.ResourceList{
		corev1.ResourceMemory:           *resource.NewQuantity(m.MemoryBytes&^1023, resource.BinarySI),
		corev1.ResourceEphemeralStorage: *resource.NewQuantity(m.DiskBytes&^1023, resource.BinarySI),
	})
	for name, q := range c.Reserved {
		sum := out[name].DeepCopy()
		sum.Add(q)
		out[name] = sum
	}
	return out
}

// collectable are the images for whoever makes room.
type collectable struct {
	seam.Images
	e *engine.Engine
}

// Reclaim implements shortage.Images.
func (c collectable) Reclaim() error { return c.e.Images().Reclaim() }

// MarkUsed implements shortage.Images.
func (c collectable) MarkUsed(id string, at time.Time) { c.e.Images().MarkUsed(id, at) }

// folders are where the things of a pod lie.
func folders(dir string, e *engine.Engine, volumes *storage.Volumes, v worker.View) shortage.Folders {
	f := shortage.Folders{Written: map[string]string{}, Logs: map[string]string{}, Volumes: map[string]string{}}
	logs := worker.LogDir(dir, v.Pod.Namespace, v.Pod.Name, v.Pod.UID)
	for _, s := range v.Sandboxes {
		for _, o := range s.Containers {
			if o.State == seam.Running {
				f.Written[o.Name] = e.Written(o.ID)
			}
			f.Logs[o.Name] = filepath.Join(logs, o.Name)
		}
	}
	for _, volume := range v.Pod.Spec.Volumes {
		if shortage.OnDisk(volume) {
			f.Volumes[volume.Name] = volumes.Folder(v.Pod.UID, volume.Name)
		}
	}
	return f
}
