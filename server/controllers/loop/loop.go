package loop

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/cache"
)

const (
	firstRetry = 5 * time.Millisecond
	lastRetry  = 2 * time.Minute
	workers    = 3
	// lag is how long a cache may be behind a controller's own writes until an operator is told, and lagToldEvery how often.
	lag          = 10 * time.Second
	lagToldEvery = time.Minute
)

// Key names the object that a reconcile is about.
type Key = types.NamespacedName

// Loop feeds keys to a reconcile function. The queue holds a key at most once,
// so that it is bounded by the number of objects.
type Loop struct {
	Name      string
	log       *slog.Logger
	reconcile func(context.Context, Key) error
	queue     workqueue.TypedRateLimitingInterface[Key]
	inputs    []func() (stop func())
	workers   int

	mu      sync.Mutex
	lagTold time.Time // when it was last said that the caches are behind
}

// New makes a loop; it does nothing before Run.
func New(name string, log *slog.Logger, reconcile func(context.Context, Key) error) *Loop {
	limiter := workqueue.NewTypedItemExponentialFailureRateLimiter[Key](firstRetry, lastRetry)
	return &Loop{
		Name:      name,
		log:       log.With("controller", name),
		reconcile: reconcile,
		queue:     workqueue.NewTypedRateLimitingQueue[Key](limiter),
		workers:   workers,
	}
}

// OneWorker makes the loop run one key at a time, for decisions that must see
// each other's results.
func (l *Loop) OneWorker() *Loop { return l.Workers(1) }

// Workers sets how many keys run at a time: more than the usual three where a reconcile waits for others than this server.
func (l *Loop) Workers(n int) *Loop {
	l.workers = n
	return l
}

// Enqueue asks for a reconcile now. It may be called before and while the loop runs.
func (l *Loop) Enqueue(key Key) { l.queue.Add(key) }

// After asks for a reconcile later. It may be called before and while the loop runs.
func (l *Loop) After(key Key, after time.Duration) { l.queue.AddAfter(key, after) }

// Watch makes each change of a cache enqueue the keys that it is about.
func Watch[T any](l *Loop, c *cache.Cache[T], keys func(cache.Change[T]) []Key) {
	l.inputs = append(l.inputs, func() func() {
		return c.OnChange(func(change cache.Change[T]) {
			for _, key := range keys(change) {
				l.queue.Add(key)
			}
		})
	})
}

// WatchKeys makes each change of a resource, which nobody keeps in memory, enqueue the keys that it is about (see cache.Set.OnKey).
func WatchKeys(l *Loop, s *cache.Set, gr schema.GroupResource, keys func(key Key, value []byte) []Key) {
	l.inputs = append(l.inputs, func() func() {
		return s.OnKey(gr, func(key Key, value []byte) {
			for _, key := range keys(key, value) {
				l.queue.Add(key)
			}
		})
	})
}

// KeyOf is an object's own key.
func KeyOf(o metav1.Object) Key { return Key{Namespace: o.GetNamespace(), Name: o.GetName()} }

// KeysOf are the keys of several objects.
func KeysOf[T metav1.Object](objects []T) []Key {
	keys := make([]Key, 0, len(objects))
	for _, o := range objects {
		keys = append(keys, KeyOf(o))
	}
	return keys
}

// podPrefix tells keys of pods from those of the objects that a controller is about: no name has a slash.
const podPrefix = "pod/"

// PodKey is the key of a pod in the queue of a controller that is about other objects.
func PodKey(pod metav1.Object) Key {
	return Key{Namespace: pod.GetNamespace(), Name: podPrefix + pod.GetName()}
}

// Pod gives the pod's own key of a PodKey; not ok: the key is another object's.
func Pod(key Key) (pod Key, ok bool) {
	name, ok := strings.CutPrefix(key.Name, podPrefix)
	return Key{Namespace: key.Namespace, Name: name}, ok
}

// Self is the changed object's own key.
func Self[T any](change cache.Change[T]) []Key { return []Key{change.Key()} }

// SelfKey is the same of a resource of which only the keys are told: none of the empty key, which no object has.
func SelfKey(key Key, _ []byte) []Key {
	if key.Name == "" {
		return nil
	}
	return []Key{key}
}

// Owner gives the keys of the objects of a kind that control the changed
// object, before and after.
func Owner[T any](kind string) func(cache.Change[T]) []Key {
	return func(change cache.Change[T]) []Key {
		var keys []Key
		for _, object := range []*T{change.Old, change.New} {
			if object == nil {
				continue
			}
			m := any(object).(metav1.Object)
			if ref := metav1.GetControllerOfNoCopy(m); ref != nil && ref.Kind == kind {
				key := Key{Namespace: m.GetNamespace(), Name: ref.Name}
				if len(keys) == 0 || keys[0] != key {
					keys = append(keys, key)
				}
			}
		}
		return keys
	}
}

