package image

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"
	"strings"

	"bramble.dev/runtime/snapshot"
)

// Import reads an archive of `docker save`, or an OCI archive, plain or compressed, and adds its images. It reads the
// stream once and unpacks layers as they come, so that neither memory nor the disk holds the archive. If anything is
// wrong with it, nothing of it is kept.
func (s *Store) Import(ctx context.Context, r io.Reader) ([]Image, error) {
	source := "the archive"
	if f, ok := r.(interface{ Name() string }); ok {
		source = f.Name()
	}
	s.busy.RLock()
	images, err := s.importArchive(ctx, r)
	s.busy.RUnlock()
	if err != nil {
		return nil, fmt.Errorf("import images from %s: %w", source, explain(err))
	}
	return images, nil
}

func explain(err error) error {
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return fmt.Errorf("it ends too early (%w): copy the file again, and compare its checksum", err)
	case errors.Is(err, errDamaged), errors.Is(err, tar.ErrHeader):
		return fmt.Errorf("%w: it is damaged, or no image archive; make it again with \"docker save\" and copy it again", err)
	}
	return err
}

var errDamaged = errors.New("the archive does not fit together")

// maxSmall bounds what an import keeps of manifests and configurations, all together.
const maxSmall = 32 << 20

type importer struct {
	store  *Store
	small  map[string][]byte           // files that may be manifests or configurations
	kept   int64                       // bytes in small
	layers map[string]string           // file -> digest of the layer in it, uncompressed
	staged map[string]*snapshot.Staged // by that digest
	alias  map[string]string           // links of old archives
}

func (s *Store) importArchive(ctx context.Context, r io.Reader) ([]Image, error) {
	im := &importer{s, map[string][]byte{}, 0, map[string]string{}, map[string]*snapshot.Staged{}, map[string]string{}}
	defer func() {
		for _, st := range im.staged {
			st.Discard() // those that were committed are no longer under that name
		}
	}()
	buffered := bufio.NewReaderSize(r, 64<<10)
	plain, done, err := decompress(buffered)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := im.read(ctx, plain); err != nil {
		return nil, err
	}
	candidates, err := im.candidates()
	if err != nil {
		return nil, err
	}
	images := make([]Image, 0, len(candidates))
	for _, c := range candidates {
		c.imported, c.access = true, forAll(c.names)
		img, err := s.install(ctx, c, im.staged)
		if err != nil {
			return nil, err
		}
		images = append(images, img)
	}
	return images, nil
}

func (im *importer) read(ctx context.Context, r io.Reader) error {
	archive := tar.NewReader(r)
	entries := 0
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if entries++; entries > 100_000 {
			return fmt.Errorf("%w: it has more than %d entries", errDamaged, entries-1)
		}
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		switch h.Typeflag {
		case tar.TypeSymlink:
			im.alias[name] = strings.TrimPrefix(path.Clean("/"+path.Dir(name)+"/"+h.Linkname), "/")
		case tar.TypeLink:
			im.alias[name] = strings.TrimPrefix(path.Clean("/"+h.Linkname), "/")
		case tar.TypeReg:
			if err := im.file(ctx, name, h.Size, archive); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	_, err := io.Copy(io.Discard, r) // the end of a compressed archive has its checksum
	return err
}

// blobDigest is the digest that an OCI archive's file name promises.
func blobDigest(name string) string {
	if h, ok := strings.CutPrefix(name, "blobs/sha256/"); ok && validDigest("sha256:"+h) {
		return "sha256:" + h
	}
	return ""
}

func (im *importer) file(ctx context.Context, name string, size int64, r io.Reader) error {
	want := blobDigest(name)
	if l, ok := im.store.snap.Find(want, nil); ok && l.Parents == nil {
		im.layers[name] = want // an uncompressed layer that is here already
		return nil
	}
	sum := sha256.New()
	b := bufio.NewReaderSize(io.TeeReader(r, sum), 32<<10)
	head, err := b.Peek(sniffed)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	switch sniff(head) {
	case formatJSON:
		if size > maxManifest || im.kept+size > maxSmall {
			return nil // no manifest: perhaps an attestation
		}
		text, err := io.ReadAll(b)
		if err != nil {
			return err
		}
		im.small[name] = text
		im.kept += size
	case formatTar, formatGzip, formatZstd:
		if err := im.layer(ctx, name, b); err != nil {
			return err
		}
	}
	return check(b, sum, want)
}

// check reads what is left and compares the digest of all with the one that is wanted, if there is one.
func check(rest io.Reader, sum hash.Hash, want string) error {
	if _, err := io.Copy(io.Discard, rest); err != nil {
		return err
	}
	if got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); want != "" && got != want {
		return fmt.Errorf("%w: its content has digest %s", errDamaged, got)
	}
	return nil
}

func (im *importer) layer(ctx context.Context, name string, b *bufio.Reader) error {
	plain, done, err := decompress(b)
	if err != nil {
		return err
	}
	defer done()
	st, err := im.store.snap.Unpack(ctx, plain)
	if err != nil {
		return err
	}
	im.layers[name] = st.DiffID
	if im.staged[st.DiffID] != nil {
		st.Discard()
		return nil
	}
	im.staged[st.DiffID] = st
	return nil
}

func (im *importer) follow(name string) string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	for range 8 {
		to, ok := im.alias[name]
		if !ok {
			break
		}
		name = to
	}
	return name
}

