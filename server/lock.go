package server

import (
	"errors"
	"fmt"
	"path/filepath"

	"bramble.dev/internal/lockfile"
)

// lock keeps a second server out of the folder.
func lock(dir string) (*lockfile.Lock, error) {
	held, err := lockfile.Take(filepath.Join(dir, "lock"))
	if errors.Is(err, lockfile.ErrHeld) {
		return nil, fmt.Errorf("another server uses %s: stop it, or give this one another --data-dir", dir)
	}
	return held, err
}
