// Package services makes a node answer for the cluster's Services: one nftables table that sends each
// new connection to a ClusterIP, node port, external or load-balancer address to one ready endpoint.
//
// Set is given the whole configuration each time; what differs from the last one becomes one
// transaction, after one that makes the chains which are new to it, so that no packet ever meets half
// of a change and a new connection never fails while a Deployment is rolled (nft.Switch, balance and
// spread see to what the kernel alone does not give). The invariant: applying a change to any earlier
// state gives the same table as loading the configuration into an empty kernel, up to the order of
// endpoints.
//
// # The table
//
// The map `vips` leads from address, protocol and port to a chain, `node-ports` from protocol and
// port. With three endpoints that is the chain vip/3, which picks vip-0, vip-1 or vip-2 at random; the
// chain vip-1 sends the packet to what the map `vip-1` has for its address, protocol and port. So there
// are as many chains and maps as the largest Service has endpoints, not as many as there are Services:
// a Service is elements and nothing else, and 5,000 of them load and change like ten. (The kernel
// finds sets by walking a list: a set for each Service, which kube-proxy has, would make each change
// cost more with each Service.) Only session affinity and source ranges have chains of their own.
//
// No packet marks are used: whether a source must be translated is seen from the packet and its
// connection (see base.go), so that two clusters, Docker and a VPN on one machine do not meet in a bit.
//
//	p := services.Open(kernel, services.Options{Table: "bramble-1a2b3c", Logger: log})
//	err := p.Set(ctx, services.Config{...})
package services
