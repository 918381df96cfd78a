package image

import (
	"archive/tar"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sys/unix"

	"bramble.dev/runtime/testimage"
)

// testRegistry is a registry on a loopback port; wrap may come between.
func testRegistry(t *testing.T, wrap func(http.Handler) http.Handler) string {
	t.Helper()
	h := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	if wrap != nil {
		h = wrap(h)
	}
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func push(t *testing.T, ref string, img v1.Image) {
	t.Helper()
	r, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(r, img); err != nil {
		t.Fatal(err)
	}
}

// noise is a layer that does not compress.
func noise(size int) []testimage.File {
	b := make([]byte, size)
	x := uint32(1)
	for i := range b {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		b[i] = byte(x)
	}
	return []testimage.File{{Header: tar.Header{Name: "noise", Mode: 0o644, Typeflag: tar.TypeReg}, Body: string(b)}}
}

func TestPull(t *testing.T) {
	host := testRegistry(t, nil)
	img := busybox(t, testimage.Options{Layers: [][]testimage.File{noise(1000)}})
	push(t, host+"/team/tool:v1", img)
	s := open(t, t.TempDir(), Options{})
	var last Progress
	got, err := s.Pull(t.Context(), host+"/team/tool:v1", PullOptions{Progress: func(p Progress) { last = p }})
	if err != nil {
		t.Fatal(err)
	}
	d, _ := img.Digest()
	if want := host + "/team/tool@" + d.String(); got.Reference() != want || len(got.Layers) != 2 {
		t.Errorf("pulled %+v, wanted %s", got, want)
	}
	if last.Done != 2 || last.Layers != 2 || last.Bytes != last.Total {
		t.Errorf("progress %+v", last)
	}
	if entries, _ := os.ReadDir(s.downloads()); len(entries) != 0 {
		t.Errorf("downloads left: %v", entries)
	}
	if again, err := s.Pull(t.Context(), got.Reference(), PullOptions{Policy: "IfNotPresent"}); err != nil || again.ID != got.ID {
		t.Errorf("by digest: %v", err)
	}
	if _, err := s.Pull(t.Context(), "nothing.invalid/x", PullOptions{Policy: "Never"}); !errors.Is(err, ErrNeverPull) {
		t.Errorf("never: %v", err)
	}
	var missing *NotFoundError
	if _, err := s.Pull(t.Context(), host+"/team/none:v1", PullOptions{}); !errors.As(err, &missing) {
		t.Errorf("not there: %v", err)
	}
	var away *UnreachableError
	if _, err := s.Pull(t.Context(), host+"/team/none:v1", PullOptions{}); errors.As(err, &away) {
		t.Errorf("a registry that answers is not there: %v", err)
	}
	if _, err := s.Pull(t.Context(), "127.0.0.1:1/team/tool:v1", PullOptions{}); !errors.As(err, &away) {
		t.Errorf("a registry that does not answer: %v", err)
	}
}

// counter counts the requests for blobs, and may cut them short.
type counter struct {
	next  http.Handler
	cut   int64 // bytes after which a blob's transfer is cut; 0 is never
	blobs atomic.Int64
	bytes atomic.Int64
	large int64 // blobs up to this size are left alone
	mu    sync.Mutex
	seen  []string // ranges that were asked for
}

func (c *counter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") {
		c.next.ServeHTTP(w, r)
		return
	}
	c.blobs.Add(1)
	rec := httptest.NewRecorder()
	ranged := r.Header.Get("Range")
	r.Header.Del("Range") // the registry under test does not know them; we do
	c.next.ServeHTTP(rec, r)
	body := rec.Body.Bytes()
	from := 0
	if ranged != "" {
		from, _ = strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(ranged, "bytes="), "-"))
		c.mu.Lock()
		c.seen = append(c.seen, ranged)
		c.mu.Unlock()
	}
	for k, v := range rec.Header() {
		w.Header()[k] = v
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)-from))
	code := rec.Code
	if ranged != "" && code == http.StatusOK {
		code = http.StatusPartialContent
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(body)-1, len(body)))
	}
	w.WriteHeader(code)
	body = body[from:]
	if c.cut > 0 && int64(len(body)) > c.cut && int64(rec.Body.Len()) > c.large {
		n, _ := w.Write(body[:c.cut])
		c.bytes.Add(int64(n))
		panic(http.ErrAbortHandler)
	}
	n, _ := w.Write(body)
	c.bytes.Add(int64(n))
}

