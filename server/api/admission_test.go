package api

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func amounts(pairs ...string) corev1.ResourceList {
	l := corev1.ResourceList{}
	for i := 0; i+1 < len(pairs); i += 2 {
		l[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return l
}

func TestPodsAreCompleted(t *testing.T) {
	c, ns := shared(t)
	p := must(c.client.CoreV1().Pods(ns).Create(t.Context(), pod("p"), metav1.CreateOptions{}))(t)
	if p.Spec.ServiceAccountName != "default" || len(p.Spec.Volumes) != 1 || p.Spec.Volumes[0].Projected == nil {
		t.Errorf("no token is mounted: %+v", p.Spec)
	}
	if p.Spec.Priority == nil || *p.Spec.Priority != 0 || p.Spec.PreemptionPolicy == nil {
		t.Errorf("priority %v", p.Spec.Priority)
	}
	// A node that is away is not dead: nothing says that pods leave it after five minutes.
	if len(p.Spec.Tolerations) != 0 {
		t.Errorf("tolerations %v", p.Spec.Tolerations)
	}
	critical := pod("critical")
	critical.Spec.PriorityClassName = "system-node-critical"
	if p := must(c.client.CoreV1().Pods(ns).Create(t.Context(), critical, metav1.CreateOptions{}))(t); *p.Spec.Priority != 2000001000 {
		t.Errorf("priority %d", *p.Spec.Priority)
	}
	unknown := pod("unknown")
	unknown.Spec.PriorityClassName = "nothing"
	if _, err := c.client.CoreV1().Pods(ns).Create(t.Context(), unknown, metav1.CreateOptions{}); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "no PriorityClass with name nothing") {
		t.Errorf("got %v", err)
	}
	nobody := pod("nobody")
	nobody.Spec.ServiceAccountName = "nobody"
	if _, err := c.client.CoreV1().Pods(ns).Create(t.Context(), nobody, metav1.CreateOptions{}); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `serviceaccount "nobody" not found`) {
		t.Errorf("got %v", err)
	}
}

func TestLimitsAndQuotas(t *testing.T) {
	c, ns := shared(t)
	core := c.client.CoreV1()
	must(core.LimitRanges(ns).Create(t.Context(), &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Name: "l"}, Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{{
		Type: corev1.LimitTypeContainer, DefaultRequest: amounts("memory", "10Mi"), Default: amounts("memory", "20Mi"), Max: amounts("memory", "100Mi")}}}}, metav1.CreateOptions{}))(t)
	p := must(core.Pods(ns).Create(t.Context(), pod("p"), metav1.CreateOptions{}))(t)
	if r := p.Spec.Containers[0].Resources; r.Requests.Memory().String() != "10Mi" || r.Limits.Memory().String() != "20Mi" {
		t.Errorf("defaults %v", r)
	}
	large := pod("large")
	large.Spec.Containers[0].Resources.Limits = amounts("memory", "1Gi")
	if _, err := core.Pods(ns).Create(t.Context(), large, metav1.CreateOptions{}); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "maximum memory usage per Container is 100Mi") {
		t.Errorf("got %v", err)
	}

	q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "q"}, Spec: corev1.ResourceQuotaSpec{Hard: amounts("count/configmaps", "2", "pods", "2")}}
	q = must(core.ResourceQuotas(ns).Create(t.Context(), q, metav1.CreateOptions{}))(t)
	q.Status = corev1.ResourceQuotaStatus{Hard: q.Spec.Hard, Used: amounts("count/configmaps", "0", "pods", "1")} // the quota controller's part
	must(core.ResourceQuotas(ns).UpdateStatus(t.Context(), q, metav1.UpdateOptions{}))(t)
	for _, name := range []string{"a", "b"} {
		must(core.ConfigMaps(ns).Create(t.Context(), configMap(name), metav1.CreateOptions{}))(t)
	}
	if _, err := core.ConfigMaps(ns).Create(t.Context(), configMap("c"), metav1.CreateOptions{}); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "exceeded quota: q, requested: count/configmaps=1, used: count/configmaps=2, limited: count/configmaps=2") {
		t.Errorf("got %v", err)
	}
	must(core.Pods(ns).Create(t.Context(), pod("second"), metav1.CreateOptions{}))(t)
	if _, err := core.Pods(ns).Create(t.Context(), pod("third"), metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("got %v", err)
	}
	if u := must(core.ResourceQuotas(ns).Get(t.Context(), "q", metav1.GetOptions{}))(t).Status.Used; u.Pods().Value() != 2 {
		t.Errorf("used %v", u)
	}
}

func TestPodSecurity(t *testing.T) {
	c, ns := shared(t)
	label := []byte(`{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":"baseline"}}}`)
	must(c.client.CoreV1().Namespaces().Patch(t.Context(), ns, types.MergePatchType, label, metav1.PatchOptions{}))(t)
	p, yes := pod("p"), true
	p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: &yes}
	if _, err := c.client.CoreV1().Pods(ns).Create(t.Context(), p, metav1.CreateOptions{}); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `violates PodSecurity "baseline:latest": privileged`) {
		t.Errorf("got %v", err)
	}
}

func TestNamespaceLifecycle(t *testing.T) {
	c, ns := shared(t)
	if err := c.client.CoreV1().Namespaces().Delete(t.Context(), "kube-system", metav1.DeleteOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("kube-system: %v", err)
	}
	if err := c.client.CoreV1().Namespaces().Delete(t.Context(), ns, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if n := must(c.client.CoreV1().Namespaces().Get(t.Context(), ns, metav1.GetOptions{}))(t); n.Status.Phase != corev1.NamespaceTerminating {
		t.Errorf("phase %v", n.Status.Phase)
	}
	if _, err := c.client.CoreV1().ConfigMaps(ns).Create(t.Context(), configMap("late"), metav1.CreateOptions{}); !apierrors.IsForbidden(err) || !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		t.Errorf("got %v", err)
	}
}

func TestClaimsGetTheDefaultClass(t *testing.T) {
	c, ns := shared(t)
	// Of two default classes of one second the first by its name is taken; the one that is there from the start would be.
	if err := c.client.StorageV1().StorageClasses().Delete(t.Context(), "local", metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	must(c.client.StorageV1().StorageClasses().Create(t.Context(), &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: ns, Annotations: map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}}, Provisioner: "example.com/p"}, metav1.CreateOptions{}))(t)
	t.Cleanup(func() { c.client.StorageV1().StorageClasses().Delete(t.Context(), ns, metav1.DeleteOptions{}) })
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, Resources: corev1.VolumeResourceRequirements{Requests: amounts("storage", "1Gi")}}}
	made := must(c.client.CoreV1().PersistentVolumeClaims(ns).Create(t.Context(), claim, metav1.CreateOptions{}))(t)
	if made.Spec.StorageClassName == nil || *made.Spec.StorageClassName != ns || len(made.Finalizers) != 1 || made.Finalizers[0] != "kubernetes.io/pvc-protection" {
		t.Errorf("made %+v %v", made.Spec, made.Finalizers)
	}
}
