package image

import (
	"errors"
	"os"
	"path/filepath"
	"time"

	"bramble.dev/runtime/snapshot"
)

// noteUse is how much later a use must be to be noted on the disk: a pod that starts each minute must not write each minute.
const noteUse = time.Hour

// MarkUsed notes that a pod used an image until now.
func (s *Store) MarkUsed(id string, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	img := s.images[id]
	if img == nil || !at.After(img.Used) {
		return
	}
	path := filepath.Join(s.records(), hexOf(id)+".json")
	if info, err := os.Stat(path); err == nil && at.Sub(info.ModTime()) > noteUse {
		_ = os.Chtimes(path, at, at) // not worth waiting for: it decides about nothing but an order
	}
	used := *img
	used.Used = at
	s.images[id] = &used
}

// Reclaim removes what only spares work: layers that no image and no container uses, and downloads that were cut off. While
// something is being pulled or imported it does nothing.
func (s *Store) Reclaim() error {
	failed := []error{s.sweep(func(snapshot.Layer) bool { return true })}
	if !s.busy.TryLock() {
		return errors.Join(failed...)
	}
	defer s.busy.Unlock()
	entries, _ := os.ReadDir(s.downloads())
	for _, e := range entries {
		failed = append(failed, os.Remove(filepath.Join(s.downloads(), e.Name())))
	}
	return errors.Join(failed...)
}
