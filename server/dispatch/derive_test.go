package dispatch

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"pgregory.net/rapid"

	"bramble.dev/link"
	"bramble.dev/server/auth"
	"bramble.dev/server/cache/cachetest"
)

func TestNeeds(t *testing.T) {
	local := func(name string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: name} }
	class := "kata"
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}, Spec: corev1.PodSpec{
		RuntimeClassName: &class,
		ImagePullSecrets: []corev1.LocalObjectReference{local("pull")},
		Volumes: []corev1.Volume{
			{Name: "a", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: local("cm-volume")}}},
			{Name: "b", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "secret-volume"}}},
			{Name: "c", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "claim"}}},
			{Name: "d", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}},
			{Name: "e", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
				{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: local("cm-projected")}},
				{Secret: &corev1.SecretProjection{LocalObjectReference: local("secret-projected")}},
				{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}},
			}}}},
			{Name: "f", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		},
		InitContainers: []corev1.Container{{EnvFrom: []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: local("cm-init")}}}}},
		Containers: []corev1.Container{{
			Env: []corev1.EnvVar{
				{Name: "A", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: local("secret-key")}}},
				{Name: "B", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: local("cm-key")}}},
				{Name: "C", Value: "plain"},
			},
			EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: local("secret-env")}}},
		}},
		EphemeralContainers: []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
			EnvFrom: []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: local("cm-debug")}}}}}},
	}}
	got := map[string]bool{}
	needs(pod, func(r ref) { got[r.key()] = true })
	want := []string{
		"configmaps/ns/cm-debug", "configmaps/ns/cm-init", "configmaps/ns/cm-key", "configmaps/ns/cm-projected", "configmaps/ns/cm-volume", "handlers/kata",
		"persistentvolumeclaims/ns/claim", "persistentvolumeclaims/ns/p-d",
		"secrets/ns/pull", "secrets/ns/secret-env", "secrets/ns/secret-key", "secrets/ns/secret-projected", "secrets/ns/secret-volume",
	}
	if keys := slices.Sorted(maps.Keys(got)); !slices.Equal(keys, want) {
		t.Errorf("%v", keys)
	}
}

func TestTrimmedPodDoesNotChangeWithItsStatus(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", ResourceVersion: "1", ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "m"}},
		Annotations: map[string]string{corev1.LastAppliedConfigAnnotation: "{}", "keep": "me"}}}
	before, err := trimPod(pod).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	other := pod.DeepCopy()
	other.ResourceVersion, other.Status.Phase, other.Status.PodIP = "2", corev1.PodRunning, "10.42.0.3"
	after, err := trimPod(other).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if string(before) != string(after) {
		t.Error("a report would come back as a change")
	}
	if len(pod.ManagedFields) == 0 || len(pod.Annotations) != 2 {
		t.Error("the cached object was changed")
	}
}

func TestMergePodStatus(t *testing.T) {
	have := corev1.PodStatus{Phase: corev1.PodPending, QOSClass: corev1.PodQOSBurstable, NominatedNodeName: "n", Conditions: []corev1.PodCondition{
		{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}, {Type: "example.com/gate", Status: corev1.ConditionTrue}, {Type: corev1.PodReady, Status: corev1.ConditionFalse}}}
	report := corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.42.0.3", Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}
	got := mergePodStatus(have, report)
	var conditions []string
	for _, c := range got.Conditions {
		conditions = append(conditions, fmt.Sprint(c.Type, "=", c.Status))
	}
	if s := strings.Join(conditions, " "); s != "PodScheduled=True example.com/gate=True Ready=True" || got.QOSClass != corev1.PodQOSBurstable || got.NominatedNodeName != "n" || got.PodIP != "10.42.0.3" {
		t.Errorf("%s %+v", s, got)
	}
}

