package dispatch_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// policyItems lists what a board knows of policies.
func (b *board) policyItems() string {
	var out []string
	for _, set := range []string{"node", "shared"} {
		for _, key := range b.sets[set].Keys() {
			if kind, _, _ := strings.Cut(key, "/"); kind == "networkpolicies" || kind == "policypeers" || kind == "namespaces" {
				out = append(out, key)
			}
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func (b *board) eventuallyKnows(want string) {
	b.t.Helper()
	for range 1000 {
		if b.policyItems() == want && b.u.Synced("shared") && b.u.Synced("node") {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	b.t.Fatalf("%s knows\n%q, should know\n%q", b.name, b.policyItems(), want)
}

// TestPolicies: a policy goes where it selects a pod, its peers go to everybody, and nothing goes anywhere
// while there is none.
func TestPolicies(t *testing.T) {
	c := newCluster(t)
	c.start()
	ctx := context.Background()
	pi1, pi2 := c.sited("pi1", "", 1), c.sited("pi2", "", 2)
	addressed := func(name, node, ip string, labels map[string]string) *corev1.Pod {
		t.Helper()
		p := must[*corev1.Pod](t)(c.client.CoreV1().Pods("ns").Create(ctx, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, Labels: labels}, Spec: corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{PodIP: ip},
		}, metav1.CreateOptions{}))
		return p
	}
	addressed("web", "pi1", "10.42.1.2", map[string]string{"app": "web", "hash": "1"})
	front := addressed("front", "pi2", "10.42.2.2", map[string]string{"app": "front", "hash": "2"})
	addressed("other", "pi2", "10.42.2.3", nil)
	must[*corev1.Namespace](t)(c.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns", Labels: map[string]string{"team": "a"}}}, metav1.CreateOptions{}))
	pi1.eventuallyKnows("")
	pi2.eventuallyKnows("")

	policies := c.client.NetworkingV1().NetworkPolicies("ns")
	app := func(v string) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchLabels: map[string]string{"app": v}}
	}
	np := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"}, Spec: networkingv1.NetworkPolicySpec{PodSelector: *app("web"),
		Ingress: []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{PodSelector: app("front")}}}}}}
	np = must[*networkingv1.NetworkPolicy](t)(policies.Create(ctx, np, metav1.CreateOptions{}))
	pi1.eventuallyKnows("networkpolicies/ns/web policypeers/ns/front")
	pi2.eventuallyKnows("policypeers/ns/front")
	value, _ := pi1.sets["shared"].Get("policypeers/ns/front")
	var got corev1.Pod
	if err := got.Unmarshal(value); err != nil || got.Status.PodIP != "10.42.2.2" || len(got.Labels) != 1 || got.Labels["app"] != "front" {
		t.Errorf("the peer: %v %v %v", got.Status.PodIP, got.Labels, err)
	}

	// What policies do not look at wakes nobody.
	quiet := pi1.settled()
	front.Labels["hash"] = "3"
	front = must[*corev1.Pod](t)(c.client.CoreV1().Pods("ns").Update(ctx, front, metav1.UpdateOptions{}))
	front.Status.Phase = corev1.PodRunning
	front = must[*corev1.Pod](t)(c.client.CoreV1().Pods("ns").UpdateStatus(ctx, front, metav1.UpdateOptions{}))
	pi2.settled()
	if n := pi1.settled() - quiet; n != 0 {
		t.Errorf("%d bytes reached the other node", n)
	}

	np.Spec.Ingress[0].From[0] = networkingv1.NetworkPolicyPeer{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"team": "a"}}}
	np = must[*networkingv1.NetworkPolicy](t)(policies.Update(ctx, np, metav1.UpdateOptions{}))
	pi2.eventuallyKnows("namespaces/ns policypeers/ns/front policypeers/ns/other policypeers/ns/web")

	// A sidecar has names of ports as a container has.
	always := corev1.ContainerRestartPolicyAlways
	must[*corev1.Pod](t)(c.client.CoreV1().Pods("ns").Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "behind", Labels: map[string]string{"app": "behind"}}, Status: corev1.PodStatus{PodIP: "10.42.2.4"},
		Spec: corev1.PodSpec{NodeName: "pi2", InitContainers: []corev1.Container{
			{Name: "prepare", Ports: []corev1.ContainerPort{{Name: "early", ContainerPort: 1}}},
			{Name: "proxy", RestartPolicy: &always, Ports: []corev1.ContainerPort{{Name: "proxy", ContainerPort: 8443}}}}},
	}, metav1.CreateOptions{}))
	np.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{{To: []networkingv1.NetworkPolicyPeer{{PodSelector: app("behind")}}, Ports: []networkingv1.NetworkPolicyPort{{Port: ptr.To(intstr.FromString("proxy"))}}}}
	np = must[*networkingv1.NetworkPolicy](t)(policies.Update(ctx, np, metav1.UpdateOptions{}))
	pi1.eventuallyKnows("namespaces/ns networkpolicies/ns/web policypeers/ns/behind policypeers/ns/front policypeers/ns/other policypeers/ns/web")
	value, _ = pi1.sets["shared"].Get("policypeers/ns/behind")
	got = corev1.Pod{}
	if err := got.Unmarshal(value); err != nil || len(got.Spec.Containers) != 1 || !slices.Equal(got.Spec.Containers[0].Ports, []corev1.ContainerPort{{Name: "proxy", ContainerPort: 8443}}) {
		t.Errorf("the sidecar's ports: %v %v", got.Spec.Containers, err)
	}
	if err := c.client.CoreV1().Pods("ns").Delete(ctx, "behind", metav1.DeleteOptions{GracePeriodSeconds: ptr.To(int64(0))}); err != nil {
		t.Fatal(err)
	}
	np.Spec.Egress = nil
	np = must[*networkingv1.NetworkPolicy](t)(policies.Update(ctx, np, metav1.UpdateOptions{}))
	pi1.eventuallyKnows("namespaces/ns networkpolicies/ns/web policypeers/ns/front policypeers/ns/other policypeers/ns/web")

	// A server that is started again tells the same.
	c.stop()
	c.start()
	eventually(t, "the board is back", func() bool { online, _ := c.dispatcher.Online("pi2"); return online })
	pi1.eventuallyKnows("namespaces/ns networkpolicies/ns/web policypeers/ns/front policypeers/ns/other policypeers/ns/web")
	front.Status.Phase = corev1.PodSucceeded
	must[*corev1.Pod](t)(c.client.CoreV1().Pods("ns").UpdateStatus(ctx, front, metav1.UpdateOptions{}))
	pi1.eventuallyKnows("namespaces/ns networkpolicies/ns/web policypeers/ns/other policypeers/ns/web")
	if err := policies.Delete(ctx, "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	pi1.eventuallyKnows("")
	pi2.eventuallyKnows("")
}
