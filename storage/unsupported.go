package storage

import (
	"fmt"
	"reflect"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// successors are the drivers that took over from upstream's own plugins, and what each kind of volume is best replaced with on
// boards that have no such storage.
var successors = map[string]struct{ driver, instead string }{
	"awsElasticBlockStore": {"ebs.csi.aws.com", block},
	"azureDisk":            {"disk.csi.azure.com", block},
	"azureFile":            {"file.csi.azure.com", shared},
	"cephfs":               {"cephfs.csi.ceph.com", shared},
	"cinder":               {"cinder.csi.openstack.org", block},
	"fc":                   {"", host},
	"flexVolume":           {"", host},
	"flocker":              {"", block},
	"gcePersistentDisk":    {"pd.csi.storage.gke.io", block},
	"gitRepo":              {"", "clone the repository into an emptyDir from an init container"},
	"glusterfs":            {"", shared},
	"iscsi":                {"", host},
	"photonPersistentDisk": {"", block},
	"portworxVolume":       {"pxd.portworx.com", block},
	"quobyte":              {"", shared},
	"rbd":                  {"rbd.csi.ceph.com", block},
	"scaleIO":              {"", block},
	"storageos":            {"", block},
	"vsphereVolume":        {"csi.vsphere.vmware.com", block},
}

const (
	block  = "use a PersistentVolumeClaim of the class local (a folder of the node), or hostPath"
	shared = "use nfs, or a PersistentVolumeClaim of a class with provisioner bramble.dev/nfs"
	host   = "attach and mount the disk on the node itself, and use hostPath or a local PersistentVolume"
)

// unsupported names the driver that a source would need.
func unsupported(s *corev1.VolumeSource) error {
	name := sourceName(*s)
	if s.CSI != nil {
		return fmt.Errorf("the driver %s is not part of Bramble, which runs no CSI drivers: %s", s.CSI.Driver, block)
	}
	return missing(name)
}

func missing(name string) error {
	s, known := successors[name]
	if !known {
		s.instead = block
	}
	driver := ""
	if s.driver != "" {
		driver = " (" + s.driver + ")"
	}
	return fmt.Errorf("the driver for %s volumes%s is not part of Bramble: %s", name, driver, s.instead)
}

// sourceName is the JSON name of the field that is set in a volume source.
func sourceName(source any) string {
	v := reflect.ValueOf(source)
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.Pointer && !f.IsNil() {
			name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
			return name
		}
	}
	return "unnamed"
}
