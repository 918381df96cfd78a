// Package hostports finds out which ports of the board its own programs have, so that a Service or an Ingress that wants one is
// refused there, and the board's SSH or web server stays reachable.
//
// Invariant: it only looks. What it finds is true of the moment at which it looked.
//
//	inUse, err := hostports.Find("/proc", wanted)
package hostports

import (
	"bufio"
	"cmp"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Port is one that is asked about.
type Port struct {
	Protocol corev1.Protocol
	Number   uint16
}

// Use is a port that a program has.
type Use struct {
	Port
	Program string // "" when it cannot be told
}

// Find gives those of the wanted ports on which a program of this network namespace listens, but for those that only the board
// itself can reach. Only the tables of the kernel are read, unless one is found.
func Find(proc string, wanted map[Port]bool) ([]Use, error) {
	if len(wanted) == 0 {
		return nil, nil
	}
	inodes := map[string]Port{}
	var errs []error
	for _, table := range []struct {
		name     string
		protocol corev1.Protocol
		state    string // of a socket that takes what comes
	}{{"tcp", corev1.ProtocolTCP, "0A"}, {"tcp6", corev1.ProtocolTCP, "0A"}, {"udp", corev1.ProtocolUDP, "07"}, {"udp6", corev1.ProtocolUDP, "07"}} {
		f, err := os.Open(filepath.Join(proc, "thread-self/net", table.name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // a kernel without IPv6
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			if number, inode, ok := listening(lines.Text(), table.state); ok && wanted[Port{table.protocol, number}] {
				inodes[inode] = Port{table.protocol, number}
			}
		}
		errs = append(errs, lines.Err(), f.Close())
	}
	return uses(proc, inodes), errors.Join(errs...)
}

// listening reads a line of /proc/net/tcp or udp.
func listening(line, state string) (port uint16, inode string, ok bool) {
	f := strings.Fields(line)
	if len(f) < 10 || f[3] != state {
		return 0, "", false
	}
	address, number, ok := strings.Cut(f[1], ":")
	n, err := strconv.ParseUint(number, 16, 16)
	if !ok || err != nil || loopback(address) {
		return 0, "", false
	}
	return uint16(n), f[9], true
}

// loopback says whether an address, in the host's order of bytes, is the board's own.
func loopback(address string) bool {
	b, err := hex.DecodeString(address)
	switch {
	case err != nil:
		return false
	case len(b) == 4:
		return b[3] == 127
	case len(b) == 16: // ::1, or 127.0.0.0/8 in the form of IPv6
		zero := !slices.ContainsFunc(b[:8], func(x byte) bool { return x != 0 })
		return zero && (string(b[8:]) == "\x00\x00\x00\x00\x01\x00\x00\x00" || string(b[8:12]) == "\x00\x00\xff\xff" && b[15] == 127)
	}
	return false
}

// uses looks for the programs that have the sockets.
func uses(proc string, inodes map[string]Port) []Use {
	if len(inodes) == 0 {
		return nil
	}
	programs := map[Port]string{}
	for _, p := range inodes {
		programs[p] = ""
	}
	fds, _ := filepath.Glob(filepath.Join(proc, "[0-9]*", "fd", "*"))
	for _, fd := range fds {
		to, err := os.Readlink(fd)
		inode, ok := strings.CutPrefix(to, "socket:[")
		if err != nil || !ok {
			continue
		}
		if p, ok := inodes[strings.TrimSuffix(inode, "]")]; ok && programs[p] == "" {
			name, _ := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(fd)), "comm"))
			programs[p] = strings.TrimSpace(string(name))
		}
	}
	out := make([]Use, 0, len(programs))
	for p, name := range programs {
		out = append(out, Use{p, name})
	}
	slices.SortFunc(out, func(a, b Use) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Number, b.Number))
	})
	return out
}
