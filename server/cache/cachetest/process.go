package cachetest

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"pgregory.net/rapid"

	"bramble.dev/server/cache"
)

// Runner is what controllers are: Run ends with ctx and their goroutines.
type Runner interface{ Run(ctx context.Context) }

// Begin makes what a process runs, from a client that stops with the process and caches of its own.
type Begin func(client kubernetes.Interface, set *cache.Set) Runner

// Process works on an API, may stop at any of its writes, and can be started again.
//
//	p := api.Start(func(client kubernetes.Interface, set *cache.Set) Runner {
//		return New(Inputs{Client: client, Pods: set.Pods()})
//	})
//	defer p.Stop()
type Process struct {
	api    *API
	begin  Begin
	left   atomic.Int64 // writes until it stops
	every  atomic.Int64 // if not 0: so many writes until one fails
	writes atomic.Int64
	stop   func()
}

// plenty of writes: it does not stop.
const plenty = 1 << 40

// Start starts a process.
func (a *API) Start(begin Begin) *Process {
	p := &Process{api: a, begin: begin}
	p.start()
	return p
}

func (p *Process) start() {
	p.left.Store(plenty)
	p.every.Store(0)
	client := p.api.Client().(*fake.Clientset)
	client.PrependReactor("*", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if v := a.GetVerb(); v == "get" || v == "list" {
			return false, nil, nil
		}
		if p.api.Asked != nil {
			p.api.Asked(a)
		}
		if p.left.Add(-1) < 0 {
			return true, nil, errors.New("the server has stopped")
		}
		n := p.writes.Add(1)
		if every := p.every.Load(); every != 0 && n%every == 0 {
			return true, nil, errors.New("the store is busy")
		}
		return false, nil, nil
	})
	set := cache.NewSet(p.api.Source, Prefix, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	runs := p.begin(client, set)
	done := make(chan struct{})
	go func() { runs.Run(ctx); close(done) }()
	p.stop = func() { cancel(); <-done; set.Close() }
}

// Stop ends the process.
func (p *Process) Stop() { p.stop() }

// Restart ends it and starts another, whose writes succeed and which knows nothing of the first.
func (p *Process) Restart() {
	p.Stop()
	p.start()
}

// CrashAfter makes all writes but the next few fail, until Restart.
func (p *Process) CrashAfter(writes int64) { p.left.Store(writes) }

// Stumble makes each so-many-th write fail, until Restart or Stumble(0).
func (p *Process) Stumble(every int64) { p.every.Store(every) }

// Stopping says that writes fail, or will after some more, until Restart.
func (p *Process) Stopping() bool { return p.left.Load() < plenty/2 }

// Writes counts what it has written, under all its lives.
func (p *Process) Writes() int64 { return p.writes.Load() }

// InBubble runs one check of rapid's with a clock of its own.
func InBubble(t *testing.T, rt *rapid.T, check func(*rapid.T)) {
	var failure any // rapid fails by panics, which must not leave the bubble
	synctest.Test(t, func(*testing.T) {
		defer func() { failure = recover() }()
		check(rt)
	})
	if failure != nil {
		panic(failure)
	}
}
