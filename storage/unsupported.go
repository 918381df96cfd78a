package storage

import (
	"fmt"
	"reflect"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// instead says what serves a board in place of a driver that needs a cloud or a storage area network.
const instead = "use hostPath, a local PersistentVolume or nfs"

// unsupported names the driver that a source would need.
func unsupported(s *corev1.VolumeSource) error {
	return fmt.Errorf("the driver for %s volumes is not part of Bramble: %s", sourceName(*s), instead)
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