func TestMergeNodeStatus(t *testing.T) {
	then, now := metav1.NewTime(time.Unix(1000, 0)), metav1.NewTime(time.Unix(2000, 0))
	have := corev1.NodeStatus{Conditions: []corev1.NodeCondition{
		{Type: corev1.NodeReady, Status: corev1.ConditionUnknown, LastTransitionTime: then}, {Type: corev1.NodeDiskPressure, Status: corev1.ConditionFalse, LastTransitionTime: then},
		{Type: "Other", Status: corev1.ConditionTrue}}}
	report := corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}, {Type: corev1.NodeDiskPressure, Status: corev1.ConditionFalse, LastTransitionTime: now}}}
	got := mergeNodeStatus(have, report, now)
	if c := got.Conditions; len(c) != 3 || c[0].LastTransitionTime != now || c[1].LastTransitionTime != then || c[2].Type != "Other" {
		t.Errorf("%+v", c)
	}
}

// What people have advertised stays; a resource of the node's own that is no longer there goes.
func TestMergeNodeStatusKeepsExtendedResources(t *testing.T) {
	list := func(names ...corev1.ResourceName) corev1.ResourceList {
		out := corev1.ResourceList{}
		for _, name := range names {
			out[name] = resource.MustParse("3")
		}
		return out
	}
	have := corev1.NodeStatus{Capacity: list("cpu", "hugepages-2Mi", "example.com/dongle"), Allocatable: list("cpu", "hugepages-2Mi", "example.com/dongle")}
	report := corev1.NodeStatus{Capacity: list("cpu"), Allocatable: list("cpu")}
	got, want := mergeNodeStatus(have, report, metav1.Now()), list("cpu", "example.com/dongle")
	if !reflect.DeepEqual(got.Capacity, want) || !reflect.DeepEqual(got.Allocatable, want) {
		t.Errorf("capacity %v, allocatable %v, want both %v", got.Capacity, got.Allocatable, want)
	}
}

// noTransport carries nothing.
type noTransport struct{}

func (noTransport) Receive(func(string, []byte))  {}
func (noTransport) Publish(string, []byte) error  { return nil }
func (noTransport) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// TestIncrementalDerivation: after any changes the sets are those that a look at the whole cluster gives.
func TestIncrementalDerivation(t *testing.T) {
	pki, err := auth.OpenPKI(t.TempDir(), auth.PKIOptions{})
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(r *rapid.T) { incremental(t, r, pki) })
}

func incremental(t *testing.T, r *rapid.T, pki *auth.PKI) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	api := cachetest.New()
	client := api.Client()
	caches := api.Set(t)
	defer caches.Close()
	d, err := New(Config{Caches: caches, Client: client, Transport: noTransport{}, Identity: pki, Logger: slog.New(slog.DiscardHandler),
		LinkKey: func() ([]byte, crypto.Signer, error) { return nil, nil, errors.New("none") }})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.synced(ctx); err != nil {
		t.Fatal(err)
	}
	defer d.workers.Wait()
	defer cancel()
	defer d.watch()()
	nodes := []string{"n1", "n2"}
	for _, name := range nodes {
		n := d.ensure(ctx, name)
		defer n.end()
	}
	name := func(prefix string, n int) string { return prefix + fmt.Sprint(rapid.IntRange(1, n).Draw(r, prefix)) }
	for range rapid.IntRange(1, 25).Draw(r, "steps") {
		switch rapid.IntRange(0, 8).Draw(r, "step") {
		case 0, 1, 2:
			p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name("p", 6)}, Spec: corev1.PodSpec{NodeName: name("n", 3), Containers: []corev1.Container{{Name: "c"}}}}
			v := corev1.Volume{Name: "v"}
			switch rapid.IntRange(0, 2).Draw(r, "volume") {
			case 0:
				v.ConfigMap = &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: name("cm", 3)}}
			case 1:
				v.Secret = &corev1.SecretVolumeSource{SecretName: name("s", 3)}
			case 2:
				v.PersistentVolumeClaim = &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name("c", 2)}
			}
			p.Spec.Volumes = []corev1.Volume{v}
			_, _ = client.CoreV1().Pods("ns").Create(ctx, p, metav1.CreateOptions{})
		case 3:
			_ = client.CoreV1().Pods("ns").Delete(ctx, name("p", 6), metav1.DeleteOptions{GracePeriodSeconds: new(int64)})
		case 4:
			cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name("cm", 3)}, Data: map[string]string{"x": name("value", 5)}}
			if _, err := client.CoreV1().ConfigMaps("ns").Create(ctx, cm, metav1.CreateOptions{}); err != nil {
				_, _ = client.CoreV1().ConfigMaps("ns").Update(ctx, cm, metav1.UpdateOptions{})
			}
		case 5:
			_ = client.CoreV1().ConfigMaps("ns").Delete(ctx, name("cm", 3), metav1.DeleteOptions{})
		case 6:
			s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name("s", 3)}, Data: map[string][]byte{"x": []byte(name("value", 5))}}
			if _, err := client.CoreV1().Secrets("ns").Create(ctx, s, metav1.CreateOptions{}); err != nil {
				_, _ = client.CoreV1().Secrets("ns").Update(ctx, s, metav1.UpdateOptions{})
			}
		case 7:
			c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name("c", 2)}, Spec: corev1.PersistentVolumeClaimSpec{VolumeName: name("pv", 2)}}
			_, _ = client.CoreV1().PersistentVolumeClaims("ns").Create(ctx, c, metav1.CreateOptions{})
			_, _ = client.CoreV1().PersistentVolumes().Create(ctx, &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: c.Spec.VolumeName}}, metav1.CreateOptions{})
		case 8:
			s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name("svc", 3)}}
			if _, err := client.CoreV1().Services("ns").Create(ctx, s, metav1.CreateOptions{}); err != nil {
				_ = client.CoreV1().Services("ns").Delete(ctx, s.Name, metav1.DeleteOptions{})
			}
		}
		if rapid.Bool().Draw(r, "derive") {
			d.deriveDirty(ctx)
		}
	}
	end := time.Now().Add(5 * time.Second)
	for {
		d.deriveDirty(ctx)
		problem := wrong(api, d, nodes)
		if problem == "" {
			return
		}
		if time.Now().After(end) {
			r.Fatal(problem)
		}
		time.Sleep(time.Millisecond)
	}
}

