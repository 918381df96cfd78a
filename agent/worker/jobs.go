package worker

import "context"

// job is work that goes on beside the worker.
type job struct {
	kind   Work
	cancel context.CancelFunc
}

// start runs f beside the worker; record is called by the worker when it has ended, unless other
// work has taken its place.
func (w *worker) start(ctx context.Context, key string, kind Work, f func(context.Context) error, record func(error)) {
	w.cancel(key)
	ctx, cancel := context.WithCancel(ctx)
	j := &job{kind: kind, cancel: cancel}
	w.jobs[key] = j
	w.jobsDone.Go(func() {
		defer cancel()
		err := f(ctx)
		select {
		case w.results <- func() {
			if w.jobs[key] == j {
				delete(w.jobs, key)
				record(err)
			}
		}:
		case <-ctx.Done():
		}
	})
}

func (w *worker) cancel(key string) {
	if j := w.jobs[key]; j != nil {
		j.cancel()
		delete(w.jobs, key)
	}
}

// quit ends what goes on beside the worker: its jobs, the probes, and the fence's watch.
func (w *worker) quit() {
	for key := range w.jobs {
		w.cancel(key)
	}
	w.jobsDone.Wait()
	if w.m.Fence != nil {
		w.m.Fence.Watch(w.box.peek().Pod.UID, false)
	}
	w.m.Prober.Remove(w.box.peek().Pod.UID)
}
