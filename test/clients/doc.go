// Package clients drives the real server, bin/bramble, with the libraries that people's tools are made of: client-go,
// controller-runtime and helm. No node is there, so no pod starts, and nothing waits for one: what is proved is that these
// libraries cannot tell the API from Kubernetes'. It is a module of its own, so that nothing of them is in Bramble's.
//
//	scripts/test clients                 # builds bramble, and runs all
//	scripts/test clients TestHelm        # one of them
package clients
