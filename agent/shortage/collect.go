package shortage

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/agent/events"
	"bramble.dev/agent/seam"
	"bramble.dev/agent/status"
	"bramble.dev/agent/worker"
)

// demand is what the pods ask of the images now.
func (g *Guard) demand(ctx context.Context, views []worker.View) demand {
	d := demand{needed: map[string]bool{}, trying: map[string]bool{}}
	find := func(ref string) (string, bool) {
		i, ok := g.Images.Resolve(ctx, ref)
		return i.ID, ok
	}
	for _, v := range views {
		if !v.Finished && !status.Terminal(v.Status.Phase) {
			d.ask(v.Pod, v.Status, v.Sandboxes, find)
		}
	}
	return d
}

// noteImages notes when images are used: of those that are not, the one that was not for longest goes first.
func (g *Guard) noteImages(ctx context.Context, views []worker.View, now time.Time) {
	needed := g.demand(ctx, views).needed
	for id := range needed {
		if !g.inUse[id] {
			g.Images.MarkUsed(id, now)
		}
	}
	for id := range g.inUse {
		if !needed[id] {
			g.Images.MarkUsed(id, now)
		}
	}
	g.inUse = needed
}

// collect removes images that nobody uses when their file system is fuller than it should be.
func (g *Guard) collect(ctx context.Context, views []worker.View, l Levels, now time.Time) {
	level, ok := l.Of[ImageFsAvailable]
	if !ok || level.Capacity == 0 || g.High >= 100 || now.Sub(g.collected) < collectEvery && !g.collected.IsZero() {
		return
	}
	used := 100 - level.Available*100/level.Capacity
	if used < int64(g.High) || level.Available >= plenty {
		g.failing = false
		clear(g.told)
		return
	}
	g.collected = now
	wanted := level.Capacity*int64(100-g.Low)/100 - level.Available
	all, err := g.Images.List(ctx)
	if err != nil {
		g.Logger.Warn("images cannot be listed", "err", err)
		return
	}
	pulled, imported := removable(all, g.demand(ctx, views), g.Age, now)
	freed, err := g.remove(ctx, pulled, wanted, func() bool { return g.Levels().Of[ImageFsAvailable].Available >= level.Available+wanted })
	failed := "" // what went wrong, in upstream's words
	switch {
	case err != nil:
		failed = err.Error()
	case freed < wanted:
		failed = fmt.Sprintf("Insufficient free disk space on the node's image filesystem (%d%% of %s used). Failed to free sufficient space by deleting unused images (freed %d bytes). "+
			"Investigate disk usage, as it could be used by active images, logs, volumes, or other data.", used, quantity(corev1.ResourceEphemeralStorage, level.Capacity), freed)
		if len(imported) > 0 {
			failed += fmt.Sprintf(" %d unused images that were imported by hand are kept.", len(imported))
		}
		g.tell(events.FreeDiskSpaceFailed, failed, now)
	}
	if failed != "" && g.failing {
		g.tell(events.ImageGCFailed, failed, now)
	}
	g.failing = failed != ""
}

// tell reports a disk that stays too full, seldom: an event is a write to it.
func (g *Guard) tell(reason, failed string, now time.Time) {
	if at, ok := g.told[reason]; ok && now.Sub(at) < tellEvery {
		return
	}
	g.told[reason] = now
	g.Logger.Warn("images could not be removed as far as they should", "err", failed)
	g.Events.Event(events.Node(g.Node), corev1.EventTypeWarning, reason, failed)
}

// remove removes images until as many bytes are free, as their sizes or the file system say.
func (g *Guard) remove(ctx context.Context, images []seam.Image, wanted int64, enough func() bool) (freed int64, err error) {
	for _, i := range images {
		if freed >= wanted || ctx.Err() != nil {
			break
		}
		if failed := g.Images.Remove(ctx, i.ID); failed != nil {
			err = fmt.Errorf("wanted to free %d bytes, but freed %d bytes space with errors in image deletion: %w", wanted, freed, failed)
			continue
		}
		g.Logger.Info("removed an image that no pod uses, for the room that it takes", "image", name(i), "size", i.Size, "used", i.Used)
		freed += i.Size
		if enough() {
			return max(freed, wanted), err
		}
	}
	return freed, err
}

// reclaim frees what can be freed of a disk without ending a pod. It returns the images that were imported by hand and that no pod
// needs: they are not removed lightly.
func (g *Guard) reclaim(ctx context.Context, views []worker.View, t Threshold, now time.Time) (imported []seam.Image) {
	if err := g.Images.Reclaim(); err != nil {
		g.Logger.Warn("what pulls have left could not be removed", "err", err)
	}
	all, err := g.Images.List(ctx)
	if err != nil {
		g.Logger.Warn("images cannot be listed", "err", err)
		return nil
	}
	pulled, imported := removable(all, g.demand(ctx, views), g.Age, now)
	g.empty(ctx, pulled, t)
	return imported
}

// empty removes images, one by one, until a threshold is no longer met.
func (g *Guard) empty(ctx context.Context, images []seam.Image, t Threshold) (removed []seam.Image) {
	for _, i := range images {
		if !g.meets(t) || ctx.Err() != nil {
			break
		}
		if err := g.Images.Remove(ctx, i.ID); err != nil {
			g.Logger.Warn("an image could not be removed", "image", name(i), "err", err)
			continue
		}
		g.Logger.Info("removed an image that no pod uses, because the disk is full", "image", name(i), "size", i.Size, "used", i.Used)
		removed = append(removed, i)
	}
	return removed
}

// removeImported removes images that were imported by hand, and says so where their owner looks.
func (g *Guard) removeImported(ctx context.Context, images []seam.Image, t Threshold) {
	for _, i := range g.empty(ctx, images, t) {
		g.Events.Eventf(events.Node(g.Node), corev1.EventTypeWarning, events.ImportedImageRemoved,
			"Removed image %s, which was imported by hand and which no pod here uses, because the disk is full; make room and import it again", name(i))
	}
}
