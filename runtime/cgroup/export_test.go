package cgroup

import "path/filepath"

// Empty says whether no process is left in the cgroup.
func (t *Tree) Empty(name string) (bool, error) {
	for _, dir := range t.dirs {
		pids, err := processes(filepath.Join(dir, t.parent, name))
		if err != nil || len(pids) > 0 {
			return false, err
		}
	}
	return true, nil
}
