package link

import metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

// UsagePath is where an agent's kubelet API tells its Usage.
const UsagePath = "/stats/usage"

// Usage is what a node and its pods use now, in the words of the API group metrics.k8s.io. It is told when it is asked for, and
// never by itself.
type Usage struct {
	Node metricsv1beta1.NodeMetrics  `json:"node"`
	Pods []metricsv1beta1.PodMetrics `json:"pods"`
}
