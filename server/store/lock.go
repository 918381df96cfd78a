package store

import (
	"errors"
	"fmt"

	"bramble.dev/internal/lockfile"
)

// lock keeps a second process from writing the same database. It lies beside it, because SQLite's locks on the database
// are a process's, not a descriptor's.
func lock(path string) (*lockfile.Lock, error) {
	held, err := lockfile.Take(path + ".lock")
	if errors.Is(err, lockfile.ErrHeld) {
		return nil, fmt.Errorf("%s is in use by another process; stop the server that uses it first", path)
	}
	return held, err
}
