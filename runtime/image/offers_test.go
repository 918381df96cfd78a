package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"bramble.dev/runtime/testimage"
)

// archive is what `docker save` makes of an image.
func archive(t *testing.T, as string, img v1.Image) *bytes.Reader {
	t.Helper()
	ref, err := name.NewTag(as)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := tarball.Write(ref, img, &b); err != nil {
		t.Fatal(err)
	}
	if _, err := tar.NewReader(bytes.NewReader(b.Bytes())).Next(); err != nil {
		t.Fatal(err)
	}
	return bytes.NewReader(b.Bytes())
}

func offered(s *Store) string {
	all := s.Offers()
	var out []string
	for _, name := range slices.Sorted(maps.Keys(all)) {
		out = append(out, fmt.Sprint(name, " ", all[name]))
	}
	return strings.Join(out, "; ")
}

// TestOffersOfARegistry: an index tells all that there is, also when none of it is for this machine.
func TestOffersOfARegistry(t *testing.T) {
	host := testRegistry(t, nil)
	index := func(tag string, platforms ...v1.Platform) {
		var adds []mutate.IndexAddendum
		for _, p := range platforms {
			adds = append(adds, mutate.IndexAddendum{Add: busybox(t, testimage.Options{Architecture: p.Architecture}), Descriptor: v1.Descriptor{Platform: &p}})
		}
		ref, _ := name.ParseReference(host + tag)
		if err := remote.WriteIndex(ref, mutate.AppendManifests(empty.Index, adds...)); err != nil {
			t.Fatal(err)
		}
	}
	here := v1.Platform{OS: "linux", Architecture: Host().Architecture}
	index("/some:1", here, v1.Platform{OS: "linux", Architecture: "riscv64"}, v1.Platform{OS: "unknown", Architecture: "unknown"})
	index("/none:1", v1.Platform{OS: "linux", Architecture: "s390x"})
	push(t, host+"/one:1", busybox(t, testimage.Options{Architecture: "s390x"}))
	dir := t.TempDir()
	s := open(t, dir, Options{})
	if _, err := s.Pull(t.Context(), host+"/some:1", PullOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, tag := range []string{"/none:1", "/one:1"} {
		var wrong *PlatformError
		if _, err := s.Pull(t.Context(), host+tag, PullOptions{}); !errors.As(err, &wrong) {
			t.Errorf("%s: %v", tag, err)
		}
	}
	want := fmt.Sprintf("%s/none:1 [linux/s390x]; %[1]s/one:1 [linux/s390x]; %[1]s/some:1 [%s linux/riscv64]", host, Host())
	if got := offered(s); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if s.Unfit(host+"/some:1") != nil || s.Unfit(host+"/never-seen:1") != nil || s.Unfit(host+"/one:1") == nil {
		t.Error("which of them this machine runs")
	}
	if got := offered(open(t, dir, Options{})); got != want {
		t.Errorf("after a restart: %s", got)
	}
	// The image is made again, for this machine too.
	push(t, host+"/one:1", busybox(t, testimage.Options{}))
	if _, err := s.Pull(t.Context(), host+"/one:1", PullOptions{}); err != nil || s.Unfit(host+"/one:1") != nil {
		t.Errorf("pushed again: %v, %v", err, s.Unfit(host+"/one:1"))
	}
}

// TestOffersOfAnArchive: an archive for another board is refused, and says why a pod waits when no registry helps.
func TestOffersOfAnArchive(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	const frozen = "example.invalid/frozen:1"
	want := "image " + frozen + " is for linux/s390x, but this node is " + Host().String()
	_, err := s.Import(t.Context(), archive(t, frozen, busybox(t, testimage.Options{Architecture: "s390x"})))
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("import: %v", err)
	}
	if got := offered(s); got != frozen+" [linux/s390x]" {
		t.Error(got)
	}
	var wrong *PlatformError
	if _, err := s.Pull(t.Context(), frozen, PullOptions{}); !errors.As(err, &wrong) || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("pull: %v", err)
	}
	if _, err := s.Import(t.Context(), archive(t, frozen, busybox(t, testimage.Options{}))); err != nil {
		t.Fatal(err)
	}
	if got := offered(s); got != "" || s.Unfit(frozen) != nil {
		t.Errorf("after the right one has come: %q, %v", got, s.Unfit(frozen))
	}
	// The wrong one does not make what is here useless.
	if _, err := s.Import(t.Context(), archive(t, frozen, busybox(t, testimage.Options{Architecture: "s390x"}))); err == nil || offered(s) != "" {
		t.Errorf("the wrong one again: %v, %q", err, offered(s))
	}
}

// TestOffersAreForgotten: what keeps a board out is told for a while only; what a digest means, for ever.
func TestOffersAreForgotten(t *testing.T) {
	digest := "docker.io/team/x@sha256:" + strings.Repeat("a", 64)
	s := open(t, t.TempDir(), Options{})
	synctest.Test(t, func(t *testing.T) {
		foreign := []Platform{{OS: "linux", Architecture: "s390x"}}
		s.learn("docker.io/team/x:1", foreign)
		s.learn("docker.io/team/y:1", append(foreign, Host()))
		s.learn(digest, foreign)
		time.Sleep(tellUnfit - time.Minute)
		s.still("docker.io/team/x:1")
		time.Sleep(2 * time.Minute)
		if n := len(s.Offers()); n != 3 {
			t.Errorf("%d after a second look", n)
		}
		time.Sleep(tellUnfit)
		if got := offered(s); !strings.HasPrefix(got, digest) || !strings.Contains(got, "team/y:1") || strings.Contains(got, "team/x:1") {
			t.Error(got)
		}
		if s.Unfit("team/x:1") == nil {
			t.Error("why a pull failed is forgotten")
		}
		time.Sleep(tellFit)
		if got := offered(s); got != digest+" [linux/s390x]" {
			t.Error(got)
		}
		for n := range 2 * maxOffers {
			time.Sleep(time.Millisecond)
			s.learn(fmt.Sprintf("docker.io/team/n:%d", n), foreign)
		}
		if n := len(s.offers); n != maxOffers {
			t.Errorf("%d are kept", n)
		}
	})
	if files, _ := filepath.Glob(filepath.Join(s.dir, ".*")); len(files) > 0 {
		t.Errorf("left: %v", files)
	}
}
