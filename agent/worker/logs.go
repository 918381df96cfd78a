package worker

import (
	"cmp"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// keptLogs is of how many attempts of a container the logs stay: of the one that runs, and of the one before, which is what
// --previous shows. A container that crashes for weeks would fill the card.
const keptLogs = 2

// dropLogs removes the logs of the oldest attempts of a container, rotated files included: <attempt>.log, <attempt>.log.1, ...
func dropLogs(dir string, keep int) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	files := map[uint64][]string{}
	for _, e := range entries {
		number, _, ok := strings.Cut(e.Name(), ".log")
		if n, err := strconv.ParseUint(number, 10, 32); ok && err == nil {
			files[n] = append(files[n], e.Name())
		}
	}
	attempts := make([]uint64, 0, len(files))
	for n := range files {
		attempts = append(attempts, n)
	}
	slices.SortFunc(attempts, func(a, b uint64) int { return cmp.Compare(b, a) })
	var errs []error
	for _, n := range attempts[min(keep, len(attempts)):] {
		for _, name := range files[n] {
			errs = append(errs, os.Remove(filepath.Join(dir, name)))
		}
	}
	return errors.Join(errs...)
}
