package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"bramble.dev/internal/durable"
	"bramble.dev/runtime/snapshot"
)

// Image is an image of which all layers are here.
type Image struct {
	ID       string    `json:"id"`      // digest of its configuration
	Names    []string  `json:"names"`   // normal form
	Digests  []string  `json:"digests"` // repository@digest, as it was pulled
	Platform Platform  `json:"platform"`
	Size     int64     `json:"size"` // bytes unpacked; shared layers count for each image
	Created  time.Time `json:"created"`
	Added    time.Time `json:"added"`
	Imported bool      `json:"imported,omitempty"` // by hand: no registry is known to have it
	Access   []Access  `json:"access,omitempty"`   // one a repository; none: everyone's
	Config   Config    `json:"config"`
	DiffIDs  []string  `json:"diffIDs"`
	Layers   []string  `json:"layers"` // names in the snapshot store, the lowest first
	Used     time.Time `json:"-"`      // by a pod, as far as anybody remembers, or Added; the record's file has it as its own time
}

// Config is the part of an image's configuration that containers are made from.
type Config struct {
	User       string   `json:"User,omitempty"`
	Env        []string `json:"Env,omitempty"`
	Entrypoint []string `json:"Entrypoint,omitempty"`
	Cmd        []string `json:"Cmd,omitempty"`
	WorkingDir string   `json:"WorkingDir,omitempty"`
	StopSignal string   `json:"StopSignal,omitempty"`
}

// Reference is what a pod's status calls the image: its digest in a repository, or else its ID.
func (i Image) Reference() string {
	if len(i.Digests) > 0 {
		return i.Digests[0]
	}
	return i.ID
}

// Options configure a store.
type Options struct {
	Mirrors  map[string][]string // registry -> mirrors that are asked first; "*" is every registry
	Insecure []string            // registries with plain HTTP or a certificate that nobody vouches for
	TLS      *tls.Config         // for registries; nil is the system's roots
	Logger   *slog.Logger
	InUse    func() []string // layers that containers stand on
}

// Store is the images of a node.
type Store struct {
	dir  string
	opts Options
	snap *snapshot.Store
	log  *slog.Logger

	// busy is held for reading while layers are being brought in that no record names yet, and for writing while
	// layers that no record names are removed.
	busy sync.RWMutex

	mu     sync.Mutex
	images map[string]*Image // by ID
	offers map[string]offer  // by name
	layers keyed             // one download or import of a layer at a time
}

// Open reads the records of a folder's images. Records that are damaged, or whose layers are gone, are dropped: the
// image is then pulled again like any that is missing.
func Open(dir string, snap *snapshot.Store, o Options) (*Store, error) {
	s := &Store{dir: dir, opts: o, snap: snap, log: o.Logger, images: map[string]*Image{}}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	for _, d := range []string{s.records(), s.downloads()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("open images: %w", err)
		}
	}
	entries, err := os.ReadDir(s.records())
	if err != nil {
		return nil, fmt.Errorf("open images: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(s.records(), e.Name())
		img, err := readRecord(path)
		if err == nil {
			err = s.present(img)
		}
		if err != nil {
			s.log.Warn("dropped an image that is not whole; it is pulled again when a pod needs it", "file", path, "err", err)
			_ = os.Remove(path)
			continue
		}
		s.images[img.ID] = img
	}
	s.loadOffers()
	s.sweepDownloads()
	return s, s.Collect()
}

func (s *Store) records() string   { return filepath.Join(s.dir, "images") }
func (s *Store) downloads() string { return filepath.Join(s.dir, "downloads") }

func (s *Store) present(img *Image) error {
	if len(img.Layers) != len(img.DiffIDs) {
		return errors.New("its layers are not recorded")
	}
	for i, d := range img.DiffIDs {
		if l, ok := s.snap.Find(d, img.Layers[:i]); !ok || l.Name != img.Layers[i] {
			return fmt.Errorf("its layer %s is missing", d)
		}
	}
	return nil
}

