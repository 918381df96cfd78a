package image

import (
	"bytes"
	"encoding/json"
	"testing"

	"bramble.dev/runtime/testimage"
)

// FuzzManifest reads what a registry may send as a manifest or a configuration.
func FuzzManifest(f *testing.F) {
	d := `"sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"`
	for _, s := range []string{
		`{"schemaVersion":2,"config":{"digest":` + d + `,"size":2},"layers":[{"digest":` + d + `,"size":1}]}`,
		`{"manifests":[{"digest":` + d + `,"platform":{"os":"linux","architecture":"arm","variant":"v7"}}]}`,
		`{"manifests":[{"digest":` + d + `}]}`, `{"fsLayers":[]}`, `{}`, `[]`, ``,
		`{"os":"linux","architecture":"amd64","config":{"Env":["A=b"]},"rootfs":{"type":"layers","diff_ids":[` + d + `]}}`,
	} {
		f.Add([]byte(s))
	}
	hosts := []Platform{parsePlatform("linux/amd64"), parsePlatform("linux/arm64"), parsePlatform("linux/arm/v6")}
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := parseManifest(b); err == nil {
			for _, h := range hosts {
				if got, err := m.pick(h); err == nil && !validDigest(got.Digest) {
					t.Errorf("picked %+v", got)
				}
			}
			for _, l := range m.Layers {
				if !validDigest(l.Digest) || l.Size < 0 {
					t.Errorf("layer %+v", l)
				}
			}
		}
		if c, err := parseConfiguration(b); err == nil {
			_ = c.suits(hosts[0])
			for _, d := range c.RootFS.DiffIDs {
				if !validDigest(d) {
					t.Errorf("layer %q", d)
				}
			}
		}
	})
}

// FuzzName: the normal form of a name is its own normal form.
func FuzzName(f *testing.F) {
	for _, s := range []string{"nginx", "nginx:1.7.9", "a.b:5/c/d@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "localhost/x:y", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseName(s)
		if err != nil {
			return
		}
		again, err := ParseName(n.String())
		if err != nil || again != n {
			t.Errorf("%q became %v, and that %v (%v)", s, n, again, err)
		}
	})
}

// FuzzImport feeds archives; nothing may stay of what is refused.
func FuzzImport(f *testing.F) {
	cfg := `{"os":"linux","architecture":"` + Host().Architecture + `","rootfs":{"diff_ids":[]}}`
	b, err := testimage.Archive([]testimage.File{
		{Header: tarFile("c.json"), Body: cfg}, {Header: tarFile("manifest.json"), Body: `[{"Config":"c.json","RepoTags":["a:1"],"Layers":[]}]`},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:700])
	s := openAny(f, f.TempDir())
	f.Fuzz(func(t *testing.T, b []byte) {
		images, err := s.Import(t.Context(), bytes.NewReader(b))
		if err != nil && len(images) > 0 {
			t.Error("images and an error")
		}
		for _, i := range s.List() {
			if _, err := json.Marshal(i); err != nil {
				t.Error(err)
			}
			if err := s.Remove(t.Context(), i.ID); err != nil {
				t.Error(err)
			}
		}
		if l, _ := s.snap.Layers(); len(l) != 0 {
			t.Errorf("layers left: %v", l)
		}
	})
}

func FuzzDockerConfig(f *testing.F) {
	f.Add([]byte(`{"auths":{"https://index.docker.io/v1/":{"auth":"YTpi"},"*.x":{"username":"a"}}}`))
	f.Add([]byte(`{"x":{"auth":"!"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var k Keyring
		if k.AddDockerConfig("", b) == nil {
			k.Lookup(Name{Registry: "docker.io", Repository: "library/nginx"})
		}
	})
}
