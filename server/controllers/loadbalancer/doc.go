// Package loadbalancer gives Services of type LoadBalancer their addresses: from
// a pool that the nodes announce on their link, or, where there is none, those of
// the nodes themselves.
//
// Invariant: an address of the pool is never given to two Services. The
// Services' own status and the finalizer that goes with it, written together, are
// all that says who has which, so nothing is lost in a crash; one worker gives
// them, and none before its last gift has been seen.
//
//	pool, err := loadbalancer.ParsePool([]string{"192.168.1.240-192.168.1.250"})
//	l := loadbalancer.New(loadbalancer.Inputs{Pool: pool, ...})
//	l.Run(ctx)
package loadbalancer
