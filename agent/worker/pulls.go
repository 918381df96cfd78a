package worker

import (
	"context"
	"strings"
	"sync"
)

// pullsAtOnce bounds how many images come from one registry at a time.
const pullsAtOnce = 3

// pulls are the images that are being fetched. They are counted by registry: one that hangs holds up nobody else's.
type pulls struct {
	mu   sync.Mutex
	from map[string]*registry
}

type registry struct {
	turns chan struct{}
	users int // who pull, or wait for their turn
}

// begin waits for the turn of an image, which ends with what is returned.
func (p *pulls) begin(ctx context.Context, image string) (end func(), err error) {
	name := registryOf(image)
	p.mu.Lock()
	r := p.from[name]
	if r == nil {
		r = &registry{turns: make(chan struct{}, pullsAtOnce)}
		p.from[name] = r
	}
	r.users++
	p.mu.Unlock()
	left := func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if r.users--; r.users == 0 {
			delete(p.from, name)
		}
	}
	select {
	case r.turns <- struct{}{}:
		return func() { <-r.turns; left() }, nil
	case <-ctx.Done():
		left()
		return nil, ctx.Err()
	}
}

// registryOf is the registry that an image's reference names; empty: the default one.
func registryOf(image string) string {
	host, _, named := strings.Cut(image, "/")
	if named && host != "docker.io" && (strings.ContainsAny(host, ".:") || host == "localhost") {
		return host
	}
	return ""
}
