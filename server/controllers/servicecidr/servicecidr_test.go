package servicecidr

import (
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	networkingv1 "k8s.io/api/networking/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/cache/cachetest"
)

func TestARangeStaysWhileAServiceHasItsAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := cachetest.New()
		client := api.Client().NetworkingV1()
		create := func(name, cidr string) {
			t.Helper()
			if _, err := client.ServiceCIDRs().Create(t.Context(), &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{cidr}}}, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		remove := func(name string) {
			t.Helper()
			if err := client.ServiceCIDRs().Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		defer api.Start(func(client kubernetes.Interface, set *cache.Set) cachetest.Runner {
			return New(Inputs{Client: client, Caches: set, Log: slog.New(slog.DiscardHandler)})
		}).Stop()
		// after is what a range's condition says some time later; "" when the range is gone.
		after := func(d time.Duration, name string) string {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			r, err := client.ServiceCIDRs().Get(t.Context(), name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return ""
			}
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Contains(r.Finalizers, finalizer) {
				t.Errorf("%s lacks the finalizer", name)
			}
			c := meta.FindStatusCondition(r.Status.Conditions, networkingv1.ServiceCIDRConditionReady)
			if c == nil {
				return "nothing"
			}
			return string(c.Status) + " " + c.Reason + " " + c.Message
		}
		const ready = "True  Kubernetes Service CIDR is ready"
		const kept = "False Terminating There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR"
		create("first", "10.43.0.0/16")
		create("more", "203.0.113.0/24")
		for _, name := range []string{"first", "more"} {
			if got := after(time.Second, name); got != ready {
				t.Errorf("%s: %q", name, got)
			}
		}
		address := &networkingv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Name: "203.0.113.10", Labels: map[string]string{networkingv1.LabelManagedBy: allocator}}}
		if _, err := client.IPAddresses().Create(t.Context(), address, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		remove("more")
		if got := after(time.Minute, "more"); got != kept {
			t.Errorf("with an address: %q", got)
		}
		if err := client.IPAddresses().Delete(t.Context(), address.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if got := after(time.Second, "more"); got != "" {
			t.Errorf("without: %q", got)
		}
		// Another range that covers the address lets it go at once, but for the time that the allocator has to learn of it.
		create("small", "198.51.100.0/28")
		after(time.Second, "small")
		address.Name, address.ResourceVersion, address.UID = "198.51.100.3", "", ""
		if _, err := client.IPAddresses().Create(t.Context(), address, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		remove("small")
		if got := after(time.Second, "small"); got != kept {
			t.Errorf("alone: %q", got)
		}
		create("large", "198.51.100.0/24")
		if got := after(8*time.Second, "small"); got != kept {
			t.Errorf("too early: %q", got)
		}
		if got := after(2*time.Second, "small"); got != "" {
			t.Errorf("covered: %q", got)
		}
		// Of two that cover the same address and go together, one stays.
		create("twin", "198.51.100.0/24")
		after(time.Second, "twin")
		remove("large")
		remove("twin")
		if large, twin := after(time.Minute, "large"), after(0, "twin"); (large == kept) == (twin == kept) {
			t.Errorf("both deleted: %q, %q", large, twin)
		}
	})
}
