// Package informer gives upstream's admission plugins, authorizers and allocators the SharedInformerFactory they want, fed by the
// store in the same process: no sockets, no requests, and, unless asked, no second copy of any object.
//
// A lister reads the store each time and decodes what it finds, so it is never stale and costs nothing while nobody asks. Kinds that
// are read on every request (RBAC) are kept decoded. An event handler has its own follower of the store's changes and its own
// goroutine, which ends with the context that the factory was made with; those of a kept kind share one, which changes what listers
// find before it tells them.
//
// Invariant: objects handed out are shared and must not be changed, as with any informer.
//
//	f := informer.NewFactory(ctx, db, scheme, prefixOf, log, informer.Keep(&rbacv1.ClusterRole{}))
//	ns, err := f.Core().V1().Namespaces().Lister().Get("default")
package informer
