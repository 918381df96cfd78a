package persistentvolume

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	storagehelpers "k8s.io/component-helpers/storage/volume"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"bramble.dev/link"
	"bramble.dev/server/controllers/nodes"
)

// NoProvisioner is the provisioner of classes whose volumes are made by hand.
const NoProvisioner = "kubernetes.io/no-provisioner"

// provision goes on with a claim for which a volume is to be made.
func provision(c *corev1.PersistentVolumeClaim, w world) (step, error) {
	name := storagehelpers.GetPersistentVolumeClaimClass(c)
	class := w.class(name)
	pending := claimPhase(c, corev1.ClaimPending, nil)
	failed := func(message string) (step, error) { return pending.tells(warning(c, provisioningFailed, message)), nil }
	if class == nil {
		return failed(fmt.Sprintf("storageclass.storage.k8s.io %q not found", name))
	}
	if class.Provisioner == NoProvisioner {
		return failed(fmt.Sprintf("no volume plugin matched name: %s", NoProvisioner))
	}
	if s := markProvisioner(c, driver(class.Provisioner)); s.verb != rest {
		return s, nil
	}
	if !Ours(class) {
		return pending.tells(normal(c, externalProvisioning, external(class.Provisioner))), nil
	}
	if err := copies(c, class); err != nil {
		return failed(err.Error())
	}
	if pv := w.volume(volumeName(c)); pv != nil {
		return pending, nil // it is on its way in or out; its change comes back here
	}
	pv, err := newVolume(c, class, w)
	if err != nil {
		message := fmt.Sprintf("Failed to provision volume with StorageClass %q: %v", class.Name, err)
		if errors.Is(err, errNode) && storagehelpers.IsDelayBindingProvisioning(c) {
			out := c.DeepCopy()
			delete(out.Annotations, storagehelpers.AnnSelectedNode) // the scheduler chooses again
			return step{verb: updateClaim, claim: out}.tells(warning(c, provisioningFailed, message)), nil
		}
		return failed(message)
	}
	return step{verb: createVolume, volume: pv}.tells(normal(c, provisioningSucceeded, fmt.Sprintf("Successfully provisioned volume %s using %s", pv.Name, class.Provisioner))), nil
}

// Ours says whether the volumes of a class are made here.
func Ours(class *storagev1.StorageClass) bool {
	return class.Provisioner == link.LocalProvisioner || class.Provisioner == link.NFSProvisioner
}

// copies refuses a claim that is to begin as a copy of another.
func copies(c *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) error {
	if c.Spec.DataSource != nil || c.Spec.DataSourceRef != nil {
		return fmt.Errorf("plugin %q is not a CSI plugin. Only CSI plugin can provision a claim with a datasource", class.Provisioner)
	}
	return nil
}

// Impossible says why a class of ours makes no volume for a claim, whatever the
// node; nil if it may, or if it is not of ours.
func Impossible(c *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) error {
	if !Ours(class) {
		return nil
	}
	if err := copies(c, class); err != nil {
		return err
	}
	if m := c.Spec.VolumeMode; m != nil && *m == corev1.PersistentVolumeBlock {
		return fmt.Errorf("%s makes folders, not block devices: use volumeMode Filesystem", class.Provisioner)
	}
	if c.Spec.Selector != nil {
		return errors.New("claim.Spec.Selector is not supported for dynamic provisioning")
	}
	if class.Provisioner == link.NFSProvisioner {
		_, err := shareOf(class)
		return err
	}
	switch {
	case len(class.Parameters) > 0:
		return fmt.Errorf("%s takes no parameters", link.LocalProvisioner)
	case len(class.MountOptions) > 0:
		return fmt.Errorf("Mount options are not supported by the provisioner but StorageClass %q has mount options %v", class.Name, class.MountOptions)
	case slices.Contains(c.Spec.AccessModes, corev1.ReadWriteMany) || slices.Contains(c.Spec.AccessModes, corev1.ReadOnlyMany):
		return fmt.Errorf("a folder of one node cannot be mounted by many (ReadWriteMany, ReadOnlyMany): ask for ReadWriteOnce, or use a class with provisioner %s", link.NFSProvisioner)
	}
	return nil
}

func volumeName(c *corev1.PersistentVolumeClaim) string { return "pvc-" + string(c.UID) }