func fastBackoff(t *testing.T) {
	old := backoff
	backoff = func(int) time.Duration { return time.Millisecond }
	t.Cleanup(func() { backoff = old })
}

// TestResume cuts every transfer after 300 KB: the layer arrives in pieces, no byte of it twice.
func TestResume(t *testing.T) {
	fastBackoff(t)
	c := &counter{cut: 300_000, large: 1 << 20}
	host := testRegistry(t, func(h http.Handler) http.Handler { c.next = h; return c })
	img := busybox(t, testimage.Options{Layers: [][]testimage.File{noise(2 << 20)}})
	push(t, host+"/big:1", img)
	c.bytes.Store(0)
	s := open(t, t.TempDir(), Options{})
	if _, err := s.Pull(t.Context(), host+"/big:1", PullOptions{}); err != nil {
		t.Fatal(err)
	}
	var size int64
	layers, _ := img.Layers()
	for _, l := range layers {
		n, _ := l.Size()
		size += n
	}
	cfg, _ := img.RawConfigFile()
	if got := c.bytes.Load(); got != size+int64(len(cfg)) || len(c.seen) < 6 {
		t.Errorf("sent %d bytes for %d; ranges %v", got, size+int64(len(cfg)), c.seen)
	}
}

// TestResumeAfterRestart interrupts a pull; another process goes on with what is there.
func TestResumeAfterRestart(t *testing.T) {
	c := &counter{cut: 700_000, large: 1_500_000} // busybox is left alone
	host := testRegistry(t, func(h http.Handler) http.Handler { c.next = h; return c })
	push(t, host+"/big:1", busybox(t, testimage.Options{Layers: [][]testimage.File{noise(2 << 20)}}))
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond) // within the wait after the first cut
	defer cancel()
	if _, err := open(t, dir, Options{}).Pull(ctx, host+"/big:1", PullOptions{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("the pull that is interrupted: %v", err)
	}
	c.cut = 0
	if _, err := open(t, dir, Options{}).Pull(t.Context(), host+"/big:1", PullOptions{}); err != nil {
		t.Fatal(err)
	}
	if len(c.seen) != 1 || c.seen[0] != "bytes=700000-" {
		t.Errorf("ranges asked for: %v", c.seen)
	}
}

// TestNoRoom: a layer for which the disk has no room is refused at once, and does not fill what is left.
func TestNoRoom(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to mount a small file system")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=12m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	c := &counter{}
	host := testRegistry(t, func(h http.Handler) http.Handler { c.next = h; return c })
	push(t, host+"/big:1", busybox(t, testimage.Options{Layers: [][]testimage.File{noise(16 << 20)}}))
	c.bytes.Store(0)
	s := open(t, dir, Options{})
	if _, err := s.Pull(t.Context(), host+"/big:1", PullOptions{}); !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "room for") {
		t.Errorf("error %v", err)
	}
	if got := c.bytes.Load(); got > 8<<20 {
		t.Errorf("%d bytes were downloaded", got)
	}
}

// TestDamagedDownload finds rubbish in what an earlier process downloaded: the layer is brought once more.
func TestDamagedDownload(t *testing.T) {
	host := testRegistry(t, nil)
	img := busybox(t, testimage.Options{Layers: [][]testimage.File{noise(100_000)}})
	push(t, host+"/x:1", img)
	s := open(t, t.TempDir(), Options{})
	layers, _ := img.Layers()
	d, _ := layers[1].Digest()
	size, _ := layers[1].Size()
	if err := os.WriteFile(filepath.Join(s.downloads(), d.Hex+".part"), make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Pull(t.Context(), host+"/x:1", PullOptions{}); err != nil {
		t.Fatal(err)
	}
}

// TestWrongContent is a registry that sends something else than the digest says.
func TestWrongContent(t *testing.T) {
	fastBackoff(t)
	img := busybox(t, testimage.Options{Layers: [][]testimage.File{noise(100_000)}})
	layers, _ := img.Layers()
	d, _ := layers[1].Digest()
	host := testRegistry(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, d.String()) {
				size, _ := layers[1].Size()
				_, _ = w.Write(make([]byte, size))
				return
			}
			h.ServeHTTP(w, r)
		})
	})
	push(t, host+"/x:1", img)
	s := open(t, t.TempDir(), Options{})
	_, err := s.Pull(t.Context(), host+"/x:1", PullOptions{})
	var wrong *digestError
	if !errors.As(err, &wrong) {
		t.Errorf("error %v", err)
	}
	if len(s.List()) != 0 {
		t.Errorf("images: %v", s.List())
	}
	if _, err := os.Stat(filepath.Join(s.downloads(), d.Hex+".part")); err == nil {
		t.Error("what is wrong was kept")
	}
}

