package mesh

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// watch puts right from time to time what others did to the mesh: a `flush ruleset`, a network manager
// that tidies up, a Docker that is started. It costs a few questions to the kernel.
func (m *Mesh) watch(ctx context.Context) {
	tick := time.NewTicker(m.recheck)
	defer tick.Stop()
	said := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
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
