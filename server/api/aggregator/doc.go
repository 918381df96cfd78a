// Package aggregator serves the group versions that APIServices give to other servers, such as an adapter of custom metrics: it finds
// out whether such a server answers and what it serves, announces that, and passes requests on. It is our form of upstream's
// kube-aggregator, whose kinds and registry it uses (https://kubernetes.io/docs/concepts/extend-kubernetes/api-extension/apiserver-aggregation).
//
// The kind APIService is a kind like any other and is served always (Storages). What asks other servers exists only while an APIService
// names a Service: a cluster that has none pays for one goroutine that waits. Every group version that this server answers by itself has
// an APIService too, without a Service (KeepLocal): clients read them.
//
// Invariants:
//   - a group of the API's own is never given to another server, whatever an APIService says;
//   - of a group version that both an APIService's Service and a definition of custom resources claim, the Service has it;
//   - a server that does not answer harms nobody else's requests or documents.
//
// It is made with the API and runs beside it:
//
//	s := aggregator.New(aggregator.Config{...})
//	go s.Run(ctx)
//	if !builtIn.serve(w, r) && !s.Serve(w, r) { customResources.ServeHTTP(w, r) }
//
// Tests: server/api/aggregator_test.go, server/api/aggregator_answers_test.go
package aggregator
