// Package testimage makes small images for tests from the static busybox of Debian (package busybox-static), so that
// no test needs a network. It is linked into no program.
//
//	img, err := testimage.Busybox(testimage.Options{Cmd: []string{"sleep", "1000"}})
//	err = testimage.WriteDocker(file, "example.com/busybox:1", img)
package testimage

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/google/go-containerregistry/pkg/name"
)

// File is an entry of a layer.
type File struct {
	tar.Header
	Body string
}

// Options say what is in an image beside busybox.
type Options struct {
	Entrypoint, Cmd, Env []string
	User, WorkingDir     string
	StopSignal           string
	Architecture         string // "" is this machine's
	Layers               [][]File
}

// Applets are the names under which busybox is linked.
var Applets = []string{"sh", "cat", "echo", "ls", "sleep", "true", "false", "id", "ps", "kill", "dd", "yes", "head", "hostname", "env", "stty", "tty", "seq",
	"test", "mount", "nc", "wget", "httpd", "touch", "rm", "mkdir", "stat", "grep", "awk", "wc", "date", "ip", "ping", "nslookup", "pwd", "sync", "free", "cut", "sort", "tail", "tr", "trap", "chmod", "df", "find", "md5sum", "printf", "vi", "readlink", "ln", "whoami", "uname"}

// BusyboxLayer is the layer with busybox and a small /etc.
func BusyboxLayer() (v1.Layer, error) {
	bin, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return nil, fmt.Errorf("install the Debian package busybox-static: %w", err)
	}
	at := time.Unix(1700000000, 0)
	files := []File{
		dir("./", 0o755), dir("bin/", 0o755), dir("etc/", 0o755), dir("tmp/", 0o1777), dir("root/", 0o700), dir("home/", 0o755), dir("usr/", 0o755), dir("var/", 0o755),
		{tar.Header{Name: "bin/busybox", Mode: 0o755, Typeflag: tar.TypeReg, ModTime: at}, string(bin)},
		{tar.Header{Name: "etc/passwd", Mode: 0o644, Typeflag: tar.TypeReg, ModTime: at}, "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\nalice:x:1000:1000::/home:/bin/sh\n"},
		{tar.Header{Name: "etc/group", Mode: 0o644, Typeflag: tar.TypeReg, ModTime: at}, "root:x:0:\nnogroup:x:65534:\nalice:x:1000:\nwheel:x:10:alice\n"},
	}
	for _, a := range Applets {
		files = append(files, File{tar.Header{Name: "bin/" + a, Linkname: "busybox", Typeflag: tar.TypeSymlink, Mode: 0o777, ModTime: at}, ""})
	}
	return Layer(files)
}

func dir(name string, mode int64) File {
	return File{tar.Header{Name: name, Mode: mode, Typeflag: tar.TypeDir, ModTime: time.Unix(1700000000, 0)}, ""}
}

// Archive is the uncompressed archive of a layer.
func Archive(files []File) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := f.Header
		h.Size = int64(len(f.Body))
		if err := w.WriteHeader(&h); err != nil {
			return nil, err
		}
		if _, err := io.WriteString(w, f.Body); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return b.Bytes(), err
}

// Layer makes a layer of an image.
func Layer(files []File) (v1.Layer, error) {
	b, err := Archive(files)
	if err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil })
}

// Busybox makes an image.
func Busybox(o Options) (v1.Image, error) {
	base, err := BusyboxLayer()
	if err != nil {
		return nil, err
	}
	layers := []v1.Layer{base}
	for _, files := range o.Layers {
		l, err := Layer(files)
		if err != nil {
			return nil, err
		}
		layers = append(layers, l)
	}
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		return nil, err
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", o.Architecture
	if cfg.Architecture == "" {
		cfg.Architecture = runtime.GOARCH
	}
	cfg.Created = v1.Time{Time: time.Unix(1700000000, 0)}
	cfg.Config = v1.Config{Entrypoint: o.Entrypoint, Cmd: o.Cmd, Env: o.Env, User: o.User, WorkingDir: o.WorkingDir, StopSignal: o.StopSignal}
	if cfg.Config.Env == nil {
		cfg.Config.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	}
	return mutate.ConfigFile(img, cfg)
}

// WriteDocker writes what `docker save` writes.
func WriteDocker(file, ref string, img v1.Image) error {
	tag, err := name.NewTag(ref, name.WeakValidation)
	if err != nil {
		return err
	}
	return tarball.WriteToFile(file, tag, img)
}

// WriteTar packs a folder, such as an OCI layout, into an archive.
func WriteTar(file, folder string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	w := tar.NewWriter(f)
	if err := w.AddFS(os.DirFS(folder)); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return f.Close()
}

// Programs finds the executables for tests: in $BRAMBLE_BIN, or in bin/ of the repository, made by `scripts/build`.
func Programs() (runc, shim, pause string, err error) {
	folder := os.Getenv("BRAMBLE_BIN")
	if folder == "" {
		root, err := os.Getwd() // a test's is its package's folder
		for ; err == nil && root != "/"; root = filepath.Dir(root) {
			if _, err := os.Stat(filepath.Join(root, "go.mod")); err == nil {
				break
			}
		}
		folder = filepath.Join(root, "bin")
	}
	runc, shim, pause = filepath.Join(folder, "runc"), filepath.Join(folder, "bramble-shim"), filepath.Join(folder, "bramble-pause")
	for _, p := range []string{runc, shim, pause} {
		if _, err := os.Stat(p); err != nil {
			return "", "", "", fmt.Errorf("build the programs first (scripts/build): %w", err)
		}
	}
	return runc, shim, pause, nil
}
