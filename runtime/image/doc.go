// Package image keeps the images of a node: it pulls them from registries, imports them from archives, lists and
// removes them.
//
// The invariant: an image that can be found is whole. Its record is written after all of its layers are on the disk;
// downloads and half-unpacked layers lie under names of their own, are resumed or swept, and are never seen. A layer's
// digest is checked when it is unpacked; its file count and sizes once a boot.
//
//	store, err := image.Open(dir, snapshots, image.Options{Logger: log})
//	img, err := store.Pull(ctx, "nginx:1.7.9", image.PullOptions{})
//	img, ok := store.Resolve("docker.io/library/nginx:1.7.9") // the same
package image
