package mesh

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// settling is how long a link that comes up has for its addresses and routes, before the mesh is looked after.
const settling = 200 * time.Millisecond

// watch puts right from time to time what others did to the mesh: a `flush ruleset`, a network manager
// that tidies up, a Docker that is started. It costs a few questions to the kernel. When a link has come up it does so at once: the
// kernel took the link's routes, those to other nodes' pods among them, when it went down, and tells nobody.
func (m *Mesh) watch(ctx context.Context) {
	tick := time.NewTicker(m.recheck)
	defer tick.Stop()
	cameUp, err := m.host.CameUp(ctx.Done())
	if err != nil {
		m.Logger.Warn("links that come up are noticed late", "err", err)
	}
	said := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case _, ok := <-cameUp:
			if !ok {
				cameUp = nil // there is the ticker
				continue
			}
			select {
			case <-time.After(settling):
			case <-ctx.Done():
				return
			}
		}
		m.mu.Lock()
		var err error
		if m.ready {
			addrs, unknown := m.addresses() // the rest is put right without them
			err = errors.Join(unknown, m.set(ctx, addrs))
		}
		m.mu.Unlock()
		if now := fmt.Sprint(err); err != nil && ctx.Err() == nil && now != said {
			m.Logger.Error("the node's network cannot be kept as it should be", "err", err)
			said = now
		} else if err == nil {
			said = ""
		}
	}
}
