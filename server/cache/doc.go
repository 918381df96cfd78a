// Package cache keeps decoded copies of the store's objects in memory for the
// parts that live in the server: controllers, scheduler and dispatch.
//
// A cache is a snapshot of one resource and everything that happened after it,
// in the store's order. It never asks the API and never writes. Its objects are
// shared by all readers: whoever wants to change one copies it first.
//
// Invariant: between two changes that a handler sees, Get and List show exactly
// the state after the former or the latter, and a handler sees every object
// that ever was in the cache leave it again, also when the source lost its
// place and the cache had to start over.
//
//	set := cache.NewSet(source, prefixOf, logger)
//	defer set.Close()
//	pods := set.Pods()
//	stop := pods.OnChange(func(c cache.Change[corev1.Pod]) { queue.Add(c.Key()) })
//	defer stop()
//	pod, ok := pods.Get("default", "web-0")
package cache
