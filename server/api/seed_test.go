package api

import (
	"fmt"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// An address that is taken away from a Service is soon its own again, also while the server runs.
func TestClusterIPsAreRepairedWhileTheServerRuns(t *testing.T) {
	c, ns := shared(t)
	services, addresses := c.client.CoreV1().Services(ns), c.client.NetworkingV1().IPAddresses()
	s := must(services.Create(t.Context(), service("owner", 0), metav1.CreateOptions{}))(t)
	ip := s.Spec.ClusterIP
	lost := must(addresses.Get(t.Context(), ip, metav1.GetOptions{}))(t)
	if err := addresses.Delete(t.Context(), ip, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the service has its address", func() bool {
		a, err := addresses.Get(t.Context(), ip, metav1.GetOptions{})
		return err == nil && a.UID != lost.UID && a.Spec.ParentRef.Name == "owner"
	})
	thief := service("thief", 0)
	thief.Spec.ClusterIP = ip
	if _, err := services.Create(t.Context(), thief, metav1.CreateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "provided IP is already allocated") {
		t.Errorf("an address that is taken: %v", err)
	}
	eventually(t, "an event says so", func() bool {
		events := must(c.client.EventsV1().Events(ns).List(t.Context(), metav1.ListOptions{FieldSelector: "reason=ClusterIPNotAllocated"}))(t)
		return len(events.Items) == 1 && events.Items[0].Regarding.Name == "owner"
	})
}

// A Service that becomes a name gives its address back, to whoever asks for it next: upstream's registry does so just before it writes the
// Service, and what repairs addresses must not take that for a loss.
func TestAClusterIPThatIsGivenBackIsFree(t *testing.T) {
	c, ns := shared(t)
	services := c.client.CoreV1().Services(ns)
	s := service("first", 0)
	ip := must(services.Create(t.Context(), s, metav1.CreateOptions{}))(t).Spec.ClusterIP
	for n := range 30 {
		s = must(services.Patch(t.Context(), s.Name, types.MergePatchType, []byte(`{"spec":{"type":"ExternalName","externalName":"x.example.com","clusterIP":null,"clusterIPs":null,"ports":null}}`), metav1.PatchOptions{}))(t)
		s = service(fmt.Sprintf("next-%d", n), 0)
		s.Spec.ClusterIP = ip
		if _, err := services.Create(t.Context(), s, metav1.CreateOptions{}); err != nil {
			t.Fatalf("after %d: %v", n, err)
		}
	}
}

// One command deletes the service network, which stays for as long as Services have its addresses. That is no reason not to start.
func TestAServiceNetworkThatIsBeingDeleted(t *testing.T) {
	dir := t.TempDir()
	c := start(t, dir)
	ranges := c.client.NetworkingV1().ServiceCIDRs()
	held := []byte(`{"metadata":{"finalizers":["networking.k8s.io/service-cidr-finalizer"]}}`) // as the controller of ranges does
	must(ranges.Patch(t.Context(), "kubernetes", types.MergePatchType, held, metav1.PatchOptions{}))(t)
	if err := ranges.Delete(t.Context(), "kubernetes", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := c.client.CoreV1().Services("default").Delete(t.Context(), "kubernetes", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := c.stop(); err != nil {
		t.Fatal(err)
	}
	c.stop = nil

	c = start(t, dir)
	ranges = c.client.NetworkingV1().ServiceCIDRs()
	if r := must(ranges.Get(t.Context(), "kubernetes", metav1.GetOptions{}))(t); r.DeletionTimestamp == nil {
		t.Error("it is not being deleted any more")
	}
	must(ranges.Patch(t.Context(), "kubernetes", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}))(t)
	c.putBack(t.Context())
	must(ranges.Get(t.Context(), "kubernetes", metav1.GetOptions{}))(t)
	if s := must(c.client.CoreV1().Services("default").Get(t.Context(), "kubernetes", metav1.GetOptions{}))(t); s.Spec.ClusterIP != "10.43.0.1" {
		t.Errorf("default/kubernetes is %+v", s.Spec)
	}
}

// What every cluster has comes back, as upstream has it, if somebody deletes it.
func TestWhatEveryClusterHasIsPutBack(t *testing.T) {
	c := start(t, t.TempDir())
	maps := c.client.CoreV1().ConfigMaps("kube-system")
	if err := maps.Delete(t.Context(), "extension-apiserver-authentication", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := c.client.CoreV1().Namespaces().Delete(t.Context(), "kube-node-lease", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	lease := must(c.client.CoreV1().Namespaces().Get(t.Context(), "kube-node-lease", metav1.GetOptions{}))(t)
	lease.Spec.Finalizers = nil
	must(c.client.CoreV1().Namespaces().Finalize(t.Context(), lease, metav1.UpdateOptions{}))(t)
	c.putBack(t.Context())
	must(maps.Get(t.Context(), "extension-apiserver-authentication", metav1.GetOptions{}))(t)
	must(c.client.CoreV1().Namespaces().Get(t.Context(), "kube-node-lease", metav1.GetOptions{}))(t)
}

// A webhook that nobody answers refuses what a new release would add to the cluster. The server starts all the same: without it nobody
// could take the webhook away.
func TestAWebhookThatRefusesEverythingDoesNotKeepTheServerFromStarting(t *testing.T) {
	dir := t.TempDir()
	c := start(t, dir)
	if err := c.client.RbacV1().ClusterRoles().Delete(t.Context(), "view", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	nobody, effects, second := "https://127.0.0.1:1", admissionregistrationv1.SideEffectClassNone, int32(1)
	hook := &admissionregistrationv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "everything"}, Webhooks: []admissionregistrationv1.ValidatingWebhook{{
		Name: "everything.example.com", ClientConfig: admissionregistrationv1.WebhookClientConfig{URL: &nobody}, SideEffects: &effects, TimeoutSeconds: &second, AdmissionReviewVersions: []string{"v1"},
		Rules: []admissionregistrationv1.RuleWithOperations{{Operations: []admissionregistrationv1.OperationType{"*"}, Rule: admissionregistrationv1.Rule{APIGroups: []string{"*"}, APIVersions: []string{"*"}, Resources: []string{"*/*"}}}},
	}}}
	must(c.client.AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(t.Context(), hook, metav1.CreateOptions{}))(t)
	if err := c.stop(); err != nil {
		t.Fatal(err)
	}
	c.stop = nil

	c = start(t, dir)
	if _, err := c.client.RbacV1().ClusterRoles().Get(t.Context(), "view", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the role: %v", err)
	}
	if err := c.client.AdmissionregistrationV1().ValidatingWebhookConfigurations().Delete(t.Context(), "everything", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.putBack(t.Context())
	must(c.client.RbacV1().ClusterRoles().Get(t.Context(), "view", metav1.GetOptions{}))(t)
	if len(c.missing) != 0 {
		t.Errorf("still missing: %q", c.missing)
	}
}
