package status

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"bramble.dev/agent/seam"
	"bramble.dev/link"
)

// Machine is what a board is.
type Machine struct {
	CPUs         int
	MemoryBytes  int64
	DiskBytes    int64 // of the file system with the agent's folder
	MachineID    string
	SystemUUID   string
	BootID       string
	Kernel       string
	OSImage      string
	Architecture string
	SwapBytes    int64
	HugePages    map[string]int64 // bytes by size, as hugepages-2Mi
}

// Pressure is what the board runs short of.
type Pressure struct{ Memory, Disk, PID bool }

// NodeInput is what a node's status is made from.
type NodeInput struct {
	Name       string
	IPs        []string // none: the node has no address yet
	Machine    Machine
	MaxPods    int
	Reserved   corev1.ResourceList // what the board needs for itself
	Runtime    string              // version of the container runtime
	Kubelet    string              // version of Kubernetes that the node behaves like
	Images     []seam.Image
	Pressure   Pressure
	NotReady   []string // why no pod can be run; none: it is ready
	Site       string
	OtherSites []string         // whose pods this node's do not reach
	Ports      []link.PortInUse // that Services or Ingresses want, and programs of the board have
	Old        corev1.NodeStatus
	Now        time.Time
}

// The bounds of the API for images in a node's status.
const (
	maxImages     = 50
	maxImageNames = 5
)

// Node makes the status of this node. It changes only when something does: a heartbeat is the
// link's business, not the status's.
func Node(in NodeInput) corev1.NodeStatus {
	s := corev1.NodeStatus{
		Capacity: capacity(in),
		NodeInfo: corev1.NodeSystemInfo{
			MachineID: in.Machine.MachineID, SystemUUID: in.Machine.SystemUUID, BootID: in.Machine.BootID,
			KernelVersion: in.Machine.Kernel, OSImage: in.Machine.OSImage, Architecture: in.Machine.Architecture, OperatingSystem: "linux",
			ContainerRuntimeVersion: "bramble://" + in.Runtime, KubeletVersion: in.Kubelet,
		},
		Images: images(in.Images),
	}
	for _, ip := range in.IPs {
		s.Addresses = append(s.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip})
	}
	s.Addresses = append(s.Addresses, corev1.NodeAddress{Type: corev1.NodeHostName, Address: in.Name})
	// Nobody listens there: the server reaches the node over the link. But clients read it.
	s.DaemonEndpoints.KubeletEndpoint.Port = 10250
	if in.Machine.SwapBytes > 0 {
		s.NodeInfo.Swap = &corev1.NodeSwapStatus{Capacity: &in.Machine.SwapBytes}
	}
	s.Allocatable = allocatable(s.Capacity, in.Reserved)
	s.Conditions = nodeConditions(in)
	supplemental := true
	s.Features = &corev1.NodeFeatures{SupplementalGroupsPolicy: &supplemental}
	recursive, users := true, false
	features := &corev1.NodeRuntimeHandlerFeatures{RecursiveReadOnlyMounts: &recursive, UserNamespaces: &users}
	s.RuntimeHandlers = []corev1.NodeRuntimeHandler{{Name: "", Features: features}, {Name: "runc", Features: features.DeepCopy()}}
	return s
}

func capacity(in NodeInput) corev1.ResourceList {
	m := in.Machine
	list := corev1.ResourceList{
		corev1.ResourceCPU:              *resource.NewQuantity(int64(m.CPUs), resource.DecimalSI),
		corev1.ResourceMemory:           *resource.NewQuantity(m.MemoryBytes&^1023, resource.BinarySI),
		corev1.ResourceEphemeralStorage: *resource.NewQuantity(m.DiskBytes&^1023, resource.BinarySI),
		corev1.ResourcePods:             *resource.NewQuantity(int64(in.MaxPods), resource.DecimalSI),
	}
	for size, bytes := range m.HugePages {
		list[corev1.ResourceName(size)] = *resource.NewQuantity(bytes, resource.BinarySI)
	}
	return list
}

func allocatable(capacity, reserved corev1.ResourceList) corev1.ResourceList {
	out := corev1.ResourceList{}
	memory := capacity[corev1.ResourceMemory].DeepCopy()
	for name, q := range capacity {
		q = q.DeepCopy()
		if r, ok := reserved[name]; ok {
			q.Sub(r)
		}
		if q.Sign() < 0 {
			q.Set(0)
		}
		if strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix) {
			memory.Sub(q)
		}
		out[name] = q
	}
	if r, ok := reserved[corev1.ResourceMemory]; ok {
		memory.Sub(r)
	}
	if memory.Sign() < 0 {
		memory.Set(0)
	}
	out[corev1.ResourceMemory] = memory
	return out
}

