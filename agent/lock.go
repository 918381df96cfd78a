package agent

import (
	"errors"
	"fmt"

	"bramble.dev/internal/lockfile"
)

// lock keeps a second agent out of the data folder.
func (c *Config) lock() (*lockfile.Lock, error) {
	path := c.dir("lock")
	held, err := lockfile.Take(path)
	if errors.Is(err, lockfile.ErrHeld) {
		return nil, fmt.Errorf("another agent works in this data folder (%s is locked): stop it first, or give this one another --data-dir", path)
	}
	return held, err
}
