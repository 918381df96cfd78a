// Command walk starts a cluster of three hosts and walks through the course on it; scripts/course prepares what it needs.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"bramble.dev/test/course"
	"bramble.dev/test/hosts"
)

func main() {
	bin := flag.String("bin", "bin", "folder of the executables")
	images := flag.String("images", "build/images", "folder of the image archives")
	manifests := flag.String("manifests", "configs/manifests", "folder of the course's manifests")
	old := flag.String("kubectl", "", "Debian's kubectl 1.20")
	flag.Parse()
	if err := run(*bin, *images, *manifests, *old); err != nil {
		fmt.Fprintln(os.Stderr, "course:", err)
		os.Exit(1)
	}
}

func run(bin, images, manifests, old string) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	lab, err := hosts.New(hosts.Options{Hosts: 3})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lab.Close()) }()
	mirror, err := course.StartMirror(lab)
	if err != nil {
		return err
	}
	defer mirror.Close()
	bin, _ = filepath.Abs(bin)
	images, _ = filepath.Abs(images)
	cluster, err := hosts.StartCluster(ctx, lab, hosts.ClusterOptions{Bin: bin, Images: course.Archives(images), AgentArgs: mirror.AgentArgs()})
	if err != nil {
		return err
	}
	_, err = course.Walk(ctx, course.Options{Cluster: cluster, Manifests: manifests, Images: images, Mirror: mirror, OldKubectl: old, Out: os.Stdout})
	return err
}
