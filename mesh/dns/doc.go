// Package dns is the cluster's name service, in each node's agent: names of Services, their endpoints
// and pods from what the agent knows, everything else from the resolvers that it is given, with a
// bounded cache that also answers while those are away.
//
// It follows the Kubernetes DNS specification 1.1.0. The invariant: a name of the cluster's domain is
// never asked of anybody else, not even with a search domain behind it, and is answered with or without a link.
//
//	s := dns.Open(dns.Options{Logger: log})
//	err := s.Set(ctx, dns.Config{Domain: "cluster.local", Listen: addr, ...})
//	defer s.Close()
package dns
