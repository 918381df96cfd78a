package storage

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
)

// mountConfigMap shows a ConfigMap's keys as files.
func mountConfigMap(_ context.Context, v volume, s *corev1.VolumeSource) (string, error) {
	files, err := v.configMapFiles(s.ConfigMap.Name, s.ConfigMap.Items, modeOf(s.ConfigMap.DefaultMode), s.ConfigMap.Optional)
	if err != nil {
		return "", err
	}
	return v.show(files)
}

func (v volume) configMapFiles(name string, items []corev1.KeyToPath, mode int32, optional *bool) (files, error) {
	may := optional != nil && *optional
	m, ok := v.objects.ConfigMap(v.pod.Namespace, name)
	if !ok {
		if may {
			return files{}, nil
		}
		return nil, fmt.Errorf("configmap %q not found", name)
	}
	data := map[string][]byte{}
	for k, text := range m.Data {
		data[k] = []byte(text)
	}
	for k, b := range m.BinaryData {
		data[k] = b
	}
	return pick(data, items, mode, may, "configmap references non-existent config key: %s")
}

// pick takes all keys, or the items' under the items' paths.
func pick(data map[string][]byte, items []corev1.KeyToPath, mode int32, optional bool, missing string) (files, error) {
	out := files{}
	if len(items) == 0 {
		for k, b := range data {
			out[k] = file{data: b, mode: mode}
		}
		return out, nil
	}
	for _, i := range items {
		b, ok := data[i.Key]
		if !ok {
			if optional {
				continue
			}
			return nil, fmt.Errorf(missing, i.Key)
		}
		f := file{data: b, mode: mode}
		if i.Mode != nil {
			f.mode = *i.Mode
		}
		out[i.Path] = f
	}
	return out, nil
}

// modeOf is the API's default where an object of an old version says nothing.
func modeOf(mode *int32) int32 {
	if mode == nil {
		return 0o644
	}
	return *mode
}
