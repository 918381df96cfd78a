package fairness

import (
	"maps"
	"slices"
	"testing"

	upstream "k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
)

// Upstream's shares of 245 in all, of upstream's 600 seats.
func TestSeats(t *testing.T) {
	got := seatsOf(slices.Concat(upstream.MandatoryPriorityLevelConfigurations, upstream.SuggestedPriorityLevelConfigurations), 600)
	want := map[string]int{"exempt": 0, "catch-all": 13, "system": 74, "node-high": 98, "leader-election": 25, "workload-high": 98, "workload-low": 245, "global-default": 49}
	if !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got := seatsOf(nil, 600); len(got) != 0 {
		t.Errorf("of no levels: %v", got)
	}
}
