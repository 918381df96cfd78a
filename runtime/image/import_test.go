package image

import (
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"bramble.dev/runtime/snapshot"
	"bramble.dev/runtime/testimage"
)

func open(t *testing.T, dir string, o Options) *Store {
	t.Helper()
	snap, err := snapshot.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(dir, snap, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func busybox(t *testing.T, o testimage.Options) v1.Image {
	t.Helper()
	img, err := testimage.Busybox(o)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestImportDocker(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	file := filepath.Join(t.TempDir(), "nginx.tar")
	img := busybox(t, testimage.Options{Cmd: []string{"sleep", "1"}})
	if err := testimage.WriteDocker(file, "nginx:1.7.9", img); err != nil {
		t.Fatal(err)
	}
	got, err := s.ImportFile(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	id, _ := img.ConfigName()
	if len(got) != 1 || got[0].ID != id.String() || got[0].Names[0] != "docker.io/library/nginx:1.7.9" {
		t.Fatalf("imported %+v", got)
	}
	for _, ref := range []string{"nginx:1.7.9", "docker.io/library/nginx:1.7.9", "library/nginx:1.7.9", id.String(), id.Hex} {
		if _, ok := s.Resolve(ref); !ok {
			t.Errorf("%s is not found", ref)
		}
	}
	again := open(t, dir, Options{}) // as after a restart
	if img, ok := again.Resolve("nginx:1.7.9"); !ok || len(img.Layers) != 1 {
		t.Errorf("after a restart: %+v, %v", img, ok)
	}
	if err := again.Verify(t.Context()); err != nil || len(again.List()) != 1 {
		t.Errorf("verified: %v, %d images", err, len(again.List()))
	}
	if err := again.Remove(t.Context(), "nginx:1.7.9"); err != nil {
		t.Fatal(err)
	}
	if l, _ := again.snap.Layers(); len(l) != 0 {
		t.Errorf("layers left: %v", l)
	}
}

func TestImportOCI(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	folder := t.TempDir()
	p, err := layout.Write(folder, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{
		Add: busybox(t, testimage.Options{}), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: Host().Architecture, Variant: Host().Variant}},
	})
	if err := p.AppendIndex(index, layout.WithAnnotations(map[string]string{refAnnotation: "example.com/tool:2"})); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "oci.tar")
	if err := testimage.WriteTar(file, folder); err != nil {
		t.Fatal(err)
	}
	got, err := s.ImportFile(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	ref, _ := name.NewTag("example.com/tool:2")
	if len(got) != 1 || got[0].Names[0] != ref.String() || len(got[0].Digests) != 1 {
		t.Fatalf("imported %+v", got)
	}
}
