package scheduler

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/distribution/reference"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/link"
	"bramble.dev/server/cache"
)

// platform refuses a node whose processor cannot run one of the pod's images.
func platform(p *candidate, n *nodeState) *refusal {
	system, processor := n.node.Labels[corev1.LabelOSStable], n.node.Labels[corev1.LabelArchStable]
	if processor == "" {
		return nil
	}
	if system == "" {
		system = "linux"
	}
	for _, image := range imagesOf(p.pod) {
		platforms := p.platforms[image]
		if len(platforms) == 0 || slices.ContainsFunc(platforms, func(s string) bool { return runs(s, system, processor) }) || has(n.node, image) {
			continue
		}
		all := strings.Join(platforms, " and ")
		return never(fmt.Sprintf("node(s) are %s/%s but image %s is for %s only: use an image for %[1]s/%[2]s or add a node of %[4]s", system, processor, image, all))
	}
	return nil
}

// has says that the node has an image already, whatever others say of it.
func has(node *corev1.Node, image string) bool {
	return slices.ContainsFunc(node.Status.Images, func(i corev1.ContainerImage) bool {
		return slices.ContainsFunc(i.Names, func(name string) bool { return sameImage(name, image) })
	})
}

// narrower are processors whose programs others run too. Not all 64-bit ARM boards
// run 32-bit programs; that one does not, the board itself says.
var narrower = map[string]string{"amd64": "386", "arm64": "arm"}

// runs compares a platform with a node's system and processor. A variant is not
// known of a node and left to it.
func runs(platform, system, processor string) bool {
	parts := strings.Split(platform, "/")
	return len(parts) >= 2 && parts[0] == system && (parts[1] == processor || parts[1] == narrower[processor])
}

// normalName is a name as nodes tell it: docker.io/library/nginx:latest for nginx.
func normalName(image string) string {
	if named, err := reference.ParseDockerRef(image); err == nil {
		return named.String()
	}
	return image
}

func imagesOf(pod *corev1.Pod) []string {
	var out []string
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			if image := containers[i].Image; image != "" && !slices.Contains(out, image) {
				out = append(out, image)
			}
		}
	}
	return out
}

// platformsFromNodes knows of an image's platforms what nodes tell about it.
func platformsFromNodes(nodes *cache.Cache[corev1.Node]) func(image string) []string {
	var mu sync.Mutex
	var known map[string][]string // nil: a node's word changed, and it is read again
	nodes.OnChange(func(change cache.Change[corev1.Node]) {
		if change.Old == nil || change.New == nil || change.Old.Annotations[link.PlatformsAnnotation] != change.New.Annotations[link.PlatformsAnnotation] {
			mu.Lock()
			known = nil
			mu.Unlock()
		}
	})
	return func(image string) []string {
		mu.Lock()
		defer mu.Unlock()
		if known == nil {
			known = readPlatforms(nodes.List("", nil))
		}
		return known[normalName(image)]
	}
}

func readPlatforms(nodes []*corev1.Node) map[string][]string {
	out := map[string][]string{}
	for _, node := range nodes {
		var told map[string][]string
		if json.Unmarshal([]byte(node.Annotations[link.PlatformsAnnotation]), &told) != nil {
			continue // it says nothing, or nonsense
		}
		for image, platforms := range told {
			for _, p := range platforms {
				if !slices.Contains(out[image], p) {
					out[image] = append(out[image], p)
				}
			}
		}
	}
	for _, platforms := range out {
		slices.Sort(platforms)
	}
	return out
}