func markProvisioner(c *corev1.PersistentVolumeClaim, name string) step {
	if c.Annotations[storagehelpers.AnnStorageProvisioner] == name && c.Annotations[storagehelpers.AnnBetaStorageProvisioner] == name {
		return step{}
	}
	out := c.DeepCopy()
	metav1.SetMetaDataAnnotation(&out.ObjectMeta, storagehelpers.AnnBetaStorageProvisioner, name)
	metav1.SetMetaDataAnnotation(&out.ObjectMeta, storagehelpers.AnnStorageProvisioner, name)
	return step{verb: updateClaim, claim: out}
}

// drivers are the successors of upstream's own provisioners of old, with what
// they need.
var drivers = map[string]struct{ name, needs string }{
	"kubernetes.io/aws-ebs":         {"ebs.csi.aws.com", "disks of Amazon's cloud"},
	"kubernetes.io/azure-disk":      {"disk.csi.azure.com", "disks of Microsoft's cloud"},
	"kubernetes.io/azure-file":      {"file.csi.azure.com", "shares of Microsoft's cloud"},
	"kubernetes.io/cinder":          {"cinder.csi.openstack.org", "disks of an OpenStack cloud"},
	"kubernetes.io/gce-pd":          {"pd.csi.storage.gke.io", "disks of Google's cloud"},
	"kubernetes.io/portworx-volume": {"pxd.portworx.com", "a Portworx cluster"},
	"kubernetes.io/vsphere-volume":  {"csi.vsphere.vmware.com", "disks of vSphere"},
	"kubernetes.io/glusterfs":       {"kubernetes.io/glusterfs", "a GlusterFS cluster"},
	"kubernetes.io/rbd":             {"kubernetes.io/rbd", "a Ceph cluster"},
	"kubernetes.io/quobyte":         {"kubernetes.io/quobyte", "a Quobyte cluster"},
	"kubernetes.io/scaleio":         {"kubernetes.io/scaleio", "a ScaleIO cluster"},
	"kubernetes.io/storageos":       {"kubernetes.io/storageos", "StorageOS"},
}

// driver is who provisions for a class.
func driver(provisioner string) string {
	if d, ok := drivers[provisioner]; ok {
		return d.name
	}
	return provisioner
}

// external says whom the claim waits for, and what there is instead.
func external(provisioner string) string {
	text := fmt.Sprintf("Waiting for a volume to be created either by the external provisioner '%s' or manually by the system administrator. "+
		"If volume creation is delayed, please verify that the provisioner is running and correctly registered.", driver(provisioner))
	d, old := drivers[provisioner]
	if !old && !strings.HasPrefix(provisioner, "kubernetes.io/") {
		return text
	}
	needs := ""
	if d.needs != "" {
		needs = ", which is for " + d.needs
	}
	return text + fmt.Sprintf(" Bramble has no driver for %s%s: use a class with provisioner %s (a folder of the node) or %s (a folder of an NFS export).",
		provisioner, needs, link.LocalProvisioner, link.NFSProvisioner)
}

// errNode says that another node might do.
var errNode = errors.New("this node cannot keep the volume")

// newVolume is the volume for a claim. The folder that it names is made by a
// node, when a pod first mounts it.
func newVolume(c *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, w world) (*corev1.PersistentVolume, error) {
	if err := Impossible(c, class); err != nil {
		return nil, err
	}
	policy, mode := corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeFilesystem
	if class.ReclaimPolicy != nil {
		policy = *class.ReclaimPolicy
	}
	pv := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{
			Name: volumeName(c), Finalizers: []string{link.VolumeFinalizer},
			Annotations: map[string]string{storagehelpers.AnnBoundByController: "yes", storagehelpers.AnnDynamicallyProvisioned: class.Provisioner},
		},
		Spec: corev1.PersistentVolumeSpec{
			AccessModes: c.Spec.AccessModes, Capacity: corev1.ResourceList{corev1.ResourceStorage: c.Spec.Resources.Requests[corev1.ResourceStorage]},
			ClaimRef: &corev1.ObjectReference{
				Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: c.Namespace, Name: c.Name, UID: c.UID, ResourceVersion: c.ResourceVersion,
			},
			PersistentVolumeReclaimPolicy: policy, StorageClassName: class.Name, MountOptions: class.MountOptions, VolumeMode: &mode,
		},
	}
	if class.Provisioner == link.NFSProvisioner {
		return pv, shareFolder(pv, c, class)
	}
	return pv, nodeFolder(pv, c, class, w)
}

