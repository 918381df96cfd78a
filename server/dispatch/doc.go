// Package dispatch turns the state of the cluster into what each node needs, and what nodes report
// into writes to the API. It is the server's end of the link.
//
// Invariants: what a node is to have is a pure function of the cluster's objects (see derive.go), so
// that it does not matter which changes were seen or missed; a node gets only what its own pods name;
// only the node's own key speaks for it; nothing is kept for a node that is away but a mark of how
// far it is.
//
//	d, err := dispatch.New(dispatch.Config{Caches: caches, Client: client, Transport: t, Identity: pki, Cluster: cluster, Logger: log})
//	go d.Run(ctx)
//	conn, err := d.DialNode(ctx, "pi1", "kubelet")
package dispatch
