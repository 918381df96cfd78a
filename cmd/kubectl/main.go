// Command kubectl is upstream's, unchanged, built from the version that go.mod pins, so that a board needs no other.
package main

import (
	"k8s.io/component-base/cli"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"

	// Cloud and exec credential plugins that kubeconfig files may name.
	_ "k8s.io/client-go/plugin/pkg/client/auth"
)

func main() {
	if err := cli.RunNoErrOutput(cmd.NewDefaultKubectlCommand()); err != nil {
		// The command printed its own errors; this gives the exit code that scripts rely on.
		util.CheckErr(err)
	}
}
