// Package footprint gives back to the kernel the memory that starting a program touched and running it never will.
//
// Most of a large executable's pages are read once, by package initialisation. Told so, the kernel drops them and reads
// those that are needed again from the file: 110 MiB resident became 22 for a server (docs/budgets.md).
//
//	footprint.Thrifty()          // first thing in main
//	go footprint.Keep(ctx, log)  // when ready: now, and seldom after
package footprint

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// startupGC collects often while a program starts: a heap that is fragmented by start-up garbage stays so.
// steadyGC is for afterwards: small boards have more idle processor than memory.
const (
	startupGC = 20
	steadyGC  = 60
)

// again is how long after the first time the pages are given back once more, when informers and caches have filled;
// settled is the pace after that.
const (
	again   = 2 * time.Minute
	settled = time.Hour
)

// Thrifty is called first thing in main.
func Thrifty() { debug.SetGCPercent(startupGC) }

// Keep gives pages back now, a little later, and then seldom, until ctx ends.
func Keep(ctx context.Context, log *slog.Logger) {
	debug.SetGCPercent(steadyGC)
	wait := again
	for {
		if err := Release(); err != nil {
			log.Warn("start-up memory stays resident", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
			wait = settled
		}
	}
}

// Release collects the heap and advises the kernel that the executable's read-only pages are not needed (madvise(2),
// Linux 5.4 and later).
func Release() error {
	debug.FreeOSMemory()
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return err
	}
	defer f.Close()
	ranges, err := readOnly(f, exe)
	if err != nil {
		return err
	}
	for _, r := range ranges {
		// RANDOM first: without it, one page that is needed again is read with its neighbours.
		for _, advice := range []uintptr{unix.MADV_RANDOM, unix.MADV_PAGEOUT} {
			if _, _, errno := unix.Syscall(unix.SYS_MADVISE, r.from, r.to-r.from, advice); errno != 0 {
				return fmt.Errorf("madvise %#x-%#x: %w", r.from, r.to, errno)
			}
		}
	}
	return nil
}

type span struct{ from, to uintptr }

// readOnly finds the mappings of a file that a process cannot write, in the format of proc_pid_maps(5).
func readOnly(maps io.Reader, file string) ([]span, error) {
	var found []span
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		// address perms offset dev inode pathname
		f := strings.Fields(lines.Text())
		if len(f) < 6 || f[5] != file || strings.Contains(f[1], "w") {
			continue
		}
		var s span
		if _, err := fmt.Sscanf(f[0], "%x-%x", &s.from, &s.to); err != nil {
			return nil, fmt.Errorf("mapping %q: %w", f[0], err)
		}
		found = append(found, s)
	}
	return found, lines.Err()
}