func TestSharedLayers(t *testing.T) {
	c := &counter{}
	host := testRegistry(t, func(h http.Handler) http.Handler { c.next = h; return c })
	push(t, host+"/a:1", busybox(t, testimage.Options{Cmd: []string{"a"}}))
	push(t, host+"/b:1", busybox(t, testimage.Options{Cmd: []string{"b"}}))
	s := open(t, t.TempDir(), Options{})
	for _, n := range []string{"/a:1", "/b:1"} {
		if _, err := s.Pull(t.Context(), host+n, PullOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if got := c.blobs.Load(); got != 3 { // two configurations, one layer
		t.Errorf("%d blobs were fetched", got)
	}
	if err := s.Remove(t.Context(), host+"/a:1"); err != nil {
		t.Fatal(err)
	}
	if l, _ := s.snap.Layers(); len(l) != 1 {
		t.Errorf("the shared layer went: %v", l)
	}
	// A tag that has not moved costs one question and no blob.
	if _, err := s.Pull(t.Context(), host+"/b:1", PullOptions{Policy: "Always"}); err != nil || c.blobs.Load() != 3 {
		t.Errorf("pulled again: %v, %d blobs", err, c.blobs.Load())
	}
	push(t, host+"/b:1", busybox(t, testimage.Options{Cmd: []string{"new"}}))
	if img, err := s.Pull(t.Context(), host+"/b:1", PullOptions{}); err != nil || img.Config.Cmd[0] != "new" {
		t.Errorf("a tag that moved: %v, %+v", err, img)
	}
	named := 0
	for _, img := range s.List() {
		named += len(img.Names)
	}
	if named != 1 {
		t.Errorf("%d names: %+v", named, s.List())
	}
}

func TestPlatforms(t *testing.T) {
	host := testRegistry(t, nil)
	var adds []mutate.IndexAddendum
	for _, p := range []v1.Platform{{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "arm", Variant: "v7"}, {OS: "linux", Architecture: "arm64", Variant: "v8"}, {OS: "unknown", Architecture: "unknown"}} {
		adds = append(adds, mutate.IndexAddendum{Add: busybox(t, testimage.Options{Architecture: p.Architecture, Cmd: []string{p.Architecture}}), Descriptor: v1.Descriptor{Platform: &p}})
	}
	ref, _ := name.ParseReference(host + "/multi:1")
	if err := remote.WriteIndex(ref, mutate.AppendManifests(empty.Index, adds...)); err != nil {
		t.Fatal(err)
	}
	s := open(t, t.TempDir(), Options{})
	for platform, want := range map[string]string{"": Host().Architecture, "linux/arm/v7": "arm", "linux/arm64": "arm64"} {
		o := PullOptions{}
		if platform != "" {
			p := parsePlatform(platform)
			o.Platform = &p
		}
		if img, err := s.Pull(t.Context(), host+"/multi:1", o); err != nil || img.Config.Cmd[0] != want {
			t.Errorf("%s: %v, %+v", platform, err, img)
		}
	}
	p := parsePlatform("linux/riscv64")
	_, err := s.Pull(t.Context(), host+"/multi:1", PullOptions{Platform: &p})
	if want := "image " + host + "/multi:1 is for linux/amd64, linux/arm/v7, linux/arm64, but this node is linux/riscv64; use an image for linux/riscv64, or a node that runs it"; err == nil || err.Error() != want {
		t.Errorf("error %v", err)
	}
	push(t, host+"/only:1", busybox(t, testimage.Options{Architecture: "s390x"}))
	var wrong *PlatformError
	if _, err := s.Pull(t.Context(), host+"/only:1", PullOptions{}); !errors.As(err, &wrong) || !strings.Contains(err.Error(), "linux/s390x") {
		t.Errorf("error %v", err)
	}
}

// private asks for a token, as Docker's registry does, or for a password.
func private(h http.Handler, bearer bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		basic := "Basic " + base64.StdEncoding.EncodeToString([]byte("user:secret"))
		if r.URL.Path == "/token" {
			if r.Header.Get("Authorization") != basic {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			_, _ = fmt.Fprintf(w, `{"token":"tok","expires_in":300}`)
			return
		}
		want := basic
		if bearer {
			want = "Bearer tok"
		}
		if r.Header.Get("Authorization") != want {
			challenge := `Basic realm="x"`
			if bearer {
				challenge = fmt.Sprintf(`Bearer realm="http://%s/token",service="x"`, r.Host)
			}
			w.Header().Set("WWW-Authenticate", challenge)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		h.ServeHTTP(w, r)
	})
}

func TestCredentials(t *testing.T) {
	for name, bearer := range map[string]bool{"basic": false, "bearer": true} {
		t.Run(name, func(t *testing.T) {
			var open_ atomic.Bool
			host := testRegistry(t, func(h http.Handler) http.Handler {
				closed := private(h, bearer)
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if open_.Load() {
						h.ServeHTTP(w, r)
					} else {
						closed.ServeHTTP(w, r)
					}
				})
			})
			open_.Store(true)
			push(t, host+"/secret:1", busybox(t, testimage.Options{}))
			open_.Store(false)
			s := open(t, t.TempDir(), Options{})
			var refused *NotFoundError
			if _, err := s.Pull(t.Context(), host+"/secret:1", PullOptions{}); !errors.As(err, &refused) {
				t.Errorf("anonymous: %v", err)
			}
			var k Keyring
			secret := fmt.Sprintf(`{"auths":{"http://%s/v1/":{"auth":%q},"other.example":{"username":"a","password":"b"}}}`, host, base64.StdEncoding.EncodeToString([]byte("user:secret")))
			if err := k.AddDockerConfig("", []byte(secret)); err != nil {
				t.Fatal(err)
			}
			n, _ := ParseName(host + "/secret:1")
			auths := append([]Auth{{Username: "wrong", Password: "wrong"}}, k.Lookup(n)...)
			if _, err := s.Pull(t.Context(), host+"/secret:1", PullOptions{Auth: auths}); err != nil {
				t.Errorf("with credentials: %v", err)
			}
		})
	}
}

