package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/apimachinery/pkg/types"
)

// sweepFolders removes files and logs of pods that are gone: an earlier agent was killed before it
// could, or lost its database.
func (a *agent) sweepFolders(keep map[types.UID]bool) error {
	for _, v := range a.pods.Pods() {
		keep[v.Pod.UID] = true // its worker sees to it
	}
	var errs []error
	for _, dir := range []string{a.config.dir("pods"), a.config.dir("logs", "pods")} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("look for leftovers: %w", err))
		}
		for _, e := range entries {
			uid := e.Name()[strings.LastIndex(e.Name(), "_")+1:] // logs are <namespace>_<name>_<uid>
			path := filepath.Join(dir, e.Name())
			if keep[types.UID(uid)] {
				continue
			}
			// Nothing is removed through a mount: it would be the content of a volume.
			if err := unmountBelow(path); err != nil {
				errs = append(errs, err)
				continue
			}
			errs = append(errs, os.RemoveAll(path))
		}
	}
	return errors.Join(errs...)
}
