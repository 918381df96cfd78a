package container

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	podresource "k8s.io/component-helpers/resource"

	"bramble.dev/runtime/cgroup"
)

const (
	minShares, maxShares = 2, 262144
	period               = 100_000 // microseconds
	minQuota             = 1_000
)

func shares(cpu *resource.Quantity) uint64 {
	if cpu == nil || cpu.IsZero() {
		return minShares
	}
	return uint64(min(max(cpu.MilliValue()*1024/1000, minShares), maxShares))
}

func quota(cpu *resource.Quantity) int64 {
	if cpu == nil || cpu.IsZero() {
		return 0
	}
	return max(cpu.MilliValue()*period/1000, minQuota)
}

// Limits are those of a container's own cgroup.
func Limits(want corev1.ResourceRequirements, h Host) *specs.LinuxResources {
	request := want.Requests.Cpu()
	if _, ok := want.Requests[corev1.ResourceCPU]; !ok {
		request = want.Limits.Cpu()
	}
	weight := shares(request)
	r := &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: &weight}}
	if q := quota(want.Limits.Cpu()); q > 0 {
		p := uint64(period)
		r.CPU.Quota, r.CPU.Period = &q, &p
	}
	if limit := want.Limits.Memory().Value(); limit > 0 && h.Memory {
		r.Memory = &specs.LinuxMemory{Limit: &limit}
		if h.Swap { // memory and swap together: none of it is swap
			r.Memory.Swap = &limit
		}
	}
	if h.Unified && h.Memory {
		// A container of which one process was killed for memory is not left running in half.
		r.Unified = map[string]string{"memory.oom.group": "1"}
	}
	return r
}

// PodResources are the limits of the pod's cgroup.
func PodResources(pod *corev1.Pod) cgroup.Resources {
	want := PodRequirements(pod)
	return cgroup.Resources{
		CPUShares: shares(want.Requests.Cpu()), CPUPeriod: period, CPUQuota: quota(want.Limits.Cpu()), Memory: want.Limits.Memory().Value(),
	}
}

// PodRequirements are what the pod as a whole is given: processor time and memory, a limit only where everything in it has one.
func PodRequirements(pod *corev1.Pod) corev1.ResourceRequirements {
	requests := podresource.PodRequests(pod, podresource.PodResourcesOptions{})
	limits := podresource.PodLimits(pod, podresource.PodResourcesOptions{})
	out := corev1.ResourceRequirements{Requests: corev1.ResourceList{}, Limits: corev1.ResourceList{}}
	for _, name := range compute {
		if q, ok := requests[name]; ok {
			out.Requests[name] = q
		}
		if q, ok := limits[name]; ok && everyContainer(pod, name) {
			out.Limits[name] = q
		}
	}
	return out
}

var compute = []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory}

// Actual is what a cgroup gives: what was asked for, but for limits that are no longer those which it held afterwards, because
// somebody else has written them. (A kernel rounds, so what it holds is not always what was asked for.) The weight of version
// 2 is too coarse to be told as a request.
func Actual(asked corev1.ResourceRequirements, held, now cgroup.Limits) corev1.ResourceRequirements {
	out := *asked.DeepCopy()
	set := func(list *corev1.ResourceList, name corev1.ResourceName, q *resource.Quantity, some bool) {
		if !some {
			delete(*list, name)
			return
		}
		if *list == nil {
			*list = corev1.ResourceList{}
		}
		(*list)[name] = *q
	}
	if now.Memory != held.Memory {
		set(&out.Limits, corev1.ResourceMemory, resource.NewQuantity(now.Memory, resource.BinarySI), now.Memory > 0)
	}
	if now.CPUQuota != held.CPUQuota || now.CPUPeriod != held.CPUPeriod {
		set(&out.Limits, corev1.ResourceCPU, resource.NewMilliQuantity(now.CPUQuota*1000/max(now.CPUPeriod, 1), resource.DecimalSI), now.CPUQuota > 0)
	}
	if now.CPUShares != held.CPUShares {
		set(&out.Requests, corev1.ResourceCPU, resource.NewMilliQuantity(int64((now.CPUShares*1000+1023)/1024), resource.DecimalSI), now.CPUShares > minShares)
	}
	return out
}

// everyContainer says whether the pod as a whole is limited: by its own word, or because each container is.
func everyContainer(pod *corev1.Pod, name corev1.ResourceName) bool {
	if pod.Spec.Resources != nil {
		if q, ok := pod.Spec.Resources.Limits[name]; ok && !q.IsZero() {
			return true
		}
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for _, c := range list {
			if q := c.Resources.Limits[name]; q.IsZero() {
				return false
			}
		}
	}
	return len(pod.Spec.Containers) > 0
}

const (
	criticalPriority = 2_000_000_000
	guaranteedScore  = -997
	bestEffortScore  = 1000
)

// oomScore is whom the kernel should kill first when the node runs out of memory, by the kubelet's rules.
func oomScore(pod *corev1.Pod, class corev1.PodQOSClass, c *corev1.Container, h Host) int {
	score := 0
	switch critical := pod.Spec.Priority != nil && *pod.Spec.Priority >= criticalPriority; {
	case critical, class == corev1.PodQOSGuaranteed:
		score = guaranteedScore
	case class == corev1.PodQOSBestEffort:
		score = bestEffortScore
	default:
		request := c.Resources.Requests.Memory().Value()
		if _, ok := c.Resources.Requests[corev1.ResourceMemory]; !ok {
			request = c.Resources.Limits.Memory().Value()
		}
		score = bestEffortScore
		if h.MemoryBytes > 0 {
			score -= int(1000 * request / h.MemoryBytes)
		}
		score = min(max(score, bestEffortScore+guaranteedScore), bestEffortScore-1)
	}
	return max(score, h.MinOOMScore) // without CAP_SYS_RESOURCE nobody may go below that
}
