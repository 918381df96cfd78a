package link

import (
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// ingressClassAnnotation is how an Ingress named its class before it had a field for it.
const ingressClassAnnotation = "kubernetes.io/ingress.class"

// IngressClassOf is the class that an Ingress names; "" for none.
func IngressClassOf(in *networkingv1.Ingress) string {
	if in.Spec.IngressClassName != nil {
		return *in.Spec.IngressClassName
	}
	return in.Annotations[ingressClassAnnotation]
}

// ServesIngresses says whether a node is one that serves Ingresses, and is given their Secrets.
func ServesIngresses(node *corev1.Node) bool { return node.Labels[IngressLabel] != "false" }
