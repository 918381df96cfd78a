// Package mesh is a node's network: its pods' links and addresses, the tunnel to other nodes' pods, the
// cluster's Services and names.
//
// Set is given everything at each change and is idempotent; each part finds out what differs from what
// the kernel has, adds before it removes, and one part's failure does not stop the others. The mesh
// belongs to the network namespace that Open was called in. It knows neither agent, server nor link.
//
// The invariant: whatever happens to the agent, packets go on flowing as the last Set said; a new
// agent's first Set adopts links, namespaces, rules and addresses without a gap.
//
//	m, err := mesh.Open(ctx, mesh.Options{Instance: "1a2b3c", Dir: dir, Logger: log})
//	err = m.Set(ctx, mesh.Config{...})
//	a, err := m.Attach(ctx, mesh.PodNetwork{UID: uid, Namespace: "default", Name: "web"})
//	// a.NetNS goes to the sandbox, a.IP into the pod's status
package mesh
