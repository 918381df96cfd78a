package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// builder makes images; layers that several images name are made once.
type builder struct {
	recipe   *Recipe
	debs     debs
	programs string
	trees    map[string]tree
	layers   map[string]v1.Layer
}

func newBuilder(r *Recipe, d debs, programs string) *builder {
	return &builder{recipe: r, debs: d, programs: programs, trees: map[string]tree{}, layers: map[string]v1.Layer{}}
}

// tree is what a layer holds.
func (b *builder) tree(layer string) (tree, error) {
	if t, ok := b.trees[layer]; ok {
		return t, nil
	}
	l, t := b.recipe.Layers[layer], tree{}
	for _, p := range l.Packages {
		if err := b.debs.unpack(t, p); err != nil {
			return nil, err
		}
	}
	if err := t.dirs(l.Dirs); err != nil {
		return nil, err
	}
	for p, content := range l.Files {
		t.file(p, 0o644, []byte(content))
	}
	for p, target := range l.Links {
		t.link(p, target)
	}
	for p, program := range l.Programs {
		data, err := os.ReadFile(filepath.Join(b.programs, program))
		if err != nil {
			return nil, fmt.Errorf("layer %s: %w", layer, err)
		}
		t.file(p, 0o755, data)
	}
	for _, p := range l.Setuid {
		e := t[p]
		e.header.Mode |= 0o6000
		t[p] = e
	}
	if l.Applets {
		if err := applets(t); err != nil {
			return nil, fmt.Errorf("layer %s: %w", layer, err)
		}
	}
	if l.Folder != "" {
		if err := t.folder(filepath.Join(b.recipe.dir, l.Folder)); err != nil {
			return nil, fmt.Errorf("layer %s: %w", layer, err)
		}
	}
	b.trees[layer] = t
	return t, nil
}

// applets links every applet of the layer's busybox that no package brings itself. The list is asked from this
// machine's busybox: Debian builds the same for all architectures.
func applets(t tree) error {
	out, err := exec.Command("busybox", "--list").Output()
	if err != nil {
		return fmt.Errorf("busybox --list: %w", err)
	}
	for _, a := range strings.Fields(string(out)) {
		if p := path.Join("bin", a); a != "busybox" {
			if _, ok := t[p]; !ok {
				t.link(p, "/bin/busybox")
			}
		}
	}
	return nil
}

func (b *builder) layer(layer string) (v1.Layer, error) {
	if l, ok := b.layers[layer]; ok {
		return l, nil
	}
	t, err := b.tree(layer)
	if err != nil {
		return nil, err
	}
	data, err := t.bytes()
	if err != nil {
		return nil, fmt.Errorf("layer %s: %w", layer, err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(data)), nil
	}, tarball.WithCompressionLevel(1), tarball.WithCompressedCaching)
	if err != nil {
		return nil, fmt.Errorf("layer %s: %w", layer, err)
	}
	b.layers[layer] = l
	return l, nil
}

// image puts one image together.
func (b *builder) image(spec Image, platform v1.Platform) (v1.Image, error) {
	img := v1.Image(empty.Image)
	var trees []tree
	for _, name := range spec.Layers {
		l, err := b.layer(name)
		if err != nil {
			return nil, err
		}
		trees = append(trees, b.trees[name])
		img, err = mutate.Append(img, mutate.Addendum{Layer: l, History: v1.History{Created: v1.Time{Time: made}, CreatedBy: "bramble test/images: " + name}})
		if err != nil {
			return nil, err
		}
	}
	if missing := missingLibraries(trees); len(missing) > 0 {
		return nil, fmt.Errorf("image %s lacks libraries: %s", spec.Archive, strings.Join(missing, ", "))
	}
	return mutate.ConfigFile(img, configOf(spec, platform, img))
}

func configOf(spec Image, platform v1.Platform, img v1.Image) *v1.ConfigFile {
	file, _ := img.ConfigFile()
	file = file.DeepCopy()
	file.Created = v1.Time{Time: made}
	file.OS, file.Architecture, file.Variant = platform.OS, platform.Architecture, platform.Variant
	file.Config = v1.Config{
		Entrypoint: spec.Entrypoint, Cmd: spec.Cmd, User: spec.User, WorkingDir: spec.WorkingDir, StopSignal: spec.StopSignal,
		Env:          append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, spec.Env...),
		ExposedPorts: setOf(spec.Ports), Volumes: setOf(spec.Volumes),
	}
	return file
}

func setOf(list []string) map[string]struct{} {
	if len(list) == 0 {
		return nil
	}
	m := map[string]struct{}{}
	for _, e := range list {
		m[e] = struct{}{}
	}
	return m
}

// write makes the archive in the form of `docker save`, complete or not at all.
func (b *builder) write(spec Image, platform v1.Platform, dir string) (string, error) {
	img, err := b.image(spec, platform)
	if err != nil {
		return "", err
	}
	refs := map[name.Reference]v1.Image{}
	for _, n := range spec.Names {
		ref, err := name.ParseReference(n)
		if err != nil {
			return "", fmt.Errorf("name %q: %w", n, err)
		}
		refs[ref] = img
	}
	out := filepath.Join(dir, spec.Archive+".tar")
	if err := tarball.MultiRefWriteToFile(out+".part", refs); err != nil {
		return "", fmt.Errorf("write %s: %w", out, err)
	}
	// make and people compare times: an archive is as old as its content.
	if err := os.Chtimes(out+".part", time.Time{}, made); err != nil {
		return "", err
	}
	return out, os.Rename(out+".part", out)
}
