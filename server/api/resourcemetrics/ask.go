package resourcemetrics

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/types"

	"bramble.dev/link"
)

const (
	kept      = 8 * time.Second // an answer, or that there was none; autoscalers ask every 15 s and want news each time
	patience  = 6 * time.Second // of which the node takes one to see how fast its counters go
	atOnce    = 64              // nodes that are asked side by side
	fresh     = time.Second     // an answer that lacks a pod is taken for the truth for so long: then the pod may have started since
	mostBytes = 4 << 20         // of an answer
)

// asker asks nodes what they use.
type asker struct {
	transport http.RoundTripper // reaches a node by its name
	log       *slog.Logger

	mu      sync.Mutex
	answers map[string]*answer
}

// answer is that of one node; done is closed when it is there, and the rest is not changed any more.
type answer struct {
	done  chan struct{}
	at    time.Time
	usage *link.Usage // nil: it did not answer
}

// ask gives what is known of these nodes, and of these pods on them. Who asks for the same node meanwhile waits for the same answer.
func (a *asker) ask(ctx context.Context, nodes map[string][]types.UID) map[string]*link.Usage {
	var (
		group errgroup.Group
		mu    sync.Mutex
		out   = map[string]*link.Usage{}
	)
	group.SetLimit(atOnce)
	for node, pods := range nodes {
		group.Go(func() error {
			if u := a.one(ctx, node, pods); u != nil {
				mu.Lock()
				defer mu.Unlock()
				out[node] = u
			}
			return nil
		})
	}
	group.Wait()
	return out
}

func (a *asker) one(ctx context.Context, node string, pods []types.UID) *link.Usage {
	a.mu.Lock()
	have := a.answers[node]
	first := have == nil || have.outdated(pods)
	if first {
		have = &answer{done: make(chan struct{})}
		if a.answers == nil {
			a.answers = map[string]*answer{}
		}
		a.answers[node] = have
	}
	a.mu.Unlock()
	if first {
		a.fetch(context.WithoutCancel(ctx), node, have) // others wait for it too
	}
	select {
	case <-have.done:
		return have.usage
	case <-ctx.Done():
		return nil
	}
}

// outdated: one of these pods may have started since.
func (a *answer) outdated(pods []types.UID) bool {
	select {
	case <-a.done:
	default:
		return false
	}
	if a.usage == nil || time.Since(a.at) < fresh {
		return false
	}
	known := make(map[types.UID]bool, len(a.usage.Pods))
	for n := range a.usage.Pods {
		known[a.usage.Pods[n].UID] = true
	}
	return slices.ContainsFunc(pods, func(uid types.UID) bool { return !known[uid] })
}

// fetch asks, and has the answer forgotten when it is no news any more.
func (a *asker) fetch(ctx context.Context, node string, to *answer) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	usage, err := a.get(ctx, node)
	if err != nil {
		a.log.Debug("a node does not say what it uses", "node", node, "err", err)
	}
	to.usage, to.at = usage, time.Now()
	close(to.done)
	time.AfterFunc(kept, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.answers[node] == to {
			delete(a.answers, node)
		}
	})
}

func (a *asker) get(ctx context.Context, node string) (*link.Usage, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+node+link.UsagePath, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept-Encoding", "gzip")
	res, err := a.transport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it answers %s", res.Status)
	}
	body := io.Reader(res.Body)
	if res.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(body)
		if err != nil {
			return nil, err
		}
		body = z
	}
	var u link.Usage
	if err := json.NewDecoder(io.LimitReader(body, mostBytes)).Decode(&u); err != nil {
		return nil, err
	}
	return &u, nil
}
