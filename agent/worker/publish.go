package worker

import (
	"bytes"
	"context"

	"bramble.dev/agent/state"
)

// publish reports the status if it changed, and saves the record.
func (w *worker) publish(d Desired) {
	b, err := w.memory.Status.Marshal()
	if err != nil {
		w.log.Error("a status cannot be encoded", "err", err)
		return
	}
	w.save(d)
	if bytes.Equal(b, w.told) && w.toldEnd == w.memory.Finished {
		return
	}
	w.told, w.toldEnd = b, w.memory.Finished
	w.m.Report(d.Pod, *w.memory.Status.DeepCopy(), w.memory.Finished)
	w.mu.Lock()
	w.first = true
	w.mu.Unlock()
}

func (w *worker) looked() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.first
}

// save hands the record to the store if it changed; it is written soon.
func (w *worker) save(d Desired) {
	if b := w.changed(d); b != nil {
		w.m.Store.Queue(state.Pods, string(d.Pod.UID), b)
	}
}

// saveNow returns when the record is on the disk: what follows removes what it says.
func (w *worker) saveNow(ctx context.Context, d Desired) error {
	w.changed(d)
	return w.m.Store.Write(ctx, state.Pods, []state.Change{{Key: string(d.Pod.UID), Value: w.saved}})
}

func (w *worker) changed(d Desired) []byte {
	w.memory.Pod = d.Pod
	b, err := w.memory.encode(d.Gone)
	if err != nil {
		w.log.Error("a pod's record cannot be encoded", "err", err)
		return nil
	}
	if bytes.Equal(b, w.saved) {
		return nil
	}
	w.saved = b
	return b
}
