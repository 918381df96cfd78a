package shortage

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Signal is what a threshold is about, as the kubelet names it.
type Signal string

// The signals. nodefs is the file system of volumes and logs, imagefs that of images and of what containers write.
const (
	MemoryAvailable  Signal = "memory.available"
	NodeFsAvailable  Signal = "nodefs.available"
	NodeFsInodes     Signal = "nodefs.inodesFree"
	ImageFsAvailable Signal = "imagefs.available"
	ImageFsInodes    Signal = "imagefs.inodesFree"
	PIDAvailable     Signal = "pid.available"
)

// Signals in the order in which they are seen to: memory first, for the kernel does not wait.
var signals = []Signal{MemoryAvailable, NodeFsAvailable, NodeFsInodes, ImageFsAvailable, ImageFsInodes, PIDAvailable}

// The resources as the kubelet's messages name them.
const (
	inodes corev1.ResourceName = "inodes"
	pids   corev1.ResourceName = "pids"
)

// resource is what is short when the signal is.
func (s Signal) resource() corev1.ResourceName {
	switch s {
	case MemoryAvailable:
		return corev1.ResourceMemory
	case NodeFsInodes, ImageFsInodes:
		return inodes
	case PIDAvailable:
		return pids
	}
	return corev1.ResourceEphemeralStorage
}

func (s Signal) disk() bool { return s != MemoryAvailable && s != PIDAvailable }

// Threshold is how much of something must be left: a quantity, or else a part of what there is in all.
type Threshold struct {
	Signal   Signal
	Quantity int64
	Percent  float64
	Most     int64 // what the part may come to; 0: no matter
	Own      bool  // it holds only where images have a file system of their own
}

// of is the threshold in the signal's unit.
func (t Threshold) of(capacity int64) int64 {
	if t.Percent > 0 {
		part := int64(float64(capacity) * t.Percent / 100)
		if t.Most > 0 {
			return min(part, t.Most)
		}
		return part
	}
	return t.Quantity
}

const (
	// smallBoard is the memory below which 100 MiB are too much to keep free: then a tenth is.
	smallBoard = 1 << 30
	// enough is more than a board need keep free of any disk: a tenth of a terabyte is not needed by anybody.
	enough = 10 << 30
)

// Defaults are the kubelet's thresholds, with what boards are like: small ones keep less memory free; large disks need not keep a part
// of theirs free; and where images are on the disk with everything else, the least free space is that of the whole (the kubelet's 15%
// would end pods as soon as images begin to be removed). The kubelet has no default for processes.
func Defaults(memory int64) []Threshold {
	first := Threshold{Signal: MemoryAvailable, Quantity: 100 << 20}
	if memory < smallBoard {
		first = Threshold{Signal: MemoryAvailable, Percent: 10}
	}
	return []Threshold{
		first,
		{Signal: NodeFsAvailable, Percent: 10, Most: enough}, {Signal: NodeFsInodes, Percent: 5},
		{Signal: ImageFsAvailable, Percent: 15, Most: enough, Own: true}, {Signal: ImageFsInodes, Percent: 5, Own: true},
		{Signal: PIDAvailable, Percent: 10},
	}
}

// ParseThresholds reads signal<quantity or signal<part%, also with = in place of <, and puts them in the place of the defaults;
// 0% or 100% takes one away.
func ParseThresholds(defaults []Threshold, given []string) ([]Threshold, error) {
	out := slices.Clone(defaults)
	for _, text := range given {
		t, err := parseThreshold(text)
		if err != nil {
			return nil, err
		}
		out = slices.DeleteFunc(out, func(o Threshold) bool { return o.Signal == t.Signal })
		if t.Quantity > 0 || t.Percent > 0 {
			out = append(out, t)
		}
	}
	slices.SortFunc(out, func(a, b Threshold) int { return slices.Index(signals, a.Signal) - slices.Index(signals, b.Signal) })
	return out, nil
}

func parseThreshold(text string) (Threshold, error) {
	fail := func(why string) (Threshold, error) { return Threshold{}, fmt.Errorf("%q: %s", text, why) }
	at := strings.IndexAny(text, "<=")
	if at < 0 {
		return fail("want signal<quantity or signal<percent%, such as memory.available<64Mi or imagefs.available<15%")
	}
	t, value := Threshold{Signal: Signal(strings.TrimSpace(text[:at]))}, strings.TrimSpace(text[at+1:])
	if !slices.Contains(signals, t.Signal) {
		return fail(fmt.Sprintf("there is no signal %q; there are %v", t.Signal, signals))
	}
	if part, ok := strings.CutSuffix(value, "%"); ok {
		p, err := strconv.ParseFloat(part, 64)
		if err != nil || !(p >= 0 && p <= 100) {
			return fail("want a percentage from 0% to 100%")
		}
		if p < 100 {
			t.Percent = p
		}
		return t, nil
	}
	q, err := resource.ParseQuantity(value)
	if err != nil || q.Sign() <= 0 {
		return fail("want a positive quantity, such as 64Mi, or a percentage; 0% takes the threshold away")
	}
	t.Quantity = q.Value()
	return t, nil
}

// Reservation is what thresholds keep from pods: the scheduler must not count on what is to stay free.
func Reservation(thresholds []Threshold, capacity corev1.ResourceList) corev1.ResourceList {
	out := corev1.ResourceList{}
	for _, t := range thresholds {
		name := t.Signal.resource()
		if t.Signal != MemoryAvailable && t.Signal != NodeFsAvailable {
			continue
		}
		q := capacity[name]
		out[name] = *resource.NewQuantity(t.of(q.Value()), resource.BinarySI)
	}
	return out
}

// Level is how much there is of something.
type Level struct{ Available, Capacity int64 }

// Levels are what was observed; a signal that could not be read is not there.
type Levels struct {
	Of map[Signal]Level
	// Split says that images have a file system of their own.
	Split bool
}

// short are the thresholds that are met, in the order in which they are seen to.
func short(thresholds []Threshold, l Levels) []Threshold {
	var out []Threshold
	for _, s := range signals {
		for _, t := range thresholds {
			if level, ok := l.Of[s]; ok && t.Signal == s && (l.Split || !t.Own) && level.Available < t.of(level.Capacity) {
				out = append(out, t)
			}
		}
	}
	return out
}
