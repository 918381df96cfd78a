package ipam

import (
	"encoding/json"
	"net/netip"
)

// Allocate reserves and syncs.
func (p *Pool) Allocate(id string, subnet netip.Prefix, note json.RawMessage) (Lease, error) {
	l, err := p.Reserve(id, subnet, note)
	if err != nil {
		return Lease{}, err
	}
	return l, p.Sync(id)
}
