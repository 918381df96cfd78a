// Command images makes container images from Debian packages: the demo's and the tests' nginx, busybox and perl
// under the names that the course's manifests (configs/manifests) use, and those that upstream's conformance specs
// name. No registry is needed, and the same packages give the same digests on any day (times are fixed, entries
// sorted).
//
//	go run ./test/images --recipe test/images/demo.yaml --out build/images nginx busybox
package main

import (
	"flag"
	"fmt"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// platforms: Debian's name of an architecture -> what images call it.
var platforms = map[string]v1.Platform{
	"amd64": {OS: "linux", Architecture: "amd64"},
	"arm64": {OS: "linux", Architecture: "arm64", Variant: "v8"},
	"armhf": {OS: "linux", Architecture: "arm", Variant: "v7"},
}

func main() {
	recipe := flag.String("recipe", "test/images/demo.yaml", "the file that says what is in the images")
	out := flag.String("out", "build/images", "folder for the archives")
	cache := flag.String("cache", "/var/tmp/bramble-cache/debs", "folder for downloaded packages")
	programs := flag.String("programs", "", "folder of the programs that layers name")
	arch := flag.String("arch", "amd64", "Debian architecture: amd64, arm64 or armhf")
	flag.Parse()
	if err := run(*recipe, *out, *cache, *programs, *arch, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

func run(recipe, out, cache, programs, arch string, archives []string) error {
	platform, ok := platforms[arch]
	if !ok {
		return fmt.Errorf("unknown architecture %q", arch)
	}
	r, err := readRecipe(recipe)
	if err != nil {
		return err
	}
	images, err := r.choose(archives)
	if err != nil {
		return err
	}
	d := debs{dir: cache, arch: arch}
	if err := d.fetch(r.packages(images)); err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	b := newBuilder(r, d, programs)
	for _, img := range images {
		p := platform
		if img.Platform != "" {
			parsed, err := v1.ParsePlatform(img.Platform)
			if err != nil {
				return fmt.Errorf("image %s: %w", img.Archive, err)
			}
			p = *parsed
		}
		path, err := b.write(img, p, out)
		if err != nil {
			return err
		}
		fmt.Println(path)
	}
	return nil
}
