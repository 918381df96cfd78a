package shortage

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"bramble.dev/agent/status"
)

// Look reads the board's levels; node is the folder with volumes and logs, images that with images and containers. It reads
// the kernel's counters, never the disk.
func Look(node, images string) Levels {
	l := Levels{Of: map[Signal]Level{}}
	memory := status.Meminfo()
	if available, ok := memory["MemAvailable"]; ok {
		l.Of[MemoryAvailable] = Level{available, memory["MemTotal"]}
	}
	fileSystem(l, node, NodeFsAvailable, NodeFsInodes)
	fileSystem(l, images, ImageFsAvailable, ImageFsInodes)
	l.Split = device(node) != device(images)
	if most, used := processes(); most > 0 {
		l.Of[PIDAvailable] = Level{most - used, most}
	}
	return l
}

func fileSystem(l Levels, dir string, bytes, files Signal) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil || fs.Blocks == 0 {
		return
	}
	l.Of[bytes] = Level{int64(fs.Bavail) * int64(fs.Bsize), int64(fs.Blocks) * int64(fs.Bsize)}
	if fs.Files > 0 { // btrfs has no number
		l.Of[files] = Level{int64(fs.Ffree), int64(fs.Files)}
	}
}

func device(dir string) uint64 {
	var s unix.Stat_t
	if unix.Stat(dir, &s) != nil {
		return 0
	}
	return uint64(s.Dev)
}

// processes are how many the kernel allows, and how many there are, threads included.
func processes() (most, used int64) {
	limit, err := os.ReadFile("/proc/sys/kernel/pid_max")
	if err != nil {
		return 0, 0
	}
	most, _ = strconv.ParseInt(strings.TrimSpace(string(limit)), 10, 64)
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0, 0
	}
	fields := strings.Fields(string(load))
	if len(fields) < 4 {
		return 0, 0
	}
	_, total, _ := strings.Cut(fields[3], "/") // running/total
	used, err = strconv.ParseInt(total, 10, 64)
	if err != nil {
		return 0, 0
	}
	return most, used
}
