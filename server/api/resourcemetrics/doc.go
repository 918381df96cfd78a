// Package resourcemetrics serves the API group metrics.k8s.io, which elsewhere is a program of its own (metrics-server): what nodes
// and pods use, for `kubectl top` and autoscalers.
//
// Nobody collects anything. A request asks the nodes that it is about, over their links, and the answers are kept for as long as
// they are news: for some seconds, and for one where a pod is asked about that an answer does not tell of. While nobody asks,
// nothing is sent, and nothing is in memory.
//
// Invariant: at most one answer a node is kept, and none longer than kept; a node that does not answer in time is left out, and
// delays a request by no more than patience.
//
//	g := resourcemetrics.Group{Config: resourcemetrics.Config{Transport: t, Pods: pods, Nodes: nodes, Log: log}}
//	info, err := g.NewRESTStorage(nil, nil)
package resourcemetrics
