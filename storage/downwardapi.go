package storage

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
)

// mountDownwardAPI shows the pod's own fields and resources as files.
func mountDownwardAPI(_ context.Context, v volume, s *corev1.VolumeSource) (string, error) {
	files, err := v.downwardFiles(s.DownwardAPI.Items, modeOf(s.DownwardAPI.DefaultMode))
	if err != nil {
		return "", err
	}
	return v.show(files)
}

func (v volume) downwardFiles(items []corev1.DownwardAPIVolumeFile, mode int32) (files, error) {
	out := files{}
	var errs []error
	for _, i := range items {
		f := file{mode: mode}
		if i.Mode != nil {
			f.mode = *i.Mode
		}
		var text string
		var err error
		switch {
		case i.FieldRef != nil:
			text, err = v.objects.Field(v.pod, i.FieldRef)
		case i.ResourceFieldRef != nil:
			text, err = v.objects.Resource(v.pod, i.ResourceFieldRef)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		f.data = []byte(text)
		out[i.Path] = f
	}
	return out, errors.Join(errs...)
}
