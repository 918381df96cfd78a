package shortage

import (
	"cmp"
	"iter"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/agent/podspec"
	"bramble.dev/agent/seam"
)

// DefaultAge is how long an image is kept that was used or brought just now: the pod that it is for may be on its way.
const DefaultAge = 2 * time.Minute

// demand is what the pods of the node ask of its images.
type demand struct {
	needed map[string]bool // IDs of images that pods have or wait for
	trying map[string]bool // repositories of which a pod here runs an image that has not proved good
}

// ask notes what a pod needs. find gives the ID of the image that is here under a reference.
func (d *demand) ask(pod *corev1.Pod, s corev1.PodStatus, running []seam.Sandbox, find func(ref string) (string, bool)) {
	need := func(ref string) {
		if id, ok := find(ref); ok && ref != "" {
			d.needed[id] = true
		}
	}
	for _, box := range running {
		for _, c := range box.Containers {
			need(c.Image)
			need(c.ImageID)
		}
	}
	ready := slices.ContainsFunc(s.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue })
	for _, all := range []iter.Seq[podspec.Container]{podspec.All(pod), podspec.VolumeImages(pod)} {
		for c := range all {
			ref := podspec.ImageRef(c.Image)
			need(ref)
			if !ready {
				d.trying[repository(ref)] = true
			}
		}
	}
}

// repository is a reference without tag and digest, in the form that names of images have.
func repository(ref string) string {
	ref, _, _ = strings.Cut(ref, "@")
	if at := strings.LastIndex(ref, ":"); at > strings.LastIndex(ref, "/") {
		ref = ref[:at]
	}
	host, rest, ok := strings.Cut(ref, "/")
	if !ok {
		return "docker.io/library/" + ref
	}
	if !strings.ContainsAny(host, ".:") && host != "localhost" {
		return "docker.io/" + ref
	}
	if host == "index.docker.io" {
		return "docker.io/" + rest
	}
	return ref
}

// removable lists the images that may go, the one that was not used for longest first. Those that were imported by hand are
// apart: nobody can bring them again but who brought them. Of each repository of which a pod here has not become ready, the image that
// was used last before is kept: it is the last good one.
func removable(all []seam.Image, d demand, youngest time.Duration, now time.Time) (pulled, imported []seam.Image) {
	all = slices.Clone(all)
	slices.SortStableFunc(all, func(a, b seam.Image) int { return cmp.Or(a.Used.Compare(b.Used), strings.Compare(a.ID, b.ID)) })
	kept := map[string]bool{}
	for _, i := range slices.Backward(all) {
		if d.needed[i.ID] {
			continue
		}
		good := false
		for _, name := range i.Names {
			if r := repository(name); d.trying[r] && !kept[r] {
				kept[r], good = true, true
			}
		}
		if good {
			kept[i.ID] = true
		}
	}
	for _, i := range all {
		age := now.Sub(i.Used)
		switch {
		case d.needed[i.ID], kept[i.ID], age >= 0 && age < youngest: // a clock that went back keeps nothing
		case i.Imported:
			imported = append(imported, i)
		default:
			pulled = append(pulled, i)
		}
	}
	return pulled, imported
}

func name(i seam.Image) string {
	if len(i.Names) > 0 {
		return i.Names[len(i.Names)-1]
	}
	return i.ID
}
