package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/google/btree"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/value"
)

const (
	watchExpired = "The resourceVersion for the provided watch is too old."

	// watchBuffer is how many decoded events wait for a client. The rest wait encoded in the ring, which all
	// watchers share: one that falls behind it is cut off with 410.
	watchBuffer = 16
	watchChunk  = 64

	// lastBookmark is how long before its deadline a watch gets a bookmark, so that the next one resumes from there.
	lastBookmark = 2 * time.Second
)

// watcher follows one resource's ring from a revision on.
type watcher struct {
	*objects
	below    string // a key, or a prefix of keys
	exact    bool
	pred     storage.SelectionPredicate
	all      bool // nothing is filtered
	progress bool // bookmarks were asked for

	out    chan watch.Event
	cancel context.CancelFunc

	rev       int64 // everything up to it has been looked at
	asked     int64 // progress requests answered
	bookmarks *time.Timer
	deadline  time.Time
}

func (w *watcher) Stop()                          { w.cancel() }
func (w *watcher) ResultChan() <-chan watch.Event { return w.out }

func (o *objects) Watch(ctx context.Context, key string, opts storage.ListOptions) (watch.Interface, error) {
	_, below, err := o.key(key, opts.Recursive)
	if err != nil {
		return nil, err
	}
	if opts.ProgressNotify && o.New == nil {
		return nil, apierrors.NewInternalError(errors.New("progressNotify needs a function that makes objects"))
	}
	rv, err := versioner.ParseResourceVersion(opts.ResourceVersion)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	w := &watcher{
		objects:  o,
		below:    below,
		exact:    !opts.Recursive,
		pred:     opts.Predicate,
		all:      opts.Predicate.Empty(),
		progress: opts.Predicate.AllowWatchBookmarks || opts.ProgressNotify,
		out:      make(chan watch.Event, watchBuffer),
		cancel:   cancel,
	}
	w.deadline, _ = ctx.Deadline()
	initial := opts.SendInitialEvents == nil && rv == 0 || opts.SendInitialEvents != nil && *opts.SendInitialEvents
	var tree *btree.BTreeG[*item]
	var now int64
	if initial {
		tree, now = o.db.present(o.res)
	} else {
		now = o.db.Revision()
	}
	w.rev = now
	end := opts.SendInitialEvents != nil && *opts.SendInitialEvents && opts.Predicate.AllowWatchBookmarks
	run := func() { w.run(ctx, tree, end) }
	switch {
	case rv > uint64(now) && initial:
		run = func() { w.refuse(ctx, storage.NewTooLargeResourceVersionError(rv, uint64(now), 1)) }
	case rv > uint64(now):
		cancel()
		return nil, storage.NewTooLargeResourceVersionError(rv, uint64(now), 1)
	case rv > 0 && !initial:
		w.rev = int64(rv)
	}
	o.crowd.join()
	if !o.db.untilClose(func() { defer o.crowd.leave(); run() }) { // it ends at once
		o.crowd.leave()
		cancel()
		close(w.out)
	}
	return w, nil
}

// refuse is a watch that ends with an error at once.
func (w *watcher) refuse(ctx context.Context, err error) {
	defer close(w.out)
	defer w.cancel()
	w.fail(ctx, err)
}

func (w *watcher) run(ctx context.Context, tree *btree.BTreeG[*item], end bool) {
	defer close(w.out)
	defer w.cancel()
	err := w.follow(ctx, tree, end)
	if err != nil && !errors.Is(err, ErrClosed) && ctx.Err() == nil {
		w.fail(ctx, err)
	}
}

func (w *watcher) follow(ctx context.Context, tree *btree.BTreeG[*item], end bool) error {
	if tree != nil {
		if err := w.initial(ctx, tree); err != nil {
			return err
		}
	}
	if end {
		if err := w.bookmark(ctx, w.rev, true); err != nil {
			return err
		}
	}
	if w.Started != nil {
		w.Started(ctx)
	}
	w.bookmarks = time.NewTimer(w.untilBookmark())
	defer w.bookmarks.Stop()
	for {
		news, rev, wake, asked, err := w.news()
		if err != nil {
			return err
		}
		for _, c := range news {
			if err := w.tell(ctx, c); err != nil {
				return err
			}
		}
		w.rev = rev
		if wake == nil { // there is more
			continue
		}
		if asked != w.asked {
			w.asked = asked
			if w.progress {
				if err := w.bookmark(ctx, w.rev, false); err != nil {
					return err
				}
			}
		}
		select {
		case <-wake:
		case <-w.bookmarks.C:
			if err := w.timedBookmark(ctx); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		case <-w.db.closing:
			return ErrClosed
		}
	}
}

// news takes the next changes. When it has taken all of them, wake tells of the next.
func (w *watcher) news() (news []change, rev int64, wake <-chan struct{}, asked int64, err error) {
	d := w.db
	d.mu.RLock()
	defer d.mu.RUnlock()
	if w.res.ring.last() <= w.rev {
		return nil, max(w.rev, d.rev), w.res.wake, w.res.asked, nil
	}
	news, ok := w.res.ring.after(w.rev, watchChunk)
	if !ok {
		return nil, 0, nil, 0, apierrors.NewResourceExpired(watchExpired)
	}
	rev = news[len(news)-1].rev
	if rev == w.res.ring.last() {
		return news, d.rev, w.res.wake, w.res.asked, nil
	}
	return news, rev, nil, 0, nil
}

