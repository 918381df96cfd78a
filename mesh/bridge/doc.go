// Package bridge connects a node's pods: one bridge with the node's address in their subnet, and for
// each pod a network namespace with a pair of virtual Ethernet links.
//
// A pod's address is alone in its subnet (/32) and its only way leads to the bridge's address. So every
// packet of a pod passes the host's routing, where Services and policies are applied, also between
// two pods of one node, and neither br_netfilter nor its sysctl is needed for that.
//
// The namespace is a file (a bind mount, as `ip netns` makes them), so that it outlives the agent. What
// exists is found again and completed, never made twice.
//
//	b := bridge.Open(host, bridge.Options{Name: "br-1a2b3c", Veth: "ve1a2b3c", Dir: dir})
//	err := b.Set(ctx, bridge.Config{Gateway: netip.MustParsePrefix("10.42.1.1/24"), MTU: 1450})
//	path, err := b.Attach(ctx, bridge.Pod{ID: uid, IP: ip})
//
// Tests: mesh/hosts_test.go, mesh/life_test.go
package bridge
