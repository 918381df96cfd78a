// Package ingress serves Ingresses: hosts and paths of HTTP, and of HTTPS by the Secrets that they name, lead to Services'
// endpoints.
//
// The work is done by a process of its own, without root, which has the listening sockets and the table of what to serve, and
// nothing else: the agent starts it when there is an Ingress, tells it each new table on a socket, and ends it when there is
// none. It outlives the agent: the next one finds it by that socket.
//
// Invariant: a table replaces the one before as a whole. A request is sent a second time, to another endpoint, only when the
// first got nothing of it.
//
//	r := ingress.Open(ingress.Options{Dir: dir, HTTP: 80, HTTPS: 443, Logger: log})
//	problems, err := r.Set(ctx, ingress.Config{Ingresses: ingresses, Services: services, EndpointSlices: slices, Secret: secret}, except)
package ingress
