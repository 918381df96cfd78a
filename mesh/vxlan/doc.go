// Package vxlan joins the nodes' pod subnets: one VXLAN device, and for each other node a route to its
// subnet, a neighbour entry for its gateway and a forwarding entry for its device's address.
//
// Everything is told by the configuration and nothing learned, so there is no multicast, no flooding
// and no traffic while nobody speaks; a peer whose address changes is followed by replacing one entry.
// Set compares what is wanted with what the kernel has, adds before it removes, and goes on after an
// error. The device is made with the first peer on another host: a node alone has none.
//
//	t := vxlan.Open(host, vxlan.Options{Name: "vx-1a2b3c", MAC: mac})
//	err := t.Set(ctx, vxlan.Config{...})
package vxlan
