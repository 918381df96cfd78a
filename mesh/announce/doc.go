// Package announce makes one node of a link answer for each address of a load balancer, by ARP.
//
// The nodes decide among themselves, by what they hear of each other on the link itself: each tells the others twice
// a second which addresses it can serve, and the one whose hash with an address is the highest of those that were
// heard lately has it. So a node that dies is replaced within three seconds whether or not there is a server.
//
// Invariant: an address that some node of the link can serve is announced by one of them. For a moment, while a node
// has not heard of another, it may be two; never none for longer than it takes to miss a node. While there is no
// address to announce, nothing is sent and nothing runs.
//
//	a := announce.Open(announce.Options{Enter: host.Do, Logger: log})
//	err := a.Set(ctx, announce.Config{Self: "pi1", NodeIP: ip, Addresses: addresses, Peers: peers})
package announce