// sweepDownloads keeps partial layers for a week: a pull over a slow link may take days.
func (s *Store) sweepDownloads() {
	entries, _ := os.ReadDir(s.downloads())
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && (time.Since(info.ModTime()) > 7*24*time.Hour || !strings.HasSuffix(e.Name(), ".part")) {
			_ = os.Remove(filepath.Join(s.downloads(), e.Name()))
		}
	}
}

// A record is JSON, a newline, and the JSON's SHA-256: a card that lost part of it is noticed.
func readRecord(path string) (*Image, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	at := bytes.LastIndexByte(bytes.TrimRight(b, "\n"), '\n')
	if at < 0 {
		return nil, errors.New("its record is cut off")
	}
	sum := sha256.Sum256(b[:at])
	if string(bytes.TrimSpace(b[at:])) != hex.EncodeToString(sum[:]) {
		return nil, errors.New("its record is damaged")
	}
	img := new(Image)
	if err := json.Unmarshal(b[:at], img); err != nil {
		return nil, err
	}
	if !validDigest(img.ID) || hexOf(img.ID)+".json" != filepath.Base(path) {
		return nil, errors.New("its record is another's")
	}
	img.Imported = img.Imported || len(img.Digests) == 0 // before that was recorded
	if img.Imported && img.Access == nil {
		img.Access = forAll(img.Names)
	}
	img.Used = img.Added
	if info, err := os.Stat(path); err == nil && info.ModTime().After(img.Used) {
		img.Used = info.ModTime()
	}
	return img, nil
}

func (s *Store) writeRecord(img *Image) error {
	b, err := json.Marshal(img)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(b)
	b = append(append(append(b, '\n'), hex.EncodeToString(sum[:])...), '\n')
	return durable.WriteFile(filepath.Join(s.records(), hexOf(img.ID)+".json"), b, 0o600)
}

// add records an image, and takes its names from whatever had them.
func (s *Store) add(img Image) (Image, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.images[img.ID]; old != nil {
		img.Names = union(old.Names, img.Names)
		img.Digests = union(img.Digests, old.Digests)
		img.Imported = img.Imported && old.Imported
		img.Access = merged(old.Access, img.Access)
	}
	if img.Added.IsZero() {
		img.Added = time.Now()
	}
	img.Used = time.Now()
	if err := s.writeRecord(&img); err != nil {
		return Image{}, fmt.Errorf("record image %s: %w", img.ID, err)
	}
	for _, other := range s.images {
		if other.ID == img.ID || !overlap(other.Names, img.Names) {
			continue
		}
		less := *other
		less.Names = slices.DeleteFunc(slices.Clone(other.Names), func(n string) bool { return slices.Contains(img.Names, n) })
		if err := s.writeRecord(&less); err != nil {
			return Image{}, fmt.Errorf("record image %s: %w", other.ID, err)
		}
		s.images[other.ID] = &less
	}
	s.images[img.ID] = &img
	return img, nil
}

func union(a, b []string) []string {
	all := slices.Clone(a)
	for _, x := range b {
		if !slices.Contains(all, x) {
			all = append(all, x)
		}
	}
	return all
}

func overlap(a, b []string) bool {
	return slices.ContainsFunc(a, func(x string) bool { return slices.Contains(b, x) })
}

// Resolve finds an image by a name, by a digest in a repository, or by its ID.
func (s *Store) Resolve(ref string) (Image, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	img := s.resolve(ref)
	if img == nil {
		return Image{}, false
	}
	return *img, true
}

func (s *Store) resolve(ref string) *Image {
	if img := s.images[ref]; img != nil {
		return img
	}
	if img := s.images["sha256:"+ref]; img != nil {
		return img
	}
	n, err := ParseName(ref)
	if err != nil {
		return nil
	}
	var found *Image
	for _, img := range s.images {
		have := img.Names
		if n.Digest != "" {
			have = img.Digests
		}
		// Between two with one name (a crash came between two records) the one that was added last has it.
		if slices.Contains(have, n.String()) && (found == nil || img.Added.After(found.Added)) {
			found = img
		}
		if n.Digest == img.ID && found == nil {
			found = img
		}
	}
	return found
}

