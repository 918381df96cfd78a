package check

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/agent/hostports"
	"bramble.dev/internal/mountinfo"
	"bramble.dev/mesh/ingress"
)

// born is a moment that no right clock shows any more: boards without a battery boot in 1970 or at their image's build.
var born = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func (h Host) clock() Result {
	now := h.Now()
	passed, since := born, ""
	if floor, ok := h.floor(); ok {
		passed, since = floor, ": the agent has seen "+floor.UTC().Format(time.RFC3339)
	}
	if now.Before(passed) {
		return Result{"clock", Degraded, now.UTC().Format(time.RFC3339) + ", which is in the past" + since,
			"install a time service (`apt install systemd-timesyncd`) or fit an RTC; with --set-clock the agent steps the clock to the server's when it connects"}
	}
	return Result{Name: "clock", Found: now.UTC().Format(time.RFC3339)}
}

// floor is the time that the agent of this board knows to have passed.
func (h Host) floor() (time.Time, bool) {
	data, err := os.ReadFile(filepath.Join(h.Data, "agent/time"))
	if err != nil {
		return time.Time{}, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	return time.Unix(n, 0), err == nil
}

// What a disk must have free: below that the agent begins to evict pods.
const (
	freePart = 10 // a tenth
	freeMost = 10 << 30
)

// disk looks at the file system of the data folder: a card that is full or worn out is what breaks most boards.
func (h Host) disk() Result {
	const name = "disk"
	dir := h.Data
	st, err := h.Stat(dir)
	for errors.Is(err, fs.ErrNotExist) && dir != filepath.Dir(dir) {
		dir = filepath.Dir(dir)
		st, err = h.Stat(dir)
	}
	if err != nil {
		return Result{name, Missing, fmt.Sprintf("%s: %v", dir, err), "mount the disk, or name another folder with --data-dir"}
	}
	free, all := st.Bavail*uint64(st.Bsize), st.Blocks*uint64(st.Bsize)
	found := fmt.Sprintf("%s free of %s at %s", size(free), size(all), dir)
	switch {
	case st.Flags&unix.ST_RDONLY != 0:
		return Result{name, Missing, dir + " is read-only", "a card that wears out becomes read-only: see `dmesg`, replace it, or mount it read-write"}
	case free < min(all/freePart, freeMost):
		return Result{name, Degraded, found + ": pods are evicted and images removed", "make room: `du -xhd1 /` shows what is large"}
	case st.Files > 0 && st.Ffree < st.Files/20:
		return Result{name, Degraded, fmt.Sprintf("%d of %d files left at %s: pods are evicted and images removed", st.Ffree, st.Files, dir), "remove files: `du --inodes -xd1 /` shows where most are"}
	}
	return Result{Name: name, Found: found}
}

func statfs(path string) (st unix.Statfs_t, err error) {
	if err = unix.Statfs(path, &st); err != nil {
		err = &fs.PathError{Op: "statfs", Path: path, Err: err}
	}
	return st, err
}

func size(n uint64) string {
	if n < 1<<30 {
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
}

// propagation looks whether mounts pass between the board and pods that ask for it. Under systemd they do.
func (h Host) propagation() Result {
	const name = "mount propagation"
	f, err := os.Open(filepath.Join(h.Root, "proc/thread-self/mountinfo"))
	if err != nil {
		return Result{name, Degraded, err.Error(), "mount /proc"}
	}
	defer f.Close()
	all, err := mountinfo.Parse(f)
	if err != nil {
		return Result{name, Degraded, err.Error(), "mount /proc"}
	}
	shared := false
	for _, m := range all {
		if m.At == "/" { // the last one hides those below
			shared = slices.ContainsFunc(m.Tags, func(tag string) bool { return strings.HasPrefix(tag, "shared:") })
		}
	}
	if !shared {
		return Result{name, Degraded, "/ is not shared: mountPropagation of pods has no effect", "run `mount --make-rshared /` at boot, before the agent"}
	}
	return Result{Name: name, Found: "works"}
}

// serverPorts looks for programs that have the ports of a server, as another Kubernetes on the board would.
func (h Host) serverPorts() Result {
	return h.ports("ports 6443, 8883", []uint16{6443, 8883}, "bramble", "free for a server", "a server cannot start there",
		"a board that only joins needs neither; for a server stop that program, or choose others: --api-listen 0.0.0.0:7443, --mqtt-listen 0.0.0.0:9883")
}

// webPorts looks for programs that have the ports at which Ingresses are served.
func (h Host) webPorts() Result {
	return h.ports("ports 80 and 443", []uint16{80, 443}, ingress.Name, "free for Ingresses", "this board serves no Ingress there",
		"stop that program, or give the agent other ports: --ingress-http-port 8080 --ingress-https-port 8443 (0: none)")
}

// ports looks for programs other than ours that have ports.
func (h Host) ports(name string, numbers []uint16, ours, free, loss, remedy string) Result {
	wanted := map[hostports.Port]bool{}
	for _, n := range numbers {
		wanted[hostports.Port{Protocol: corev1.ProtocolTCP, Number: n}] = true
	}
	uses, err := hostports.Find(filepath.Join(h.Root, "proc"), wanted)
	if err != nil {
		return Result{name, Degraded, err.Error(), "mount /proc"}
	}
	var taken []string
	for _, u := range uses {
		if u.Program != ours {
			taken = append(taken, fmt.Sprintf("%d is in use by %s", u.Number, cmp.Or(u.Program, "another program")))
		}
	}
	if len(taken) > 0 {
		return Result{name, Degraded, strings.Join(taken, ", ") + ": " + loss, remedy}
	}
	return Result{Name: name, Found: free}
}
