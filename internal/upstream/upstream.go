// Package upstream says which Kubernetes Bramble's behaviour comes from. It is a constant, because the agent links no part of
// k8s.io/kubernetes whose version could be read from the program; its test holds it equal with go.mod.
//
//	fmt.Println(upstream.Version) // v1.37.2
package upstream

// The parts of the version, and the whole.
const (
	Major   = "1"
	Minor   = "37"
	Version = "v" + Major + "." + Minor + ".2"
)
