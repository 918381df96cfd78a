// Package fairness shares the API out among those who ask it: a client that floods the server waits for itself, and not everybody
// for it. It is upstream's priority and fairness (KEP-1040), on the store's own caches.
//
// A FlowSchema tells to which PriorityLevelConfiguration a request belongs and whose it is. Each level has seats by its share of all
// seats, and lends some of those that it leaves empty; within a level, requests that find no seat wait in queues that a flow shares
// with few others. What waits too long, or finds its queues full, is answered 429.
//
// Invariants: upstream's objects for a beginning are there, and of those that must be there a change is taken back; every answer from
// the network names, by UID, the FlowSchema and the level that the request was of; who may do everything (system:masters) never waits.
//
//	f := fairness.New(fairness.Config{Informers: informers, Client: client.FlowcontrolV1(), Seats: 600, Size: size, Logger: log})
//	h = f.Requests(h, longRunning)
//	f.Start(ctx)
//	err := f.Seed(ctx)
//	f.Wait() // when ctx is done
package fairness
