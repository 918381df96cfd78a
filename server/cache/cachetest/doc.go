// Package cachetest is a small stand-in for the API server and its store, for
// tests of what lives above the caches: a client-go client whose writes come
// back through a cache.Source.
//
// It keeps the promises that controllers rest on (UIDs, resource versions and
// conflicts, generations, status apart from spec, finalizers, graceful
// deletion of pods) and no others: nothing is defaulted, validated or
// authorized. The real server has its own tests.
//
//	api := cachetest.New()
//	set := api.Set(t)
//	api.Client().CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{})
//	err := set.Pods().WaitSynced(ctx)
package cachetest
