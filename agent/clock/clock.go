// Package clock keeps a time that is known to have passed, for boards that have no clock while they
// are without power: they wake in 1970, and every certificate is "not yet valid".
//
// Invariant: the floor never goes back, and is written at most once a day: an idle board writes a
// page for it, no more. It rises by what the server has signed and by the time that this process has
// run since, never by the system's clock: one that was once set to 2040 would make every certificate
// "expired" for ever. The system's clock is stepped only forward, and only when that is allowed.
//
//	f, err := clock.Open(path, allowed, log)
//	f.Raise()            // at the start: the clock is at least the floor
//	f.Learn(serverTime)  // whenever the server tells the time
package clock

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"bramble.dev/internal/durable"
)

const (
	// writeEvery is how much the floor may be behind: after a power cut the clock starts that much late.
	writeEvery = 24 * time.Hour
	// tolerance is how wrong the clock may be before it is stepped.
	tolerance = 30 * time.Second
)

// Floor is the time that has passed.
type Floor struct {
	path string
	step bool
	log  *slog.Logger
	set  func(time.Time) error // for tests

	mu     sync.Mutex
	disk   time.Time
	seen   time.Time
	at     time.Time // when seen was the floor, by the monotonic clock
	warned bool      // that the clock is behind, which is said once
}

// Open reads the floor. step says whether the system's clock may be set.
func Open(path string, step bool, log *slog.Logger) (*Floor, error) {
	f := &Floor{path: path, step: step, log: log, set: settime, at: time.Now()}
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		// The executable was built before it was installed: better than nothing.
		if exe, err := os.Executable(); err == nil {
			if info, err := os.Stat(exe); err == nil {
				f.seen = info.ModTime()
			}
		}
	case err != nil:
		return nil, fmt.Errorf("read the time floor: %w", err)
	default:
		if n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil {
			f.disk = time.Unix(n, 0)
			f.seen = f.disk
		}
	}
	return f, nil
}

func settime(t time.Time) error {
	tv := unix.NsecToTimeval(t.UnixNano())
	return unix.Settimeofday(&tv)
}

// Now is the clock, or the floor if that is later.
func (f *Floor) Now() time.Time {
	now, floor := time.Now(), f.Time()
	if now.After(floor) {
		return now
	}
	return floor
}

// Time is the floor.
func (f *Floor) Time() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.floor()
}

func (f *Floor) floor() time.Time { return f.seen.Add(time.Since(f.at)) }

// Raise steps the clock to the floor if it is behind.
func (f *Floor) Raise() { f.raise(f.Time()) }

func (f *Floor) raise(to time.Time) {
	behind := time.Until(to)
	if behind < tolerance {
		return
	}
	if !f.step {
		f.mu.Lock()
		said := f.warned
		f.warned = true
		f.mu.Unlock()
		if said {
			return
		}
		f.log.Warn("the clock is behind; start the agent with --set-clock, or let something else set it (systemd-timesyncd, chrony). If the clock is right, a server's was once wrong: stop the agent and remove the file", "behind", behind.Round(time.Second), "file", f.path)
		return
	}
	if err := f.set(to); err != nil {
		f.log.Warn("the clock is behind and could not be set", "behind", behind.Round(time.Second), "err", err)
		return
	}
	f.log.Info("the clock was behind and has been set. If it is wrong now, a server's was once: stop the agent, remove the file and set the clock", "by", behind.Round(time.Second), "file", f.path)
}

// Learn takes a time that the server has signed.
func (f *Floor) Learn(t time.Time) {
	f.raise(t)
	f.mu.Lock()
	if t.After(f.floor()) {
		f.seen, f.at = t, time.Now()
	}
	f.mu.Unlock()
	f.keep()
}

// keep writes the floor if the one on the disk is a day old.
func (f *Floor) keep() {
	f.mu.Lock()
	defer f.mu.Unlock()
	floor := f.floor()
	if floor.Sub(f.disk) < writeEvery {
		return
	}
	if err := write(f.path, floor); err != nil {
		f.log.Warn("the time floor could not be written", "err", err)
		return
	}
	f.disk = floor
}

func write(path string, t time.Time) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return durable.WriteFile(path, fmt.Appendln(nil, t.Unix()), 0o644)
}

// Run keeps the floor once a day until ctx is done.
func (f *Floor) Run(ctx context.Context) {
	ticker := time.NewTicker(writeEvery)
	defer ticker.Stop()
	for {
		f.keep()
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
