package resourcemetrics

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"bramble.dev/link"
)

const (
	kept      = 8 * time.Second // an answer, or that there was none; autoscalers ask every 15 s and want news each time
	patience  = 6 * time.Second // of which the node takes one to see how fast its counters go
	atOnce    = 64              // nodes that are asked side by side
	mostBytes = 4 << 20         // of an answer
)

// asker asks nodes what they use.
type asker struct {
	transport http.RoundTripper // reaches a node by its name
	log       *slog.Logger

	mu      sync.Mutex
	answers map[string]*answer
}

// answer is that of one node; done is closed when it is there.
type answer struct {
	done  chan struct{}
	usage *link.Usage
}

// ask gives what is known of these nodes. Who asks for the same node meanwhile waits for the same answer.
func (a *asker) ask(ctx context.Context, nodes []string) map[string]*link.Usage {
	found := make([]*link.Usage, len(nodes))
	var group errgroup.Group
	group.SetLimit(atOnce)
	for n, node := range nodes {
		group.Go(func() error {
			found[n] = a.one(ctx, node)
			return nil
		})
	}
	group.Wait()
	out := map[string]*link.Usage{}
	for n, u := range found {
		if u != nil {
			out[nodes[n]] = u
		}
	}
	return out
}

func (a *asker) one(ctx context.Context, node string) *link.Usage {
	a.mu.Lock()
	have := a.answers[node]
	first := have == nil
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

// fetch asks, and has the answer forgotten when it is no news any more.
func (a *asker) fetch(ctx context.Context, node string, to *answer) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	usage, err := a.get(ctx, node)
	if err != nil {
		a.log.Debug("a node does not say what it uses", "node", node, "err", err)
	}
	to.usage = usage
	close(to.done)
	time.AfterFunc(kept, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.answers, node)
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