// Adopters gives the keys of the objects whose selector finds the changed one,
// when nobody controls it: they might adopt it.
func Adopters[T, O any](change cache.Change[T], owners *cache.Cache[O], selector func(*O) *metav1.LabelSelector) []Key {
	if change.New == nil {
		return nil
	}
	m := any(change.New).(metav1.Object)
	if metav1.GetControllerOfNoCopy(m) != nil || len(m.GetLabels()) == 0 {
		return nil
	}
	var keys []Key
	for _, owner := range owners.List(m.GetNamespace(), nil) {
		if s, err := metav1.LabelSelectorAsSelector(selector(owner)); err == nil && !s.Empty() && s.Matches(labels.Set(m.GetLabels())) {
			keys = append(keys, KeyOf(any(owner).(metav1.Object)))
		}
	}
	return keys
}

// Run works until ctx is done.
func (l *Loop) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for range l.workers {
		wg.Go(func() {
			for l.next(ctx) {
			}
		})
	}
	stops := make([]func(), 0, len(l.inputs))
	for _, input := range l.inputs {
		stops = append(stops, input())
	}
	<-ctx.Done()
	for _, stop := range stops {
		stop()
	}
	l.queue.ShutDown()
	wg.Wait()
}

func (l *Loop) next(ctx context.Context) bool {
	key, quit := l.queue.Get()
	if quit {
		return false
	}
	defer l.queue.Done(key)
	if ctx.Err() != nil {
		return true
	}
	err := l.attempt(ctx, key)
	var bug *panicked
	switch {
	case err == nil:
		l.queue.Forget(key)
	case ctx.Err() != nil:
	case errors.As(err, &bug):
		l.log.Error("reconcile panicked and is tried again", "key", key.String(), "err", err, "stack", string(bug.stack))
		l.queue.AddRateLimited(key)
	case isPermanent(err):
		l.queue.Forget(key)
		l.log.Error("cannot be reconciled and is left until it changes", "key", key.String(), "err", err)
	case errors.Is(err, ErrNotSeen):
		// Settle has waited, and doing more about it is in nobody's hands here: with a back-off the key would be kept
		// for as long again when the cache has caught up.
		l.behind(ctx, key, err)
		l.queue.AddAfter(key, settleTime)
	default:
		level := slog.LevelDebug
		if !expected(err) && l.queue.NumRequeues(key) > 2 {
			level = slog.LevelWarn
		}
		l.log.Log(ctx, level, "reconcile failed and is tried again", "key", key.String(), "err", err)
		l.queue.AddRateLimited(key)
	}
	return true
}

// attempt reconciles one key. The API is served by the same process: a mistake of ours that one object brings out must not end it, for
// without the API nobody could delete that object.
func (l *Loop) attempt(ctx context.Context, key Key) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &panicked{r, debug.Stack()}
		}
	}()
	return l.reconcile(ctx, key)
}

// panicked is the error of a reconcile that did.
type panicked struct {
	value any
	stack []byte
}

func (p *panicked) Error() string { return fmt.Sprintf("panic: %v", p.value) }

// behind says, at times, that the caches do not show what was written.
func (l *Loop) behind(ctx context.Context, key Key, err error) {
	level := slog.LevelDebug
	var late notSeen
	if now := time.Now(); errors.As(err, &late) && now.Sub(late.since) >= lag {
		l.mu.Lock()
		if now.Sub(l.lagTold) >= lagToldEvery {
			l.lagTold, level = now, slog.LevelWarn
		}
		l.mu.Unlock()
	}
	l.log.Log(ctx, level, "waits for the cache to show its own writes", "key", key.String(), "since", late.since, "err", err)
}

// expected errors come from working on what changes meanwhile, from a limit that a user
// has set, or from objects whose owner's kind went with its definition: those stay for as
// long as they are, and are looked at again and again. None is news for an operator. Of several, one that is not expected is.
func expected(err error) bool {
	var several interface{ Unwrap() []error }
	if errors.As(err, &several) {
		return !slices.ContainsFunc(several.Unwrap(), func(err error) bool { return !expected(err) })
	}
	var noKind *meta.NoKindMatchError
	return apierrors.IsConflict(err) || apierrors.IsNotFound(err) || errors.As(err, &noKind) ||
		apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) || overQuota(err)
}

// overQuota is a creation for which a ResourceQuota has no room yet: an Event and the
// owner's status tell the user. Nothing but its text tells it from other refusals
// (k8s.io/apiserver/pkg/admission/plugin/resourcequota).
func overQuota(err error) bool {
	return apierrors.IsForbidden(err) && strings.Contains(err.Error(), "exceeded quota: ")
}

type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

// Permanent marks an error that trying again cannot mend.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return permanent{err}
}

func isPermanent(err error) bool {
	var p permanent
	return errors.As(err, &p)
}
