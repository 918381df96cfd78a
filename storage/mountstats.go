package storage

import (
	"bufio"
	"io"
	"slices"
	"strconv"
	"strings"

	"bramble.dev/internal/mountinfo"
)

// mountStats are the counters of one NFS mount.
type mountStats struct {
	at    string
	soft  bool // who waits for the server gets an error some time
	lease int  // seconds; the client calls the server more often than that, also when nobody uses the mount. 0: not known
	// Of the connections to the server, which mounts of one server share.
	connected, sent, received uint64
}

// parseMountStats reads /proc/self/mountstats, of which the kernel's nfs_show_stats and xprt print the part about NFS. What it does
// not know it passes over: each kernel version adds something.
func parseMountStats(r io.Reader) ([]mountStats, error) {
	var all []mountStats
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	nfs := false
	for lines.Scan() {
		line := lines.Text()
		if rest, ok := strings.CutPrefix(line, "device "); ok {
			at, kind := parseDevice(rest)
			if nfs = kind == "nfs4"; nfs {
				all = append(all, mountStats{at: at})
			}
			continue
		}
		if !nfs || len(all) == 0 {
			continue
		}
		all[len(all)-1].read(strings.TrimSpace(line))
	}
	return all, lines.Err()
}

// parseDevice reads "nas:/srv mounted on /mnt with fstype nfs4 statvers=1.1".
func parseDevice(s string) (at, kind string) {
	_, s, _ = strings.Cut(s, " mounted on ")
	at, s, _ = strings.Cut(s, " with fstype ")
	kind, _, _ = strings.Cut(s, " ")
	return mountinfo.Unescape(at), kind
}

func (m *mountStats) read(line string) {
	what, rest, _ := strings.Cut(line, ":")
	rest = strings.TrimSpace(rest)
	switch what {
	case "opts":
		options := strings.Split(rest, ",")
		m.soft = slices.Contains(options, "soft") || slices.Contains(options, "softerr")
	case "nfsv4":
		for part := range strings.SplitSeq(rest, ",") {
			if value, ok := strings.CutPrefix(part, "lease_time="); ok {
				if n, err := strconv.Atoi(value); err == nil && n > 0 {
					m.lease = n
				}
			}
		}
	case "xprt": // one line for each connection (nconnect)
		m.readTransport(strings.Fields(rest))
	}
}

// Places of the counters in the line of a connection by TCP or RDMA.
const (
	xprtConnects = 3
	xprtSent     = 6
	xprtReceived = 7
)

func (m *mountStats) readTransport(f []string) {
	if len(f) <= xprtReceived || f[0] != "tcp" && f[0] != "rdma" {
		return
	}
	var n [3]uint64
	for i, at := range []int{xprtConnects, xprtSent, xprtReceived} {
		var err error
		if n[i], err = strconv.ParseUint(f[at], 10, 64); err != nil {
			return
		}
	}
	m.connected += n[0]
	m.sent += n[1]
	m.received += n[2]
}
