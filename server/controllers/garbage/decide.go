package garbage

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// references are an object's owners by what became of them.
type references struct {
	solid    []types.UID // exist
	dangling []types.UID // do not exist
	waiting  []types.UID // exist, and wait for this object to go
}

// verdict is what becomes of an object.
type verdict int

const (
	stay      verdict = iota
	unlink            // stay, without the references that hold no more
	remove            // be deleted
	removeAll         // be deleted after its own dependents
)

// judge decides about an object that has owners.
func judge(r references, dependents int) verdict {
	switch {
	case len(r.solid) > 0 && len(r.dangling)+len(r.waiting) == 0:
		return stay
	case len(r.solid) > 0:
		return unlink
	case len(r.waiting) > 0 && dependents > 0:
		return removeAll
	}
	return remove
}

// policy keeps what the object's own finalizers ask for.
func policy(m metav1.Object) metav1.DeletionPropagation {
	switch {
	case has(m, metav1.FinalizerOrphanDependents):
		return metav1.DeletePropagationOrphan
	case has(m, metav1.FinalizerDeleteDependents):
		return metav1.DeletePropagationForeground
	}
	return metav1.DeletePropagationBackground
}

// blockers are the dependents that a foreground deletion waits for.
func blockers(owner types.UID, dependents []node) []node {
	var out []node
	for _, d := range dependents {
		for _, r := range d.owners {
			if r.UID == owner && blocks(r) {
				out = append(out, d)
				break
			}
		}
	}
	return out
}