// TestForgetting: a node whose first session begins was never heard, and is not taken for one that is long away.
func TestForgetting(t *testing.T) {
	pki, err := auth.OpenPKI(t.TempDir(), auth.PKIOptions{})
	if err != nil {
		t.Fatal(err)
	}
	api := cachetest.New()
	d, err := New(Config{Caches: api.Set(t), Client: api.Client(), Transport: noTransport{}, Identity: pki, Logger: slog.New(slog.DiscardHandler),
		LinkKey: func() ([]byte, crypto.Signer, error) { return nil, nil, errors.New("none") }})
	if err != nil {
		t.Fatal(err)
	}
	d.greeters[link.NodePlace("pi")] = &greeter{until: time.Now().Add(time.Minute)} // it was told to try later
	if err := d.connect(t.Context(), &link.Agent{Credential: link.Credential{Name: "pi", Instance: "1"}}, link.Greeting{}); err != nil {
		t.Fatal(err)
	}
	if len(d.greeters) != 0 {
		t.Error("an earlier refusal would be repeated")
	}
	d.forget(d.node("pi"))

	n := d.ensure(t.Context(), "pi")
	d.forgetLongAway(n, time.Now())
	if d.node("pi") != n {
		t.Fatal("it is forgotten while its session begins")
	}
	n.hear(time.Now())
	d.forgetLongAway(n, time.Now().Add(forgetAfter/2))
	if d.node("pi") != n {
		t.Fatal("it is forgotten too early")
	}
	d.forgetLongAway(n, time.Now().Add(forgetAfter+time.Minute))
	if d.node("pi") != nil {
		t.Error("it is never forgotten")
	}
}

// whole reads the stand-in API itself.
type whole struct{ api *cachetest.API }

func find[T any](api *cachetest.API, resource, namespace, name string) (*T, bool) {
	for _, x := range cachetest.All[T](api, "", resource) {
		m := any(x).(metav1.Object)
		if m.GetNamespace() == namespace && m.GetName() == name {
			return x, true
		}
	}
	return nil, false
}

func (w whole) node(name string) (*corev1.Node, bool) {
	return find[corev1.Node](w.api, "nodes", "", name)
}