func TestMirror(t *testing.T) {
	mirror := testRegistry(t, nil)
	push(t, mirror+"/library/nginx:1.7.9", busybox(t, testimage.Options{}))
	s := open(t, t.TempDir(), Options{Mirrors: map[string][]string{"docker.io": {"127.0.0.1:1", "http://" + mirror}}})
	img, err := s.Pull(t.Context(), "nginx:1.7.9", PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if img.Names[0] != "docker.io/library/nginx:1.7.9" || !strings.HasPrefix(img.Reference(), "docker.io/library/nginx@sha256:") {
		t.Errorf("pulled %+v", img)
	}
}

// TestNoDowngrade is a registry without TLS at an address that nobody has allowed.
func TestNoDowngrade(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	for host, want := range map[string]bool{"127.0.0.1:5000": true, "localhost:5000": true, "[::1]:5000": true, "192.168.1.2:5000": false, "registry.local": false, "docker.io": false} {
		if got := s.plainAllowed(host); got != want {
			t.Errorf("%s: %v", host, got)
		}
	}
	s.opts.Insecure = []string{"192.168.1.2"}
	if !s.plainAllowed("192.168.1.2:5000") {
		t.Error("an insecure registry is not allowed")
	}
	g := guard{http.DefaultTransport, func(string) bool { return false }}
	req, _ := http.NewRequest(http.MethodGet, "http://192.168.1.3/v2/", nil)
	if _, err := g.RoundTrip(req); err == nil || !strings.Contains(err.Error(), "insecure registry") {
		t.Errorf("plain HTTP: %v", err)
	}
}
