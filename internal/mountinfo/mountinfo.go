// Package mountinfo tells what is mounted, by the kernel's own list (proc_pid_mountinfo(5)). It touches no mount: to ask a file
// system whose server is away would hang.
//
//	all, err := mountinfo.Self()
//
// Every package may import this one; it imports only the standard library.
package mountinfo

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"
)

// Mount is something that is mounted.
type Mount struct {
	At      string
	Device  string   // of the file system, as "0:29": what several mounts may share
	Tags    []string // how mounts below it are passed on: "shared:1", "master:2"; none: they are not
	Kind    string   // of the file system: "nfs4", "overlay", "cgroup2"
	Source  string
	Options []string // the file system's own
}

// longest is the longest line that is read, in bytes: an overlay's options are long.
const longest = 1 << 20

// Self lists what this process sees, in the order in which things were mounted: what stands later hides what was there before.
func Self() ([]Mount, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list what is mounted: %w", err)
	}
	defer f.Close()
	return Parse(f)
}

// Parse reads such a list. Lines that are not of its form are passed over.
func Parse(r io.Reader) ([]Mount, error) {
	var all []Mount
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, longest)
	for lines.Scan() {
		// id parent device root at options tags... - kind source options
		before, after, _ := strings.Cut(lines.Text(), " - ")
		place, what := strings.Fields(before), strings.Fields(after)
		if len(place) < 6 || len(what) < 3 {
			continue
		}
		all = append(all, Mount{
			At: Unescape(place[4]), Device: place[2], Tags: place[6:], Kind: what[0], Source: Unescape(what[1]), Options: strings.Split(what[2], ","),
		})
	}
	if err := lines.Err(); err != nil {
		return all, fmt.Errorf("list what is mounted: %w", err)
	}
	return all, nil
}

var escapes = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// Unescape undoes the octal escapes of space, tab, newline and backslash in the kernel's lists of mounts.
func Unescape(s string) string {
	if !strings.Contains(s, `\`) { // nearly always
		return s
	}
	return escapes.Replace(s)
}
