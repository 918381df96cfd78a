package storage

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
)

// mountSecret shows a Secret's keys as files.
func mountSecret(_ context.Context, v volume, s *corev1.VolumeSource) (string, error) {
	files, err := v.secretFiles(s.Secret.SecretName, s.Secret.Items, modeOf(s.Secret.DefaultMode), s.Secret.Optional)
	if err != nil {
		return "", err
	}
	return v.show(files)
}

func (v volume) secretFiles(name string, items []corev1.KeyToPath, mode int32, optional *bool) (files, error) {
	may := optional != nil && *optional
	secret, ok := v.objects.Secret(v.pod.Namespace, name)
	if !ok {
		if may {
			return files{}, nil
		}
		return nil, fmt.Errorf("secret %q not found", name)
	}
	return pick(secret.Data, items, mode, may, "references non-existent secret key: %s")
}