// nodeFolder makes it a folder of a node.
func nodeFolder(pv *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, w world) error {
	n, err := nodeFor(c, class, w)
	if err != nil {
		return err
	}
	metav1.SetMetaDataAnnotation(&pv.ObjectMeta, link.VolumeNodeAnnotation, n.Name)
	pv.Spec.Local = &corev1.LocalVolumeSource{Path: path.Join(n.Annotations[link.LocalVolumesAnnotation], pv.Name)}
	pv.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
		MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{n.Labels[corev1.LabelHostname]}}},
	}}}}
	return nil
}

// nodeFor is the node that the scheduler chose, or, for a class that does not
// wait for pods, the one with the fewest volumes.
func nodeFor(c *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, w world) (*corev1.Node, error) {
	keeps := func(n *corev1.Node) bool {
		return n.Annotations[link.LocalVolumesAnnotation] != "" && n.Labels[corev1.LabelHostname] != ""
	}
	if name := c.Annotations[storagehelpers.AnnSelectedNode]; name != "" {
		switch n := w.node(name); {
		case n == nil:
			return nil, fmt.Errorf("node %q not found: %w", name, errNode)
		case !keeps(n):
			return nil, fmt.Errorf("the agent of node %q has not said where it keeps volumes (is it of an older version?)", name)
		default:
			return n, nil
		}
	}
	has := map[string]int{}
	for _, pv := range w.volumes() {
		has[pv.Annotations[link.VolumeNodeAnnotation]]++
	}
	var best *corev1.Node
	for _, n := range w.nodes() {
		if keeps(n) && nodes.IsReady(n) && !n.Spec.Unschedulable && Allowed(class, n) && (best == nil || has[n.Name] < has[best.Name]) {
			best = n
		}
	}
	if best == nil {
		return nil, errors.New("no node is ready that could keep the volume")
	}
	return best, nil
}

// Allowed says whether a class may make volumes for a node (allowedTopologies).
func Allowed(class *storagev1.StorageClass, n *corev1.Node) bool {
	if len(class.AllowedTopologies) == 0 {
		return true
	}
	return slices.ContainsFunc(class.AllowedTopologies, func(term corev1.TopologySelectorTerm) bool {
		for _, e := range term.MatchLabelExpressions {
			if value, ok := n.Labels[e.Key]; !ok || !slices.Contains(e.Values, value) {
				return false
			}
		}
		return len(term.MatchLabelExpressions) > 0
	})
}

// longest is how long the name of a folder may be.
const longest = 255

// share is where a class makes its folders.
type share struct{ server, path string }

// shareOf reads a class. Parameters are called as in csi-driver-nfs (server,
// share) and nfs-subdir-external-provisioner (path).
func shareOf(class *storagev1.StorageClass) (out share, err error) {
	for key, value := range class.Parameters {
		switch key {
		case "server":
			out.server = value
		case "share", "path":
			if out.path != "" && out.path != value {
				return share{}, errors.New("parameters share and path mean the same: give one of them")
			}
			out.path = value
		case "mountPermissions":
			if _, err := strconv.ParseUint(value, 8, 12); err != nil {
				return share{}, fmt.Errorf("parameter mountPermissions %q is not a mode like 0777", value)
			}
		default:
			return share{}, fmt.Errorf("%s knows the parameters server, share (or path) and mountPermissions, not %q", link.NFSProvisioner, key)
		}
	}
	if out.server == "" || out.path == "" {
		return share{}, fmt.Errorf("%s needs the parameters server and share", link.NFSProvisioner)
	}
	if !path.IsAbs(out.path) || path.Clean(out.path) != strings.TrimRight(out.path, "/") && out.path != "/" {
		return share{}, fmt.Errorf("parameter share %q is not a clean absolute path", out.path)
	}
	return out, nil
}

// shareFolder makes it a folder of an NFS export.
func shareFolder(pv *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) error {
	at, err := shareOf(class)
	if err != nil {
		return err
	}
	folder := c.Namespace + "-" + c.Name + "-" + pv.Name
	if len(folder) > longest {
		folder = pv.Name
	}
	if node := c.Annotations[storagehelpers.AnnSelectedNode]; node != "" {
		metav1.SetMetaDataAnnotation(&pv.ObjectMeta, link.VolumeNodeAnnotation, node)
	}
	if mode := class.Parameters["mountPermissions"]; mode != "" {
		metav1.SetMetaDataAnnotation(&pv.ObjectMeta, link.VolumeModeAnnotation, mode)
	}
	pv.Spec.NFS = &corev1.NFSVolumeSource{Server: at.server, Path: path.Join(at.path, folder)}
	return nil
}
