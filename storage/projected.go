package storage

import (
	"context"
	"errors"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// mountProjected shows several sources in one folder.
func mountProjected(ctx context.Context, v volume, s *corev1.VolumeSource) (string, error) {
	all, mode := files{}, modeOf(s.Projected.DefaultMode)
	var errs []error
	for _, source := range s.Projected.Sources {
		part, err := v.projection(ctx, source, mode)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		maps.Copy(all, part)
	}
	if err := errors.Join(errs...); err != nil {
		return "", err
	}
	return v.show(all)
}

func (v volume) projection(ctx context.Context, p corev1.VolumeProjection, mode int32) (files, error) {
	switch {
	case p.ConfigMap != nil:
		return v.configMapFiles(p.ConfigMap.Name, p.ConfigMap.Items, mode, p.ConfigMap.Optional)
	case p.Secret != nil:
		return v.secretFiles(p.Secret.Name, p.Secret.Items, mode, p.Secret.Optional)
	case p.DownwardAPI != nil:
		return v.downwardFiles(p.DownwardAPI.Items, mode)
	case p.ServiceAccountToken != nil:
		return v.tokenFile(ctx, p.ServiceAccountToken, mode)
	case p.ClusterTrustBundle != nil:
		return v.trustFile(p.ClusterTrustBundle, mode)
	case p.PodCertificate != nil:
		return v.certificateFiles(ctx, p.PodCertificate, mode)
	default:
		return nil, errors.New("this kind of projection is not part of Bramble: it has configMap, secret, downwardAPI, serviceAccountToken, clusterTrustBundle and podCertificate")
	}
}

// certificateFiles are a key of the pod and its certificates, in one file and in one each.
func (v volume) certificateFiles(ctx context.Context, p *corev1.PodCertificateProjection, mode int32) (files, error) {
	key, chain, err := v.objects.Certificate(ctx, v.pod, p)
	if err != nil {
		return nil, err
	}
	all := files{}
	for path, data := range map[string][]byte{p.CredentialBundlePath: slices.Concat(key, chain), p.KeyPath: key, p.CertificateChainPath: chain} {
		if path != "" {
			all[path] = v.credential(data, mode)
		}
	}
	return all, nil
}

// tokenFile is a token of the pod's service account.
func (v volume) tokenFile(ctx context.Context, p *corev1.ServiceAccountTokenProjection, mode int32) (files, error) {
	token, err := v.objects.Token(ctx, v.pod, p)
	if err != nil {
		return nil, err
	}
	return files{p.Path: v.credential([]byte(token), mode)}, nil
}

// credential is a file of which KEP-1205 says who may read it: the one user of all containers and the group of the pod, if there
// are such; otherwise whom the volume's mode lets.
func (v volume) credential(data []byte, mode int32) file {
	f := file{data: data, mode: mode, user: onlyUser(v.pod)}
	if f.user != nil || v.fsGroup() != nil {
		f.mode = 0o600
	}
	return f
}

// onlyUser is the user that all containers of a pod run as, nil if there are several or none is said.
func onlyUser(pod *corev1.Pod) *int64 {
	var user *int64
	all := append(append([]corev1.Container{}, pod.Spec.InitContainers...), pod.Spec.Containers...)
	for _, c := range all {
		var u *int64
		if s := pod.Spec.SecurityContext; s != nil {
			u = s.RunAsUser
		}
		if s := c.SecurityContext; s != nil && s.RunAsUser != nil {
			u = s.RunAsUser
		}
		if u == nil || user != nil && *user != *u {
			return nil
		}
		user = u
	}
	return user
}