func (im *importer) candidates() ([]candidate, error) {
	if b, ok := im.small["manifest.json"]; ok {
		return im.docker(b)
	}
	if b, ok := im.small["index.json"]; ok {
		return im.oci(b)
	}
	return nil, fmt.Errorf("%w: it has neither manifest.json nor index.json", errDamaged)
}

// docker reads the list of images of `docker save`.
func (im *importer) docker(b []byte) ([]candidate, error) {
	var entries []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(b, &entries); err != nil {
		return nil, fmt.Errorf("manifest.json: %w: %w", errDamaged, err)
	}
	var all []candidate
	for _, e := range entries {
		c, err := im.candidate(im.follow(e.Config))
		if err != nil {
			return nil, im.unfit(err, e.RepoTags)
		}
		if len(e.Layers) != len(c.config.RootFS.DiffIDs) {
			return nil, fmt.Errorf("manifest.json: %w: %d layers, but %s has %d", errDamaged, len(e.Layers), e.Config, len(c.config.RootFS.DiffIDs))
		}
		for i, l := range e.Layers {
			if got := im.layers[im.follow(l)]; got != c.config.RootFS.DiffIDs[i] {
				return nil, fmt.Errorf("%s: %w: layer %s is wanted, found %q", l, errDamaged, c.config.RootFS.DiffIDs[i], got)
			}
		}
		for _, tag := range e.RepoTags {
			n, err := ParseName(tag)
			if err != nil {
				return nil, fmt.Errorf("manifest.json: %w", err)
			}
			c.names = append(c.names, n.String())
		}
		all = append(all, c)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("manifest.json: %w: it names no image", errDamaged)
	}
	return all, nil
}

// unfit learns from an image that is for other machines, and names it in the error.
func (im *importer) unfit(err error, names []string) error {
	var wrong *PlatformError
	if !errors.As(err, &wrong) {
		return err
	}
	for _, name := range names {
		n, err := ParseName(name)
		if err != nil {
			continue
		}
		wrong.Name = n.String()
		if img, here := im.store.Resolve(wrong.Name); !here || wrong.Host.best([]Platform{img.Platform}) < 0 {
			im.store.learn(wrong.Name, wrong.Have)
		}
	}
	return err
}

// candidate reads a configuration from a file of the archive.
func (im *importer) candidate(file string) (candidate, error) {
	b, ok := im.small[file]
	if !ok {
		return candidate{}, fmt.Errorf("%w: %s is missing", errDamaged, file)
	}
	cfg, err := parseConfiguration(b)
	if err != nil {
		return candidate{}, fmt.Errorf("%s: %w: %w", file, errDamaged, err)
	}
	if err := cfg.suits(Host()); err != nil {
		return candidate{}, err
	}
	sum := sha256.Sum256(b)
	return candidate{id: "sha256:" + hex.EncodeToString(sum[:]), config: cfg}, nil
}

const (
	nameAnnotation = "io.containerd.image.name"
	refAnnotation  = "org.opencontainers.image.ref.name"
)

// oci reads the index of an OCI archive.
func (im *importer) oci(b []byte) ([]candidate, error) {
	index, err := parseManifest(b)
	if err != nil {
		return nil, fmt.Errorf("index.json: %w: %w", errDamaged, err)
	}
	var all []candidate
	for _, d := range index.Manifests {
		if d.Platform != nil && d.Platform.OS == "unknown" {
			continue
		}
		name := d.Annotations[nameAnnotation]
		if name == "" && strings.ContainsAny(d.Annotations[refAnnotation], "/:") {
			name = d.Annotations[refAnnotation] // otherwise only a tag: of what, it does not say
		}
		c, err := im.resolve(d.Digest, 0)
		if err != nil {
			return nil, im.unfit(err, []string{name})
		}
		if name != "" {
			n, err := ParseName(name)
			if err != nil {
				return nil, fmt.Errorf("index.json: %w", err)
			}
			c.names = []string{n.String()}
			c.digests = []string{n.repository() + "@" + d.Digest}
		}
		all = append(all, c)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("index.json: %w: it names no image", errDamaged)
	}
	return all, nil
}

func (im *importer) resolve(digest string, depth int) (candidate, error) {
	file := "blobs/sha256/" + hexOf(digest)
	b, ok := im.small[file]
	if !ok || depth > 2 {
		return candidate{}, fmt.Errorf("%w: %s is missing", errDamaged, file)
	}
	m, err := parseManifest(b)
	if err != nil {
		return candidate{}, fmt.Errorf("%s: %w: %w", file, errDamaged, err)
	}
	if m.Config == nil {
		d, err := m.pick(Host())
		if err != nil {
			return candidate{}, err
		}
		return im.resolve(d.Digest, depth+1)
	}
	c, err := im.candidate("blobs/sha256/" + hexOf(m.Config.Digest))
	if err != nil {
		return candidate{}, err
	}
	if len(m.Layers) != len(c.config.RootFS.DiffIDs) {
		return candidate{}, fmt.Errorf("%s: %w: %d layers, but its configuration has %d", file, errDamaged, len(m.Layers), len(c.config.RootFS.DiffIDs))
	}
	for i, l := range m.Layers {
		if got := im.layers["blobs/sha256/"+hexOf(l.Digest)]; got != c.config.RootFS.DiffIDs[i] {
			return candidate{}, fmt.Errorf("%s: %w: layer %s is wanted, found %q", l.Digest, errDamaged, c.config.RootFS.DiffIDs[i], got)
		}
	}
	return c, nil
}
