package image

import (
	"context"
	"fmt"

	"bramble.dev/runtime/snapshot"
)

// candidate is an image whose layers are here or unpacked beside the store.
type candidate struct {
	id      string
	config  *configuration
	names   []string
	digests []string
	// imported: from an archive, so that nobody can be asked for it again.
	imported bool
	access   []Access
}

// missing lists the layers (by index) that have to be brought.
func (s *Store) missing(c *configuration) []int {
	var list []int
	var names []string
	for i, d := range c.RootFS.DiffIDs {
		l, ok := s.snap.Find(d, names)
		if !ok {
			list = append(list, i)
		}
		names = append(names, l.Name)
	}
	return list
}

// install commits the layers and records the image. Layers that are in the store already are not taken from staged.
func (s *Store) install(ctx context.Context, c candidate, staged map[string]*snapshot.Staged) (Image, error) {
	img := Image{ID: c.id, Names: c.names, Digests: c.digests, Platform: c.config.Platform.normal(), Config: c.config.Config, DiffIDs: c.config.RootFS.DiffIDs, Imported: c.imported, Access: c.access}
	if c.config.Created != nil {
		img.Created = *c.config.Created
	}
	var parts []snapshot.Part
	var below []string
	for _, d := range img.DiffIDs {
		l, ok := s.snap.Find(d, below)
		switch {
		case ok:
			parts = append(parts, snapshot.Part{Name: l.Name})
		case staged[d] != nil:
			parts = append(parts, snapshot.Part{Staged: staged[d]})
		default:
			return Image{}, fmt.Errorf("layer %s of the image is missing", d)
		}
		below = append(below, l.Name)
	}
	names, err := s.snap.Commit(ctx, parts)
	if err != nil {
		return Image{}, err
	}
	img.Layers = names
	for i, n := range names {
		if l, ok := s.snap.Find(img.DiffIDs[i], names[:i]); ok && l.Name == n {
			img.Size += l.Bytes
		}
	}
	img, err = s.add(img)
	if err == nil && c.config.suits(Host()) == nil {
		s.arrived(img)
	}
	return img, err
}
