// Package version says which Bramble this is, and which Kubernetes it speaks.
//
// scripts/build sets Version with -ldflags "-X bramble.dev/cmd/version.Version=v0.1.0".
//
//	fmt.Println(version.String())
package version

import (
	"fmt"
	"runtime"

	"bramble.dev/internal/upstream"
)

// Version is Bramble's own, "dev" in a build that nobody stamped.
var Version = "dev"

// String is the line that `bramble version` prints.
func String() string {
	return fmt.Sprintf("bramble %s (kubernetes %s, %s %s/%s)", Version, upstream.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
