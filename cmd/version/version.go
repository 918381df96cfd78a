// Package version says which Bramble this is, and which Kubernetes it speaks.
//
// scripts/build sets Version with -ldflags "-X bramble.dev/cmd/version.Version=v0.1.0".
package version

import (
	"fmt"
	"runtime"
)

// Kubernetes is the release whose API Bramble serves: that of the k8s.io modules in go.mod.
const Kubernetes = "v1.37.2"

// Version is Bramble's own, "dev" in a build that nobody stamped.
var Version = "dev"

// String is the line that `bramble version` prints.
func String() string {
	return fmt.Sprintf("bramble %s (kubernetes %s, %s %s/%s)", Version, Kubernetes, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
