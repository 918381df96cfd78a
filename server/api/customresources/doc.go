// Package customresources serves CustomResourceDefinitions and the resources that they define: upstream's apiextensions as a library,
// on our store, without the generic API server that it is made for.
//
// The kind CustomResourceDefinition is a kind like any other and is served always (Definitions). What serves the resources that are
// defined, with the controllers that accept names, establish, and clean up, exists only while there is a definition: a cluster that has
// none pays for one goroutine that waits.
//
// Invariants:
//   - who has been told of a definition finds it in effect: every request for a custom resource, every document of discovery and
//     OpenAPI waits until what the store holds has been taken in;
//   - a definition's group never hides a group of the API's own.
//
// A server is made with the API and runs beside it:
//
//	s := customresources.New(customresources.Config{...})
//	go s.Run(ctx)
//	if !builtIn.serve(w, r) { s.ServeHTTP(w, r) }
//
// Tests: server/api/customresources_test.go, server/api/customobjects_test.go
package customresources
