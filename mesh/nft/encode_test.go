package nft

import (
	"encoding/binary"
	"testing"
)

// TestMapsHaveTheirOwnIDs: kernels disagree on which of two maps of one ID in a batch is meant.
func TestMapsHaveTheirOwnIDs(t *testing.T) {
	rule := New().Spread([]string{"a", "b"})
	tr := &transaction{}
	for want := uint32(1); want <= 2; want++ {
		AddRule{Table: "t", Chain: "c", Rule: rule}.encode(tr)
		if got := binary.BigEndian.Uint32(tr.buffer[len(tr.buffer)-4:]); got != want {
			t.Errorf("the rule looks up map %d, want %d", got, want)
		}
	}
	if got := binary.BigEndian.Uint32(rule.data[len(rule.data)-4:]); got != 0 {
		t.Errorf("the rule itself was changed: %d", got)
	}
}
