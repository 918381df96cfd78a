package scheduler

import (
	"hash/fnv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

const maxScore = 100

// score rates a node for a pod: more is better. Unless it is absolute, it is
// stretched over all nodes to 0..maxScore.
type score struct {
	of       func(*candidate, *nodeState) int64
	weight   int64
	absolute bool
}

// scores with upstream's weights.
var scores = []score{
	{of: scoreTaints, weight: 3},
	{of: scoreNodeAffinity, weight: 2},
	{of: scoreSpread, weight: 2},
	{of: scoreNeighbours, weight: 2},
	{of: scoreLeastAllocated, weight: 1, absolute: true},
	{of: scoreBalanced, weight: 1, absolute: true},
	{of: scoreImages, weight: 1, absolute: true},
}

// best picks the node with the highest sum; equal ones are told apart by the
// number of pods and then by the pod's UID, so that the same question has the
// same answer and different pods still spread.
func best(p *candidate, nodes []*nodeState) *nodeState {
	total, values := make([]int64, len(nodes)), make([]int64, len(nodes))
	for _, s := range scores {
		for i, n := range nodes {
			values[i] = s.of(p, n)
		}
		if !s.absolute {
			stretch(values)
		}
		for i := range nodes {
			total[i] += s.weight * values[i]
		}
	}
	winner := 0
	for i := range nodes {
		if i != winner && better(p, nodes[i], nodes[winner], total[i], total[winner]) {
			winner = i
		}
	}
	return nodes[winner]
}

func better(p *candidate, a, b *nodeState, scoreA, scoreB int64) bool {
	if scoreA != scoreB {
		return scoreA > scoreB
	}
	if len(a.pods) != len(b.pods) {
		return len(a.pods) < len(b.pods)
	}
	if ha, hb := lot(p, a), lot(p, b); ha != hb {
		return ha < hb
	}
	return a.node.Name < b.node.Name
}

func lot(p *candidate, n *nodeState) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(string(p.pod.UID) + n.node.Name))
	return h.Sum32()
}

// stretch maps the smallest value to 0 and the largest to maxScore; equal ones
// all to 0.
func stretch(values []int64) {
	low, high := values[0], values[0]
	for _, v := range values {
		low, high = min(low, v), max(high, v)
	}
	for i, v := range values {
		if high == low {
			values[i] = 0
		} else {
			values[i] = (v - low) * maxScore / (high - low)
		}
	}
}

// scoreTaints prefers nodes that do not ask to be avoided.
func scoreTaints(p *candidate, n *nodeState) int64 {
	var avoid int64
	for _, taint := range n.node.Spec.Taints {
		if taint.Effect == corev1.TaintEffectPreferNoSchedule && !tolerates(p, taint) {
			avoid++
		}
	}
	return -avoid
}

func scoreNodeAffinity(p *candidate, n *nodeState) int64 {
	if p.preferred == nil {
		return 0
	}
	return p.preferred.Score(n.node)
}

// Image sizes between these count; what is smaller is pulled in no time.
const (
	smallImages = 23 << 20
	largeImage  = 1000 << 20
)

// scoreImages prefers nodes that have the pod's images.
func scoreImages(p *candidate, n *nodeState) int64 {
	images := imagesOf(p.pod)
	var size int64
	for _, image := range images {
		for _, has := range n.node.Status.Images {
			for _, name := range has.Names {
				if sameImage(name, image) {
					size += has.SizeBytes
				}
			}
		}
	}
	most := int64(largeImage * max(len(images), 1))
	size = min(max(size, smallImages), most)
	return maxScore * (size - smallImages) / (most - smallImages)
}

// sameImage compares a full name with one that may lack registry and tag.
func sameImage(full, short string) bool {
	if !strings.Contains(short[strings.LastIndex(short, "/")+1:], ":") && !strings.Contains(short, "@") {
		short += ":latest"
	}
	return full == short || strings.HasSuffix(full, "/"+short)
}
