// Package openapi serves upstream's OpenAPI documents of what the API serves. They are data: made once by the generator from the
// JSON in the module k8s.io/kubernetes, trimmed, compressed, embedded, and sent as they lie. Nothing of them is ever on the heap
// of a server whose clients accept gzip.
//
// Invariant: a document's ETag and the hash in its address change exactly when its content does.
//
// Documents of custom resources, and those of other servers, are made or fetched when they are asked for, and never kept: theirs of
// version 3 lie beside the embedded ones, and their parts of the one document of version 2 are put into its text while it is sent.
//
//	h := openapi.Handler{Custom: []openapi.Custom{others, definitions}}
//	http.HandleFunc("/openapi/v2", h.V2)
//	http.HandleFunc("/openapi/v3/", h.V3)
//
// The old versions of the edge are not in them, as they are in no OpenAPI document of upstream's: clients that validate by a document
// skip what they do not find. Version 2 says of them that they know dry runs, which kubectl before 1.27 asks the document about.
//
// Tests: server/api/requests_test.go, server/api/customobjects_test.go
package openapi

//go:generate go run ./gen