func (w *watcher) covers(key string) bool {
	if w.exact {
		return key == w.below
	}
	return strings.HasPrefix(key, w.below)
}

// initial sends the present objects as ADDED.
func (w *watcher) initial(ctx context.Context, tree *btree.BTreeG[*item]) error {
	send := func(it *item, stored []byte) (bool, error) {
		obj, err := w.decodeStored(ctx, it, stored, it.rev)
		if err == nil && w.passes(obj) {
			err = w.send(ctx, watch.Added, obj)
		}
		return true, err
	}
	if !w.exact {
		return w.db.scan(tree, "", w.below, wholeGroups, send)
	}
	it, ok := tree.Get(&item{key: w.below})
	if !ok {
		return nil
	}
	stored, err := w.db.value(it)
	if err == nil {
		_, err = send(it, stored)
	}
	return err
}

// tell sends what a change means for this watch. An object that is no longer selected is DELETED, with the state in
// which it was selected and the revision of the change.
func (w *watcher) tell(ctx context.Context, c change) error {
	if !w.covers(c.key) {
		return nil
	}
	var now, before runtime.Object
	var err error
	if c.item != nil {
		if now, err = w.object(ctx, c.item, c.rev, false); err != nil {
			return err
		}
	}
	if c.prev != nil && (c.item == nil || !w.all) {
		if before, err = w.object(ctx, c.prev, c.rev, true); err != nil {
			if c.item == nil {
				return deletedDamaged(err)
			}
			return err
		}
	}
	is := now != nil && w.passes(now)
	was := c.prev != nil && (w.all || w.passes(before))
	switch {
	case is && was:
		return w.send(ctx, watch.Modified, now)
	case is:
		return w.send(ctx, watch.Added, now)
	case was:
		return w.send(ctx, watch.Deleted, before)
	}
	return nil
}

func (w *watcher) passes(obj runtime.Object) bool {
	if w.all {
		return true
	}
	ok, err := w.pred.Matches(plain(obj))
	return err == nil && ok
}

// object gives an item with the revision of a change, before or after which it was this.
func (w *watcher) object(ctx context.Context, it *item, rev int64, before bool) (runtime.Object, error) {
	return w.crowd.object(rev, it.key, before, func() (runtime.Object, error) {
		stored, err := w.db.value(it)
		if err != nil {
			return nil, err
		}
		return w.decodeStored(ctx, it, stored, rev)
	})
}

func (w *watcher) decodeStored(ctx context.Context, it *item, stored []byte, rev int64) (runtime.Object, error) {
	data, _, err := w.Transformer.TransformFromStorage(ctx, stored, value.DefaultContext(w.res.prefix+it.key))
	if err != nil {
		return nil, err
	}
	obj, err := runtime.Decode(w.Codec, data)
	if err != nil {
		return nil, err
	}
	if err := versioner.UpdateObject(obj, uint64(rev)); err != nil {
		return nil, fmt.Errorf("failure to version api object (%d) %#v: %w", rev, obj, err)
	}
	return obj, nil
}

func (w *watcher) send(ctx context.Context, t watch.EventType, obj runtime.Object) error {
	select {
	case w.out <- watch.Event{Type: t, Object: obj}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-w.db.closing:
		return ErrClosed
	}
}

func (w *watcher) bookmark(ctx context.Context, rev int64, end bool) error {
	obj := w.New()
	if err := versioner.UpdateObject(obj, uint64(rev)); err != nil {
		return err
	}
	if end {
		if err := storage.AnnotateInitialEventsEndBookmark(obj); err != nil {
			return err
		}
	}
	return w.send(ctx, watch.Bookmark, obj)
}

// timedBookmark is sent now and then and shortly before the watch's deadline.
func (w *watcher) timedBookmark(ctx context.Context) error {
	defer func() { w.bookmarks.Reset(w.untilBookmark()) }()
	if !w.progress {
		return nil
	}
	return w.bookmark(ctx, w.rev, false)
}

func (w *watcher) untilBookmark() time.Duration {
	every := w.db.opts.BookmarkInterval
	if !w.progress {
		return 24 * time.Hour
	}
	every += time.Duration(rand.Int64N(int64(every)/4 + 1))
	if left := time.Until(w.deadline) - lastBookmark; !w.deadline.IsZero() && left > 0 {
		every = min(every, left)
	}
	return every
}

// fail sends an error as the last event.
func (w *watcher) fail(ctx context.Context, err error) {
	var s apierrors.APIStatus
	if !errors.As(err, &s) {
		s = apierrors.NewInternalError(err)
	}
	status := s.Status()
	w.send(ctx, watch.Error, &status)
}

// deletedDamaged is what a watch is told when an object that cannot be read was deleted by force.
func deletedDamaged(err error) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status:  metav1.StatusFailure,
		Code:    http.StatusInternalServerError,
		Reason:  metav1.StatusReasonStoreReadError,
		Message: fmt.Sprintf("saw a DELETED event, but object data is corrupt - %v", err),
	}}
}
