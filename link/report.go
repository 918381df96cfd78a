package link

import (
	"encoding/json"
	"fmt"
	"net"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// NodeReportKey is the key of a NodeReport in the status set.
const NodeReportKey = "node"

// RestrictedLabel says whether a label is for the cluster's administrator to give, as upstream's NodeRestriction has it: a board
// that was robbed must not draw to itself the pods, and with them the Secrets, that such a label keeps on others.
func RestrictedLabel(key string) bool {
	prefix, _, ok := strings.Cut(key, "/")
	return ok && (prefix == corev1.LabelNamespaceNodeRestriction || strings.HasSuffix(prefix, "."+corev1.LabelNamespaceNodeRestriction))
}

// PlatformsAnnotation of a Node is its report's Platforms, a JSON object of image name to a list like "linux/arm/v7". It lies
// on the Node, because what one node has found out must keep a pod from all nodes that cannot run it, also after the server
// was restarted, and must go with the node that says so. The scheduler reads it of all nodes together.
const PlatformsAnnotation = "bramble.dev/image-platforms"

// PodReport is what an agent says of a pod; item pods/<namespace>/<name>/<uid> of the status set.
type PodReport struct {
	UID    types.UID
	Status corev1.PodStatus
	// Terminated: nothing of the pod is left on the node, so the server may remove the object.
	Terminated bool
}

// Encode gives the value of an item.
func (r *PodReport) Encode() ([]byte, error) {
	status, err := r.Status.Marshal()
	if err != nil {
		return nil, fmt.Errorf("link: report of pod %s: %w", r.UID, err)
	}
	var e encoder
	e.byte(boolByte(r.Terminated))
	e.string(string(r.UID))
	e.bytes(status)
	return e.b, nil
}

func boolByte(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// DecodePodReport reads an item.
func DecodePodReport(b []byte) (*PodReport, error) {
	d := decoder{b: b}
	r := &PodReport{Terminated: d.byte()&1 != 0, UID: types.UID(d.string())}
	status := d.bytes()
	if d.err != nil {
		return nil, d.err
	}
	if err := r.Status.Unmarshal(status); err != nil {
		return nil, fmt.Errorf("link: report of pod %s: %w", r.UID, err)
	}
	return r, nil
}

// NodeReport is what an agent says of its node; item node of the status set.
type NodeReport struct {
	Status corev1.NodeStatus
	MAC    net.HardwareAddr // of the VXLAN device
	Labels map[string]string
	Taints []corev1.Taint // set when the node is new
	// Platforms are those of images, by their names in normal form, that not every kind of board
	// runs (linux/arm64, linux/arm/v7). Older agents do not tell.
	Platforms map[string][]string
	// LocalVolumes is the folder in which the node keeps volumes of LocalProvisioner. Older agents do not tell.
	LocalVolumes string
}

// Encode gives the value of an item.
func (r *NodeReport) Encode() ([]byte, error) {
	status, err := r.Status.Marshal()
	if err != nil {
		return nil, fmt.Errorf("link: report of the node: %w", err)
	}
	// The map is encoded with sorted keys: the same report is the same item.
	labels, err := json.Marshal(r.Labels)
	if err != nil {
		return nil, fmt.Errorf("link: report of the node: %w", err)
	}
	var e encoder
	e.bytes(status)
	e.bytes(r.MAC)
	e.bytes(labels)
	e.uvarint(uint64(len(r.Taints)))
	for i := range r.Taints {
		taint, err := r.Taints[i].Marshal()
		if err != nil {
			return nil, fmt.Errorf("link: report of the node: %w", err)
		}
		e.bytes(taint)
	}
	// What older peers do not know comes last, and only when there is some: they skip it.
	if len(r.Platforms) > 0 || r.LocalVolumes != "" {
		platforms, err := json.Marshal(r.Platforms)
		if err != nil {
			return nil, fmt.Errorf("link: report of the node: %w", err)
		}
		e.bytes(platforms)
	}
	if r.LocalVolumes != "" {
		e.string(r.LocalVolumes)
	}
	return e.b, nil
}

// DecodeNodeReport reads an item.
func DecodeNodeReport(b []byte) (*NodeReport, error) {
	d := decoder{b: b}
	status, mac, labels := d.bytes(), d.bytes(), d.bytes()
	r := &NodeReport{MAC: append(net.HardwareAddr(nil), mac...), Taints: make([]corev1.Taint, d.count(1))}
	for i := range r.Taints {
		if err := r.Taints[i].Unmarshal(d.bytes()); err != nil {
			return nil, fmt.Errorf("link: report of the node: %w", err)
		}
	}
	var platforms []byte
	if len(d.b) > 0 {
		platforms = d.bytes()
	}
	if len(d.b) > 0 {
		r.LocalVolumes = d.string()
	}
	if d.err != nil {
		return nil, d.err
	}
	if platforms != nil {
		if err := json.Unmarshal(platforms, &r.Platforms); err != nil {
			return nil, fmt.Errorf("link: report of the node: %w", err)
		}
	}
	if err := r.Status.Unmarshal(status); err != nil {
		return nil, fmt.Errorf("link: report of the node: %w", err)
	}
	if err := json.Unmarshal(labels, &r.Labels); err != nil {
		return nil, fmt.Errorf("link: report of the node: %w", err)
	}
	return r, nil
}