// List returns all images, by their first names.
func (s *Store) List() []Image {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Image, 0, len(s.images))
	for _, img := range s.images {
		all = append(all, *img)
	}
	sort.Slice(all, func(i, j int) bool { return key(all[i]) < key(all[j]) })
	return all
}

func key(i Image) string { return strings.Join(i.Names, " ") + " " + i.ID }

// Remove removes a name; with its last name, or by its ID, the image and the layers that nothing else uses.
func (s *Store) Remove(_ context.Context, ref string) error {
	s.mu.Lock()
	img := s.resolve(ref)
	if img == nil {
		s.mu.Unlock()
		return fmt.Errorf("remove image %s: %w", ref, fs.ErrNotExist)
	}
	less := *img
	if n, err := ParseName(ref); err == nil && n.Digest == "" && ref != img.ID && len(img.Names) > 1 {
		less.Names = slices.DeleteFunc(slices.Clone(img.Names), func(x string) bool { return x == n.String() })
		err := s.writeRecord(&less)
		if err == nil {
			s.images[img.ID] = &less
		}
		s.mu.Unlock()
		return err
	}
	err := os.Remove(filepath.Join(s.records(), hexOf(img.ID)+".json"))
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		delete(s.images, img.ID)
	}
	s.mu.Unlock()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove image %s: %w", ref, err)
	}
	return s.collect(img.Layers)
}

// keepUnused is how long a layer that no image names is kept: a pull that was cut off goes on with it.
const keepUnused = 24 * time.Hour

// Collect removes layers that no image and no container has used for a day. While something is being pulled or
// imported it does nothing; the next call does.
func (s *Store) Collect() error { return s.collect(nil) }

// collect also removes those of the given layers that nothing uses any more, whatever their age.
func (s *Store) collect(now []string) error {
	return s.sweep(func(l snapshot.Layer) bool { return slices.Contains(now, l.Name) || time.Since(l.Added) > keepUnused })
}

// sweep removes the layers that may go, of those that nothing uses.
func (s *Store) sweep(may func(snapshot.Layer) bool) error {
	if !s.busy.TryLock() {
		return nil
	}
	defer s.busy.Unlock()
	used := map[string]bool{}
	s.mu.Lock()
	for _, img := range s.images {
		for _, l := range img.Layers {
			used[l] = true
		}
	}
	s.mu.Unlock()
	if s.opts.InUse != nil {
		for _, l := range s.opts.InUse() {
			used[l] = true
		}
	}
	layers, err := s.snap.Layers()
	if err != nil {
		return err
	}
	var failed []error
	for _, l := range layers {
		if !used[l.Name] && may(l) {
			failed = append(failed, s.snap.RemoveLayer(l.Name))
		}
	}
	return errors.Join(failed...)
}

// Verify compares every layer with what was recorded when it was unpacked, and drops the images of which something is
// missing. It reads no file's content.
func (s *Store) Verify(ctx context.Context) error {
	bad := map[string]error{}
	seen := map[string]bool{}
	for _, img := range s.List() {
		for _, l := range img.Layers {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if !seen[l] {
				seen[l] = true
				if err := s.snap.Verify(l); err != nil {
					bad[l] = err
				}
			}
			if err := bad[l]; err != nil {
				s.log.Error("dropped an image whose files are damaged; it is pulled again when a pod needs it", "image", key(img), "err", err)
				if err := s.Remove(ctx, img.ID); err != nil {
					return err
				}
				break
			}
		}
	}
	for l := range bad { // also if a container still stands on it: a new one must not
		if err := s.snap.RemoveLayer(l); err != nil {
			return err
		}
	}
	return nil
}

// keyed lets one caller at a time work on a key.
type keyed struct {
	mu   sync.Mutex
	busy map[string]chan struct{}
}

func (k *keyed) lock(ctx context.Context, key string) (func(), error) {
	for {
		k.mu.Lock()
		other, taken := k.busy[key]
		if !taken {
			if k.busy == nil {
				k.busy = map[string]chan struct{}{}
			}
			mine := make(chan struct{})
			k.busy[key] = mine
			k.mu.Unlock()
			return func() {
				k.mu.Lock()
				delete(k.busy, key)
				k.mu.Unlock()
				close(mine)
			}, nil
		}
		k.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
