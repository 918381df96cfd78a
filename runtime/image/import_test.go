package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"bramble.dev/runtime/snapshot"
	"bramble.dev/runtime/testimage"
	"bramble.dev/test/emulated"
)

func tarFile(name string) tar.Header {
	return tar.Header{Name: name, Mode: 0o644, Typeflag: tar.TypeReg}
}

func openAny(t testing.TB, dir string) *Store {
	t.Helper()
	return openWith(t, dir, Options{})
}

func open(t *testing.T, dir string, o Options) *Store {
	t.Helper()
	if emulated.By() != "" {
		t.Skip("qemu-user has no openat2(2), with which layers are unpacked")
	}
	return openWith(t, dir, o)
}

func openWith(t testing.TB, dir string, o Options) *Store {
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

func importFile(t *testing.T, s *Store, path string) ([]Image, error) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return s.Import(t.Context(), f)
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
	got, err := importFile(t, s, file)
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
	got, err := importFile(t, s, file)
	if err != nil {
		t.Fatal(err)
	}
	ref, _ := name.NewTag("example.com/tool:2")
	if len(got) != 1 || got[0].Names[0] != ref.String() || len(got[0].Digests) != 1 {
		t.Fatalf("imported %+v", got)
	}
}

// TestImportBad feeds archives with which something is wrong: the error says what, and nothing is left.
func TestImportBad(t *testing.T) {
	good := filepath.Join(t.TempDir(), "good.tar")
	if err := testimage.WriteDocker(good, "x:1", busybox(t, testimage.Options{})); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	foreign := filepath.Join(t.TempDir(), "foreign.tar")
	if err := testimage.WriteDocker(foreign, "x:1", busybox(t, testimage.Options{Architecture: "s390x"})); err != nil {
		t.Fatal(err)
	}
	other, _ := os.ReadFile(foreign)
	flipped := bytes.Clone(whole)
	at := bytes.Index(flipped, []byte{0x1f, 0x8b}) // inside the compressed layer
	flipped[at+5000] ^= 1
	noManifest := archiveOf(t, map[string]string{"a.json": "{}"})
	noLayer := archiveOf(t, map[string]string{"manifest.json": `[{"Config":"c.json","RepoTags":["x:1"],"Layers":["l.tar"]}]`,
		"c.json": `{"architecture":"` + Host().Architecture + `","os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:` + strings.Repeat("ab", 32) + `"]}}`})
	for _, tt := range []struct {
		name    string
		archive []byte
		want    string
	}{
		{"empty", nil, "ends too early"},
		{"xz", append([]byte("\xfd7zXZ\x00"), whole...), "compressed with xz, which is not read: undo that first (xz -dk)"},
		{"cut in a layer", whole[:len(whole)/2], "ends too early"},
		{"cut in a header", whole[:100], "ends too early"},
		{"no archive", []byte(strings.Repeat("this is text\n", 1000)), "no image archive"},
		{"a bit is wrong", flipped, "layer"},
		{"no manifest", noManifest, "neither manifest.json nor index.json"},
		{"no layer", noLayer, "l.tar"},
		{"foreign", other, "linux/s390x"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := open(t, t.TempDir(), Options{})
			file := filepath.Join(t.TempDir(), "bad.tar")
			if err := os.WriteFile(file, tt.archive, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := importFile(t, s, file)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), file) {
				t.Errorf("error %v", err)
			}
			if entries, _ := os.ReadDir(filepath.Join(s.dir, "layers")); len(entries) != 0 {
				t.Errorf("layers left: %v", entries)
			}
			if entries, _ := os.ReadDir(s.records()); len(entries) != 0 {
				t.Errorf("records left: %v", entries)
			}
		})
	}
}

func archiveOf(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var list []testimage.File
	for name, body := range files {
		list = append(list, testimage.File{Header: tar.Header{Name: name, Mode: 0o644, Typeflag: tar.TypeReg}, Body: body})
	}
	b, err := testimage.Archive(list)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestImportCompressed imports a `docker save | gzip`, and one whose image has a layer twice.
func TestImportCompressed(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	var empty []testimage.File
	file := filepath.Join(t.TempDir(), "i.tar")
	if err := testimage.WriteDocker(file, "twice:1", busybox(t, testimage.Options{Layers: [][]testimage.File{empty, noise(10), empty}})); err != nil {
		t.Fatal(err)
	}
	plain, _ := os.ReadFile(file)
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, _ = z.Write(plain)
	_ = z.Close()
	got, err := s.Import(t.Context(), &packed)
	if err != nil {
		t.Fatal(err)
	}
	if len(got[0].Layers) != 4 || got[0].Layers[1] != got[0].Layers[3] {
		t.Errorf("layers %v", got[0].Layers)
	}
	root, err := s.snap.Mount("twice", got[0].Layers)
	if err != nil {
		t.Fatal(err)
	}
	defer s.snap.Unmount("twice")
	if _, err := os.Stat(filepath.Join(root, "noise")); err != nil {
		t.Error(err)
	}
}

// TestImportMemory imports an image that is larger than what the process may grow by.
func TestImportMemory(t *testing.T) {
	const size = 256 << 20
	s := open(t, t.TempDir(), Options{})
	body, done := io.Pipe()
	go func() {
		w := tar.NewWriter(done)
		_ = w.WriteHeader(&tar.Header{Name: "big.tar", Typeflag: tar.TypeReg, Size: 512 + size + 1024, Mode: 0o644})
		inner := tar.NewWriter(w)
		_ = inner.WriteHeader(&tar.Header{Name: "zeros", Typeflag: tar.TypeReg, Size: size, Mode: 0o644})
		_, _ = io.CopyN(inner, zeros{}, size)
		_ = inner.Close()
		_ = w.Close()
		_ = done.Close()
	}()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := s.Import(t.Context(), body); err == nil {
		t.Error("an archive without a manifest was imported")
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 8<<20 {
		t.Errorf("allocated %d bytes for a layer of %d", grown, size)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// TestRecordDamaged damages an image's record, and another's layer: both images are gone, with a word in the log.
func TestRecordDamaged(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	for _, n := range []string{"a", "b"} {
		file := filepath.Join(t.TempDir(), n)
		if err := testimage.WriteDocker(file, n+":1", busybox(t, testimage.Options{Cmd: []string{n}, Layers: [][]testimage.File{{{Header: tar.Header{Name: n, Typeflag: tar.TypeReg, Mode: 0o600}, Body: n}}}})); err != nil {
			t.Fatal(err)
		}
		if _, err := importFile(t, s, file); err != nil {
			t.Fatal(err)
		}
	}
	a, _ := s.Resolve("a:1")
	b, _ := s.Resolve("b:1")
	record := filepath.Join(s.records(), hexOf(a.ID)+".json")
	raw, _ := os.ReadFile(record)
	raw[10] ^= 1
	if err := os.WriteFile(record, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, "layers", b.Layers[1], "fs", "b"), 0); err != nil {
		t.Fatal(err)
	}
	again := open(t, dir, Options{})
	if _, ok := again.Resolve("a:1"); ok {
		t.Error("an image with a damaged record is there")
	}
	if err := again.Verify(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, ok := again.Resolve("b:1"); ok {
		t.Error("an image with a damaged layer is there")
	}
	if l, _ := again.snap.Layers(); len(l) != 1 { // a's own, which is kept for a day; b's went with b
		t.Errorf("layers %v", l)
	}
}