func (w whole) podsOn(node string) (on []*corev1.Pod) {
	for _, p := range cachetest.All[corev1.Pod](w.api, "", "pods") {
		if p.Spec.NodeName == node {
			on = append(on, p)
		}
	}
	return on
}

func (w whole) content(r ref) (want, bool) {
	if r.kind == configMap {
		x, ok := find[corev1.ConfigMap](w.api, "configmaps", r.namespace, r.name)
		return want{"", func() ([]byte, error) { return trimConfigMap(x).Marshal() }}, ok
	}
	x, ok := find[corev1.Secret](w.api, "secrets", r.namespace, r.name)
	return want{"", func() ([]byte, error) { return trimSecret(x).Marshal() }}, ok
}

func (w whole) claim(namespace, name string) (*corev1.PersistentVolumeClaim, bool) {
	return find[corev1.PersistentVolumeClaim](w.api, "persistentvolumeclaims", namespace, name)
}

func (w whole) policies(namespace string) []*networkingv1.NetworkPolicy { return nil }

func (w whole) volume(name string) (*corev1.PersistentVolume, bool) {
	return find[corev1.PersistentVolume](w.api, "persistentvolumes", "", name)
}

func (w whole) removals(node string) (out []*corev1.PersistentVolume) {
	for _, pv := range cachetest.All[corev1.PersistentVolume](w.api, "", "persistentvolumes") {
		if link.Removes(pv) == node {
			out = append(out, pv)
		}
	}
	return out
}

func (w whole) trustBundle(name string) (*certificatesv1beta1.ClusterTrustBundle, bool) {
	return nil, false
}

func (w whole) trustBundles(string) []*certificatesv1beta1.ClusterTrustBundle { return nil }

func (w whole) ingressSecrets() []ref { return nil }

// wrong says what differs from a derivation from scratch.
func wrong(api *cachetest.API, d *Dispatcher, nodes []string) string {
	for _, name := range nodes {
		items, _, _ := nodeItems(name, whole{api})
		fresh := newDerived()
		for key, w := range items {
			value, err := w.value()
			if err != nil {
				return err.Error()
			}
			fresh.set.Put(key, value)
		}
		have := d.node(name).needs.set
		if have.Root() != fresh.set.Root() {
			return fmt.Sprintf("%s has %v, should have %v", name, have.Keys(), fresh.set.Keys())
		}
	}
	shared := link.NewSet()
	set := d.shared.set("")
	config, _ := set.Get(link.ClusterKey)
	shared.Put(link.ClusterKey, config)
	for _, s := range cachetest.All[corev1.Service](api, "", "services") {
		value, err := trimService(s).Marshal()
		if err != nil {
			return err.Error()
		}
		shared.Put(serviceKey(s), value)
	}
	if shared.Root() != set.Root() {
		return fmt.Sprintf("shared has %v, should have %v", set.Keys(), shared.Keys())
	}
	return ""
}

// TestNodeMeta: a node's report adds labels and changes those it gave, but for what is the administrator's.
func TestNodeMeta(t *testing.T) {
	have := &corev1.Node{ObjectMeta: metav1.ObjectMeta{
		Labels:      map[string]string{"rack": "1", "mine": "yes", "node-restriction.kubernetes.io/safe": "no"},
		Annotations: map[string]string{InstanceAnnotation: "i", registered: "i"},
	}}
	got := mergeNodeMeta(have, &link.NodeReport{Labels: map[string]string{
		"rack": "2", "node-restriction.kubernetes.io/safe": "yes", "team.node-restriction.kubernetes.io/a": "b", "node-restriction.kubernetes.io.example/a": "b",
	}})
	want := map[string]string{"rack": "2", "mine": "yes", "node-restriction.kubernetes.io/safe": "no", "node-restriction.kubernetes.io.example/a": "b"}
	if got == nil || !maps.Equal(got.Labels, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	if again := mergeNodeMeta(got, &link.NodeReport{Labels: map[string]string{"rack": "2", "node-restriction.kubernetes.io/safe": "yes"}}); again != nil {
		t.Errorf("the same again is a change: %v", again)
	}
}
