package fairness

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/server/filters"
	"k8s.io/apiserver/pkg/server/mux"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/util/flowcontrol"
	work "k8s.io/apiserver/pkg/util/flowcontrol/request"
	"k8s.io/client-go/informers"
	flowcontrolclient "k8s.io/client-go/kubernetes/typed/flowcontrol/v1"
)

// Config is what requests are shared out by.
type Config struct {
	Informers informers.SharedInformerFactory
	Client    flowcontrolclient.FlowcontrolV1Interface
	Seats     int           // how many requests are worked on at once, beside those that are exempt
	Wait      time.Duration // how long a request that has no deadline waits for its turn: a watch
	// Size says how many objects of a resource there are and how many bytes these have: a long list takes more than one seat.
	Size   func(schema.GroupResource) (objects, bytes int64)
	Logger *slog.Logger
}

// Fairness decides whose turn it is. It is a prometheus.Collector.
type Fairness struct {
	flows     flowcontrol.Interface
	estimate  work.WorkEstimatorFunc
	wait      time.Duration
	seats     int
	bootstrap *bootstrap
	running   sync.WaitGroup
}

// New makes a Fairness that knows upstream's mandatory objects, until it is started and reads those of the store.
func New(c Config) *Fairness {
	flows := flowcontrol.New(c.Informers, c.Client, c.Seats)
	stats := func(resource string) (storage.Stats, error) {
		objects, bytes := c.Size(schema.ParseGroupResource(resource))
		return storage.Stats{ObjectCount: objects, EstimatedAverageObjectSizeBytes: bytes / max(objects, 1)}, nil
	}
	return &Fairness{
		flows: flows, wait: c.Wait, seats: c.Seats, bootstrap: newBootstrap(c),
		estimate: work.NewWorkEstimator(stats, flows.GetInterestedWatchCount, work.DefaultWorkEstimatorConfig(), flows.GetMaxSeats),
	}
}

// Requests lets those to h wait for their turn. Of a watch, only the beginning takes a seat: the store says when it is over, by
// WatchStarted.
func (f *Fairness) Requests(h http.Handler, longRunning request.LongRunningRequestCheck) http.Handler {
	return filters.WithPriorityAndFairness(h, longRunning, f.flows, f.estimate, f.wait)
}

// WatchStarted gives back the seat of a watch which has sent what was there when it began; ctx is its request's.
func WatchStarted(ctx context.Context) { flowcontrol.WatchInitialized(ctx) }

// Debug serves tables of levels, queues and waiting requests under upstream's paths, /debug/api_priority_and_fairness/.
func (f *Fairness) Debug() http.Handler {
	m := mux.NewPathRecorderMux("priority and fairness")
	f.flows.Install(m)
	return m
}

// Start follows the objects of the store until ctx is done; Wait returns when what it has started has ended.
func (f *Fairness) Start(ctx context.Context) {
	f.running.Go(func() {
		if err := f.flows.Run(ctx.Done()); err != nil && ctx.Err() == nil {
			f.bootstrap.log.Error("FlowSchemas are not followed", "err", err)
		}
	})
	f.running.Go(func() { f.bootstrap.run(ctx) })
}

func (f *Fairness) Wait() { f.running.Wait() }

// Seed makes the objects that every cluster begins with, where they are missing, and brings those up to date that nobody has changed.
// It returns when each has its condition: what that takes of memory is given back with the rest of what a start has taken.
func (f *Fairness) Seed(ctx context.Context) error {
	if err := f.bootstrap.ensure(ctx); err != nil {
		return err
	}
	return f.bootstrap.settled(ctx)
}
