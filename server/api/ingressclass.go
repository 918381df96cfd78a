package api

import (
	"context"

	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"bramble.dev/link"
)

// seededAnnotation of the namespace kube-system says that the class was made once: who deletes it, to use another
// ingress controller, does not find it again after the next start.
const seededAnnotation = "bramble.dev/seeded-ingress-class"

// ingressRole is what the controller of Ingresses may do; upstream has none.
var (
	ingressRole = rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: "system:controller:ingress-controller"},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{"networking.k8s.io"}, Resources: []string{"ingresses/status"}, Verbs: []string{"patch", "update"}}},
	}
	ingressBinding = rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "system:controller:ingress-controller"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:controller:ingress-controller"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: "ingress-controller", Namespace: metav1.NamespaceSystem}},
	}
)

// seedIngressClass makes the class of the Ingresses that nodes serve, which is the default, the first time that a server is started.
func (s *Server) seedIngressClass(ctx context.Context) error {
	namespaces := s.wiring.client.CoreV1().Namespaces()
	system, err := namespaces.Get(ctx, metav1.NamespaceSystem, metav1.GetOptions{})
	if err != nil || system.Annotations[seededAnnotation] != "" {
		return err
	}
	class := &networkingv1.IngressClass{
		ObjectMeta: metav1.ObjectMeta{Name: "bramble", Annotations: map[string]string{networkingv1.AnnotationIsDefaultIngressClass: "true"}},
		Spec:       networkingv1.IngressClassSpec{Controller: link.IngressController},
	}
	if _, err := s.wiring.client.NetworkingV1().IngressClasses().Create(ctx, class, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	patch := []byte(`{"metadata":{"annotations":{"` + seededAnnotation + `":"bramble"}}}`)
	_, err = namespaces.Patch(ctx, metav1.NamespaceSystem, types.MergePatchType, patch, metav1.PatchOptions{})
	return err
}
