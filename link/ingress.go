package link

import (
	"fmt"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

const (
	// IngressLabel with the value "false" keeps Ingresses, and with them their Secrets, from a node. An agent that serves them at
	// other ports than the web's gives it to its node with these, HTTP before HTTPS: "8080-8443".
	IngressLabel = "bramble.dev/ingress"
	// IngressController is what IngressClasses name whose Ingresses the nodes serve.
	IngressController = "bramble.dev/ingress"
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

// OurIngress says whether the nodes serve an Ingress: the class that it names must be one of ours.
func OurIngress(in *networkingv1.Ingress, class func(namespace, name string) (*networkingv1.IngressClass, bool)) bool {
	c, ok := class("", IngressClassOf(in))
	return ok && c.Spec.Controller == IngressController
}

// ServesIngresses says whether a node is one that serves Ingresses, and is given their Secrets.
func ServesIngresses(node *corev1.Node) bool { return node.Labels[IngressLabel] != "false" }

// IngressPorts are those at which a node serves Ingresses over HTTP and HTTPS; 0: it does not.
func IngressPorts(node *corev1.Node) (http, https uint16) {
	if !ServesIngresses(node) {
		return 0, 0
	}
	first, second, _ := strings.Cut(node.Labels[IngressLabel], "-")
	a, err := strconv.ParseUint(first, 10, 16)
	b, also := strconv.ParseUint(second, 10, 16)
	if err != nil || also != nil {
		return 80, 443
	}
	return uint16(a), uint16(b)
}

// IngressLabelOf is the value of the label for ports that an agent serves Ingresses at; "" when it needs none.
func IngressLabelOf(http, https int) string {
	switch {
	case http == 80 && https == 443:
		return ""
	case http == 0 && https == 0:
		return "false"
	}
	return fmt.Sprintf("%d-%d", http, https)
}
