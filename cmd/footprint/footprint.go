// Package footprint gives back to the kernel the memory that starting a program touched and running it never will.
//
// Most of a large executable's pages are read once, by package initialisation. Told so, the kernel drops them and reads
// those that are needed again from the file: 110 MiB resident became 22 for a server (scripts/bench measures it).
//
//	footprint.Thrifty()          // first thing in main
//	go footprint.Keep(ctx, log)  // when ready: now, and in the quiet after each busy phase
//	go footprint.Stretch(ctx)    // a server's heap has more room while it is busy
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

// When pages are given back after the first time. A busy phase touches code, and grows the heap, that the quiet after it
// has no use for; giving back while the work goes on would only fault the same pages in again.
const (
	look    = time.Minute     // how often is looked
	soonest = 2 * time.Minute // after the last time; by then informers and caches have filled
	latest  = time.Hour       // after the last time, whatever the process does
	growth  = 6 << 20         // bytes more than were left the last time
	quiet   = look * 2 / 100  // processor time between two looks
)

// use is what a process has taken: resident bytes, and processor time since it began.
type use struct {
	resident  int64
	processor time.Duration
}

// due decides whether to give back: left is what was resident after the last time, before the previous look.
func due(since time.Duration, left int64, before, now use) bool {
	switch {
	case since < soonest:
		return false
	case since >= latest:
		return true
	}
	return now.resident-left > growth && now.processor-before.processor < quiet
}

// Thrifty is called first thing in main.
func Thrifty() { debug.SetGCPercent(startupGC) }

// Keep gives pages back now, and again in the quiet after each busy phase, until ctx ends.
func Keep(ctx context.Context, log *slog.Logger) {
	debug.SetGCPercent(steadyGC)
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	var left, before use
	var at time.Time
	for {
		now, err := measure()
		if err == nil && (at.IsZero() || due(time.Since(at), left.resident, before, now)) {
			if err = Release(); err == nil {
				left, err = measure()
				now = left
			}
			at = time.Now()
		}
		if err != nil {
			log.Warn("start-up memory stays resident", "err", err)
		}
		before = now
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// measure reads /proc/self/statm (proc(5)) and getrusage(2).
func measure() (use, error) {
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return use{}, err
	}
	var size, resident int64
	if _, err := fmt.Sscan(string(statm), &size, &resident); err != nil {
		return use{}, fmt.Errorf("/proc/self/statm %q: %w", statm, err)
	}
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		return use{}, err
	}
	return use{resident * int64(os.Getpagesize()), time.Duration(r.Utime.Nano() + r.Stime.Nano())}, nil
}

// Release collects the heap and advises the kernel that the executable's read-only pages are not needed (madvise(2),
// Linux 5.4 and later). Pages that another process of the same executable maps too stay, and so do those of a file that was
// just written and is not on the disk yet: the next release takes them.
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
