package server

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// A namespace that is deleted says what it waits for: its pods go first, because what they use must stay for as long as they run;
// what a finalizer holds is named; when nothing is left it is gone.
func TestANamespaceIsEmptied(t *testing.T) {
	client := start(t, t.TempDir())
	ctx := t.Context()
	namespaces, pods, maps := client.CoreV1().Namespaces(), client.CoreV1().Pods("tenant"), client.CoreV1().ConfigMaps("tenant")
	if _, err := namespaces.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "tenant"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	hold := []string{"example.com/hold"}
	for name, finalizers := range map[string][]string{"plain": nil, "held": hold} {
		if _, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Finalizers: finalizers}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", Finalizers: hold}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "web"}}}}
	eventually(t, "there is an account for a pod", func() bool {
		_, err := pods.Create(ctx, pod, metav1.CreateOptions{})
		return err == nil
	})
	if err := namespaces.Delete(ctx, "tenant", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	says := func(remaining, finalizers string) {
		t.Helper()
		eventually(t, remaining, func() bool {
			ns, err := namespaces.Get(ctx, "tenant", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			said := map[corev1.NamespaceConditionType]string{}
			for _, c := range ns.Status.Conditions {
				if c.Status == corev1.ConditionTrue {
					said[c.Type] = c.Message
				}
			}
			return len(said) == 2 && said[corev1.NamespaceContentRemaining] == remaining && said[corev1.NamespaceFinalizersRemaining] == finalizers
		})
	}
	release := []byte(`{"metadata":{"finalizers":null}}`)
	const finalizers = "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances"
	says("Some resources are remaining: pods. has 1 resource instances", finalizers)
	if _, err := maps.Get(ctx, "plain", metav1.GetOptions{}); err != nil {
		t.Errorf("what a pod uses went before the pod: %v", err)
	}
	if _, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "late"}}, metav1.CreateOptions{}); !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		t.Errorf("something is made in it: %v", err)
	}
	if _, err := pods.Patch(ctx, "web", types.MergePatchType, release, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	says("Some resources are remaining: configmaps. has 1 resource instances", finalizers)
	if _, err := maps.Patch(ctx, "held", types.MergePatchType, release, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is gone", func() bool {
		_, err := namespaces.Get(ctx, "tenant", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
}
