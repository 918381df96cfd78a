package dispatch

import (
	corev1 "k8s.io/api/core/v1"

	"bramble.dev/link"
)

// kind is a kind of object that pods name.
type kind byte

const (
	configMap kind = iota
	secret
	claim
	volume
	trustBundle
	trustSigner // whose bundles are needed; itself nothing that is sent
	handler     // of a RuntimeClass, by its name
)

// cached says that caches hold the objects of a kind; others are read when a node needs them.
func (k kind) cached() bool { return k != configMap && k != secret && k != handler }

var kindKey = [...]string{configMap: "configmaps/", secret: "secrets/", claim: "persistentvolumeclaims/", volume: "persistentvolumes/", trustBundle: "clustertrustbundles/", handler: "handlers/"}

// ref names an object that a pod needs.
type ref struct {
	kind            kind
	namespace, name string
}

// key is the item's key in a set.
func (r ref) key() string {
	if r.namespace == "" {
		return kindKey[r.kind] + r.name
	}
	return kindKey[r.kind] + r.namespace + "/" + r.name
}

// needs calls add for every object that a pod names. Volumes that a claim is bound to are not
// known from the pod alone.
func needs(pod *corev1.Pod, add func(ref)) {
	of := func(k kind, name string) {
		if name != "" {
			add(ref{k, pod.Namespace, name})
		}
	}
	for i := range pod.Spec.Volumes {
		volumeNeeds(pod, &pod.Spec.Volumes[i], of)
	}
	for i := range pod.Spec.InitContainers {
		environmentNeeds(pod.Spec.InitContainers[i].Env, pod.Spec.InitContainers[i].EnvFrom, of)
	}
	for i := range pod.Spec.Containers {
		environmentNeeds(pod.Spec.Containers[i].Env, pod.Spec.Containers[i].EnvFrom, of)
	}
	for i := range pod.Spec.EphemeralContainers {
		environmentNeeds(pod.Spec.EphemeralContainers[i].Env, pod.Spec.EphemeralContainers[i].EnvFrom, of)
	}
	if class := pod.Spec.RuntimeClassName; class != nil && *class != "" {
		add(ref{kind: handler, name: *class})
	}
	// Admission has copied those of the service account.
	for _, s := range pod.Spec.ImagePullSecrets {
		of(secret, s.Name)
	}
}

func volumeNeeds(pod *corev1.Pod, v *corev1.Volume, of func(kind, string)) {
	if name, ok := link.ClaimOf(pod, v); ok {
		of(claim, name)
	}
	switch {
	case v.ConfigMap != nil:
		of(configMap, v.ConfigMap.Name)
	case v.Secret != nil:
		of(secret, v.Secret.SecretName)
	case v.Projected != nil:
		for _, s := range v.Projected.Sources {
			if s.ConfigMap != nil {
				of(configMap, s.ConfigMap.Name)
			}
			if s.Secret != nil {
				of(secret, s.Secret.Name)
			}
		}
	case v.CSI != nil && v.CSI.NodePublishSecretRef != nil:
		of(secret, v.CSI.NodePublishSecretRef.Name)
	}
}

func environmentNeeds(env []corev1.EnvVar, from []corev1.EnvFromSource, of func(kind, string)) {
	for _, e := range env {
		if e.ValueFrom == nil {
			continue
		}
		if r := e.ValueFrom.ConfigMapKeyRef; r != nil {
			of(configMap, r.Name)
		}
		if r := e.ValueFrom.SecretKeyRef; r != nil {
			of(secret, r.Name)
		}
	}
	for _, f := range from {
		if f.ConfigMapRef != nil {
			of(configMap, f.ConfigMapRef.Name)
		}
		if f.SecretRef != nil {
			of(secret, f.SecretRef.Name)
		}
	}
}
