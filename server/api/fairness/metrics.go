package fairness

import (
	"math"

	"github.com/prometheus/client_golang/prometheus"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// nominal is upstream's name for what a level has where none is lent. Its other series, of which there are histograms by level and
// FlowSchema, are not kept: the tables of Debug tell who waits.
var nominal = prometheus.NewDesc("apiserver_flowcontrol_nominal_limit_seats", "Requests of a priority level that are worked on at once, if it lends and borrows none.", []string{"priority_level"}, nil)

func (f *Fairness) Describe(out chan<- *prometheus.Desc) { out <- nominal }

// Collect computes the seats from the levels as they are.
func (f *Fairness) Collect(out chan<- prometheus.Metric) {
	levels, err := f.bootstrap.levels.List(labels.Everything())
	if err != nil {
		out <- prometheus.NewInvalidMetric(nominal, err)
		return
	}
	for name, seats := range seatsOf(levels, f.seats) {
		out <- prometheus.MustNewConstMetric(nominal, prometheus.GaugeValue, float64(seats), name)
	}
}

// seatsOf shares seats out: each level gets its part of them, rounded up.
func seatsOf(levels []*flowcontrolv1.PriorityLevelConfiguration, seats int) map[string]int {
	var all float64
	for _, l := range levels {
		all += sharesOf(l)
	}
	out := map[string]int{}
	for _, l := range levels {
		if all > 0 {
			out[l.Name] = int(math.Ceil(float64(seats) * sharesOf(l) / all))
		}
	}
	return out
}

func sharesOf(l *flowcontrolv1.PriorityLevelConfiguration) float64 {
	switch {
	case l.Spec.Limited != nil && l.Spec.Limited.NominalConcurrencyShares != nil:
		return float64(*l.Spec.Limited.NominalConcurrencyShares)
	case l.Spec.Exempt != nil && l.Spec.Exempt.NominalConcurrencyShares != nil:
		return float64(*l.Spec.Exempt.NominalConcurrencyShares)
	}
	return 0
}
