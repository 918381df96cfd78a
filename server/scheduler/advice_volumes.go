package scheduler

import (
	"fmt"
	"slices"
	"strings"

	storagehelpers "k8s.io/component-helpers/storage/volume"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/controllers/persistentvolume"
)

// unbound says what a claim waits for that must have its volume before a pod is
// placed.
func unbound(c *corev1.PersistentVolumeClaim, s storage) string {
	more := fmt.Sprintf("(kubectl describe pvc %s says more)", c.Name)
	if name := c.Spec.VolumeName; name != "" {
		pv, ok := s.Volume(name)
		switch {
		case !ok:
			return fmt.Sprintf("Claim %s asks for the volume %s, which does not exist.", c.Name, name)
		case pv.Spec.ClaimRef != nil && !storagehelpers.IsVolumeBoundToClaim(pv, c):
			return fmt.Sprintf("Claim %s asks for the volume %s, which belongs to claim %s/%s.", c.Name, name, pv.Spec.ClaimRef.Namespace, pv.Spec.ClaimRef.Name)
		}
		return fmt.Sprintf("Claim %s asks for the volume %s and does not get it %s.", c.Name, name, more)
	}
	name := storagehelpers.GetPersistentVolumeClaimClass(c)
	class, known := s.Class(name)
	asked := size(volume{claim: c}).String()
	switch {
	case name == "":
		return fmt.Sprintf("Claim %s has no storage class, and no free volume fits it (%s, %s): make one, or a claim with a class.", c.Name, asked, modes(c))
	case !known:
		return fmt.Sprintf("Claim %s is of the storage class %s, which does not exist, and no free volume of that class fits it (%s, %s).", c.Name, name, asked, modes(c))
	}
	return fmt.Sprintf("Claim %s waits for a volume from %s %s.", c.Name, class.Provisioner, more)
}

func modes(c *corev1.PersistentVolumeClaim) string {
	var out []string
	for _, m := range c.Spec.AccessModes {
		out = append(out, string(m))
	}
	return strings.Join(out, ", ")
}

// lodged says what keeps a pod from nodes because of its volumes: where they
// are, who has them, or why there will be none.
func lodged(p *candidate, nodes []*nodeState) string {
	if len(refusedBy(reachableVolumes, p, nodes)) == 0 {
		return ""
	}
	var out []string
	for _, v := range p.volumes.all {
		switch {
		case v.bound && v.volume != nil:
			out = append(out, where(v, nodes))
		case !v.bound:
			if v.impossible != nil {
				out = append(out, fmt.Sprintf("Claim %s cannot be met: %v.", v.claim.Name, v.impossible))
			} else if at := v.claim.Annotations[storagehelpers.AnnSelectedNode]; at != "" {
				out = append(out, fmt.Sprintf("The volume of claim %s is being made on %s.", v.claim.Name, at))
			} else if v.class.Provisioner == "" || v.class.Provisioner == persistentvolume.NoProvisioner {
				out = append(out, fmt.Sprintf("Claim %s is of the storage class %s, whose volumes are made by hand: none is free on these nodes and fits it (%s, %s).",
					v.claim.Name, v.class.Name, size(v), modes(v.claim)))
			}
		}
	}
	if other := p.volumes.taken; other != nil {
		out = append(out, fmt.Sprintf("Pod %s has a claim of it that only one pod may use at a time (ReadWriteOncePod).", other.Name))
	}
	return strings.Join(slices.DeleteFunc(out, func(s string) bool { return s == "" }), " ")
}

// where is the place of a volume that not every node reaches.
func where(v volume, nodes []*nodeState) string {
	var from []string
	for _, n := range nodes {
		if reaches(n.node, v.volume) {
			from = append(from, n.node.Name)
		}
	}
	switch {
	case len(from) == len(nodes):
		return ""
	case len(from) > 0:
		return fmt.Sprintf("The volume of claim %s is on %s.", v.claim.Name, some(from))
	}
	return fmt.Sprintf("The volume of claim %s (%s) is on none of the nodes: it asks for %s.", v.claim.Name, v.volume.Name, terms(v.volume.Spec.NodeAffinity.Required))
}
