package worker

import (
	"cmp"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
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
	files := map[uint32][]string{}
	for _, e := range entries {
		if n, ok := attemptOf(e.Name()); ok {
			files[n] = append(files[n], e.Name())
		}
	}
	attempts := make([]uint32, 0, len(files))
	for n := range files {
		attempts = append(attempts, n)
	}
	slices.SortFunc(attempts, func(a, b uint32) int { return cmp.Compare(b, a) })
	var errs []error
	for _, n := range attempts[min(keep, len(attempts)):] {
		for _, name := range files[n] {
			errs = append(errs, os.Remove(filepath.Join(dir, name)))
		}
	}
	return errors.Join(errs...)
}

// attemptOf is the attempt whose log a file is.
func attemptOf(file string) (n uint32, ok bool) {
	number, _, ok := strings.Cut(file, ".log")
	parsed, err := strconv.ParseUint(number, 10, 31) // one more than it is still a number of an attempt
	return uint32(parsed), ok && err == nil
}

// attemptsLogged is one more than the highest attempt that left a log: what the runtime and the
// database have lost must not be written over.
func (w *worker) attemptsLogged(pod *corev1.Pod, name string) uint32 {
	entries, err := os.ReadDir(filepath.Dir(LogPath(w.m.Dir, pod, name, 0)))
	if err != nil {
		return 0
	}
	next := uint32(0)
	for _, e := range entries {
		if n, ok := attemptOf(e.Name()); ok {
			next = max(next, n+1)
		}
	}
	return next
}