// images lists the largest, as the kubelet does; the scheduler prefers nodes that have a pod's.
func images(all []seam.Image) []corev1.ContainerImage {
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b seam.Image) int {
		if a.Size != b.Size {
			if a.Size > b.Size {
				return -1
			}
			return 1
		}
		return strings.Compare(a.ID, b.ID)
	})
	var out []corev1.ContainerImage
	for _, i := range all {
		if len(out) == maxImages {
			break
		}
		names := slices.Clone(i.Names)
		if len(names) > maxImageNames {
			names = names[:maxImageNames]
		}
		out = append(out, corev1.ContainerImage{Names: names, SizeBytes: i.Size})
	}
	return out
}

func nodeConditions(in NodeInput) []corev1.NodeCondition {
	var out []corev1.NodeCondition
	pressure := func(t corev1.NodeConditionType, on bool, yes, no, yesText, noText string) {
		c := corev1.NodeCondition{Type: t, Status: corev1.ConditionFalse, Reason: no, Message: noText}
		if on {
			c.Status, c.Reason, c.Message = corev1.ConditionTrue, yes, yesText
		}
		out = append(out, c)
	}
	pressure(corev1.NodeMemoryPressure, in.Pressure.Memory, "KubeletHasInsufficientMemory", "KubeletHasSufficientMemory", "kubelet has insufficient memory available", "kubelet has sufficient memory available")
	pressure(corev1.NodeDiskPressure, in.Pressure.Disk, "KubeletHasDiskPressure", "KubeletHasNoDiskPressure", "kubelet has disk pressure", "kubelet has no disk pressure")
	pressure(corev1.NodePIDPressure, in.Pressure.PID, "KubeletHasInsufficientPID", "KubeletHasSufficientPID", "kubelet has insufficient PID available", "kubelet has sufficient PID available")
	ready := corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", Message: "kubelet is posting ready status"}
	if len(in.NotReady) > 0 {
		ready.Status, ready.Reason, ready.Message = corev1.ConditionFalse, "KubeletNotReady", aggregate(in.NotReady)
	}
	out = append(out, ready)
	if c, ok := sites(in); ok {
		out = append(out, c)
	}
	out = append(out, portsFree(in))
	now := metav1.NewTime(in.Now).Rfc3339Copy()
	for i := range out {
		c := &out[i]
		c.LastHeartbeatTime, c.LastTransitionTime = now, now
		for _, o := range in.Old.Conditions {
			if o.Type != c.Type || o.Status != c.Status {
				continue
			}
			c.LastTransitionTime = o.LastTransitionTime
			if o.Reason == c.Reason && o.Message == c.Message {
				c.LastHeartbeatTime = o.LastHeartbeatTime // nothing is new
			}
		}
	}
	return out
}

// portsFree says whether programs of the board have ports that Services or Ingresses want.
func portsFree(in NodeInput) corev1.NodeCondition {
	if len(in.Ports) == 0 {
		return corev1.NodeCondition{Type: link.PortsFree, Status: corev1.ConditionTrue, Reason: "NoneInUse", Message: "no program of this board has a port that a Service or an Ingress wants"}
	}
	return corev1.NodeCondition{Type: link.PortsFree, Status: corev1.ConditionFalse, Reason: link.PortsInUse, Message: link.PortsMessage(in.Ports)}
}

// SitesConnected is a condition of a node that is one of several sites' or was.
const SitesConnected corev1.NodeConditionType = "SitesConnected"

// sites says whether pods here reach those of other sites; of nothing when there never were any.
func sites(in NodeInput) (corev1.NodeCondition, bool) {
	c := corev1.NodeCondition{Type: SitesConnected, Status: corev1.ConditionTrue, Reason: "AllSitesConnected", Message: "pods of this node reach all others"}
	if len(in.OtherSites) > 0 {
		others := make([]string, len(in.OtherSites))
		for i, s := range in.OtherSites {
			if others[i] = s; s == "" {
				others[i] = "(nodes without a site)"
			}
		}
		c.Status, c.Reason = corev1.ConditionFalse, "TunnelNotEncrypted"
		c.Message = "pods of this node do not reach those of other sites, because the tunnel is not encrypted: " + strings.Join(others, ", ") +
			"; if the path between the sites is safe, start the server with --across-sites"
	}
	before := slices.ContainsFunc(in.Old.Conditions, func(o corev1.NodeCondition) bool { return o.Type == SitesConnected })
	return c, in.Site != "" || len(in.OtherSites) > 0 || before
}

func aggregate(reasons []string) string {
	if len(reasons) == 1 {
		return reasons[0]
	}
	return "[" + strings.Join(reasons, ", ") + "]"
}

// Summary of a machine for people, in one line.
func (m Machine) String() string {
	return fmt.Sprintf("%s, %s, %d CPUs, %s MiB, kernel %s", m.OSImage, m.Architecture, m.CPUs, strconv.FormatInt(m.MemoryBytes>>20, 10), m.Kernel)
}
