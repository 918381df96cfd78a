package clients

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	corev1apply "k8s.io/client-go/applyconfigurations/core/v1"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
)

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	os.Exit(m.Run())
}

// Garden is the custom resource of crd_test.go as an operator has it in Go.
type Garden struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              GardenSpec   `json:"spec"`
	Status            GardenStatus `json:"status,omitzero"`
}

type GardenSpec struct {
	Crop string `json:"crop"`
	Beds int32  `json:"beds,omitempty"`
}

type GardenStatus struct {
	Beds  int32  `json:"beds,omitempty"`
	Phase string `json:"phase,omitempty"`
}

type GardenList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Garden `json:"items"`
}

func (g *Garden) DeepCopyObject() runtime.Object {
	c := *g
	g.ObjectMeta.DeepCopyInto(&c.ObjectMeta)
	return &c
}

func (l *GardenList) DeepCopyObject() runtime.Object {
	c := *l
	l.ListMeta.DeepCopyInto(&c.ListMeta)
	c.Items = nil
	for i := range l.Items {
		c.Items = append(c.Items, *l.Items[i].DeepCopyObject().(*Garden))
	}
	return &c
}

func operatorScheme(t *testing.T) *runtime.Scheme {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	scheme.AddKnownTypes(gardens, &Garden{}, &GardenList{})
	metav1.AddToGroupVersion(scheme, gardens)
	return scheme
}

// TestControllerRuntime: what operators are written with.
func TestControllerRuntime(t *testing.T) {
	s := start(t)
	defineGardens(t, s)
	t.Run("client", func(t *testing.T) { runtimeClient(t, s) })
	t.Run("cache", func(t *testing.T) { runtimeCache(t, s) })
	t.Run("manager", func(t *testing.T) { manager(t, s) })
}

func runtimeClient(t *testing.T, s *server) {
	ctx, ns := t.Context(), s.namespace(t, "runtime-client")
	c := must(client.New(s.config(t), client.Options{Scheme: operatorScheme(t), FieldOwner: "operator"}))(t)
	g := &Garden{ObjectMeta: metav1.ObjectMeta{Namespace: ns, GenerateName: "garden-", Labels: map[string]string{"row": "1"}}, Spec: GardenSpec{Crop: "leek"}}
	if err := c.Create(ctx, g); err != nil {
		t.Fatal(err)
	}
	if g.Spec.Beds != 1 || len(g.Name) != len("garden-")+5 || g.ManagedFields[0].Manager != "operator" {
		t.Errorf("created %+v", g)
	}
	if err := c.Create(ctx, &Garden{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "dry"}, Spec: GardenSpec{Crop: "leek"}}, client.DryRunAll); err != nil {
		t.Error(err)
	}

	// A patch of what changed; with the version, if nobody else has changed it.
	old := g.DeepCopyObject().(*Garden)
	g.Spec.Beds = 3
	if err := c.Patch(ctx, g, client.MergeFrom(old)); err != nil {
		t.Error(err)
	}
	stale := old.DeepCopyObject().(*Garden)
	stale.Spec.Beds = 4
	if err := c.Patch(ctx, stale, client.MergeFromWithOptions(old, client.MergeFromWithOptimisticLock{})); !apierrors.IsConflict(err) {
		t.Errorf("a patch of an old version: %v", err)
	}
	old = g.DeepCopyObject().(*Garden)
	g.Status = GardenStatus{Beds: 3, Phase: "sown"}
	if err := c.Status().Patch(ctx, g, client.MergeFrom(old)); err != nil {
		t.Error(err)
	}
	g.Status.Phase = "ripe"
	g.Spec.Crop = "not by this way"
	if err := c.Status().Update(ctx, g); err != nil || g.Spec.Crop != "leek" || g.Status.Phase != "ripe" {
		t.Errorf("after an update of the status %+v: %v", g, err)
	}

	// Server-side apply; twice the same is one version.
	apply := func() *corev1apply.ConfigMapApplyConfiguration {
		return corev1apply.ConfigMap("applied", ns).WithData(map[string]string{"k": "v"})
	}
	var versions []string
	for range 2 {
		m := &corev1.ConfigMap{}
		if err := c.Apply(ctx, apply(), client.ForceOwnership); err != nil {
			t.Fatal(err)
		}
		if err := c.Get(ctx, client.ObjectKey{Namespace: ns, Name: "applied"}, m); err != nil {
			t.Fatal(err)
		}
		versions = append(versions, m.ResourceVersion)
	}
	if versions[0] != versions[1] {
		t.Errorf("to apply the same is a new version: %v", versions)
	}
	if err := c.Apply(ctx, apply().WithData(map[string]string{"k": "w"}), client.FieldOwner("another")); !apierrors.IsConflict(err) {
		t.Errorf("another's field: %v", err)
	}

	// CreateOrUpdate, of a built-in kind and protobuf.
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web"}}
	var did []controllerutil.OperationResult
	for range 2 {
		result, err := controllerutil.CreateOrUpdate(ctx, c, d, func() error {
			want := deployment("web")
			d.Labels, d.Spec.Replicas = want.Labels, want.Spec.Replicas
			if d.CreationTimestamp.IsZero() {
				d.Spec = want.Spec
			}
			return controllerutil.SetControllerReference(g, d, c.Scheme())
		})
		if err != nil {
			t.Fatal(err)
		}
		did = append(did, result)
	}
	if fmt.Sprint(did) != "[created unchanged]" {
		t.Errorf("CreateOrUpdate twice: %v", did)
	}

	// Pages, selectors, and all of a label at once.
	for i := range 5 {
		if err := c.Create(ctx, &Garden{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: fmt.Sprintf("many-%d", i), Labels: map[string]string{"row": "2"}}, Spec: GardenSpec{Crop: "kale"}}); err != nil {
			t.Fatal(err)
		}
	}
	var page GardenList
	if err := c.List(ctx, &page, client.InNamespace(ns), client.Limit(4)); err != nil || len(page.Items) != 4 || page.Continue == "" {
		t.Errorf("a page of %d, continue %q: %v", len(page.Items), page.Continue, err)
	}
	if err := c.List(ctx, &page, client.InNamespace(ns), client.Limit(4), client.Continue(page.Continue)); err != nil || len(page.Items) != 2 {
		t.Errorf("the second page has %d: %v", len(page.Items), err)
	}
	if err := c.DeleteAllOf(ctx, &Garden{}, client.InNamespace(ns), client.MatchingLabels{"row": "2"}); err != nil {
		t.Error(err)
	}
	if err := c.List(ctx, &page, client.InNamespace(ns)); err != nil || len(page.Items) != 1 || page.Items[0].Name != g.Name {
		t.Errorf("after DeleteAllOf: %d: %v", len(page.Items), err)
	}

	// The Deployment goes with its owner; an operator's foreground deletion waits for it.
	if err := c.Delete(ctx, g, client.PropagationPolicy(metav1.DeletePropagationForeground)); err != nil {
		t.Error(err)
	}
	eventually(t, 20*time.Second, "the garden goes after its Deployment", func(ctx context.Context) error {
		if err := c.Get(ctx, client.ObjectKeyFromObject(g), g); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the garden: %v", err)
		}
		if err := c.Get(ctx, client.ObjectKeyFromObject(d), d); !apierrors.IsNotFound(err) {
			t.Errorf("the garden went before its Deployment: %v", err)
		}
		return nil
	})
}

// runtimeCache: a cache with an index that the server knows nothing of, of one namespace and one label.
func runtimeCache(t *testing.T, s *server) {
	ctx, ns := t.Context(), s.namespace(t, "runtime-cache")
	scheme := operatorScheme(t)
	c := must(client.New(s.config(t), client.Options{Scheme: scheme}))(t)
	gardens := must(cache.New(s.config(t), cache.Options{Scheme: scheme, DefaultNamespaces: map[string]cache.Config{ns: {}}}))(t)
	if err := gardens.IndexField(ctx, &Garden{}, "spec.crop", func(o client.Object) []string { return []string{o.(*Garden).Spec.Crop} }); err != nil {
		t.Fatal(err)
	}
	for i, crop := range []string{"leek", "kale", "leek"} {
		if err := c.Create(ctx, &Garden{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: fmt.Sprintf("g%d", i)}, Spec: GardenSpec{Crop: crop}}); err != nil {
			t.Fatal(err)
		}
	}
	running(t, gardens.Start)
	if !gardens.WaitForCacheSync(ctx) {
		t.Fatal("the cache does not sync")
	}
	names := func(crop string) (found []string) {
		var list GardenList
		if err := gardens.List(ctx, &list, client.InNamespace(ns), client.MatchingFields{"spec.crop": crop}); err != nil {
			t.Fatal(err)
		}
		for _, g := range list.Items {
			found = append(found, g.Name)
		}
		slices.Sort(found)
		return found
	}
	if got := names("leek"); fmt.Sprint(got) != "[g0 g2]" {
		t.Errorf("gardens of leek: %v", got)
	}
	g := &Garden{}
	if err := gardens.Get(ctx, client.ObjectKey{Namespace: ns, Name: "g1"}, g); err != nil {
		t.Fatal(err)
	}
	g.Spec.Crop = "leek"
	if err := c.Update(ctx, g); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the index follows", func(context.Context) error {
		if got := names("leek"); fmt.Sprint(got) != "[g0 g1 g2]" {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
}

// operator keeps a ConfigMap for each garden, and holds a garden until it has cleared it.
type operator struct {
	client.Client

	mu      sync.Mutex
	cleared []string
}

const clearing = "clients.bramble.dev/clearing"

func (o *operator) Reconcile(ctx context.Context, r ctrl.Request) (ctrl.Result, error) {
	g := &Garden{}
	if err := o.Get(ctx, r.NamespacedName, g); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !g.DeletionTimestamp.IsZero() {
		if controllerutil.RemoveFinalizer(g, clearing) {
			o.mu.Lock()
			o.cleared = append(o.cleared, g.Name)
			o.mu.Unlock()
			return ctrl.Result{}, client.IgnoreNotFound(o.Update(ctx, g))
		}
		return ctrl.Result{}, nil
	}
	if controllerutil.AddFinalizer(g, clearing) {
		if err := o.Update(ctx, g); err != nil {
			return ctrl.Result{}, err
		}
	}
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: g.Namespace, Name: g.Name}}
	if _, err := controllerutil.CreateOrUpdate(ctx, o.Client, m, func() error {
		m.Data = map[string]string{"crop": g.Spec.Crop}
		return controllerutil.SetControllerReference(g, m, o.Scheme())
	}); err != nil {
		return ctrl.Result{}, err
	}
	if g.Status.Phase == g.Spec.Crop {
		return ctrl.Result{}, nil
	}
	g.Status.Phase = g.Spec.Crop
	return ctrl.Result{}, o.Status().Update(ctx, g)
}

// manager: an operator with leader election, through a restart of the server.
func manager(t *testing.T, s *server) {
	ctx, ns := t.Context(), s.namespace(t, "manager")
	m := must(ctrl.NewManager(s.config(t), ctrl.Options{Scheme: operatorScheme(t), Metrics: metricsserver.Options{BindAddress: "0"},
		Cache:          cache.Options{DefaultNamespaces: map[string]cache.Config{ns: {}}},
		LeaderElection: true, LeaderElectionID: "operator", LeaderElectionNamespace: ns, LeaderElectionReleaseOnCancel: true}))(t)
	o := &operator{Client: m.GetClient()}
	if err := ctrl.NewControllerManagedBy(m).For(&Garden{}).Owns(&corev1.ConfigMap{}).Complete(o); err != nil {
		t.Fatal(err)
	}
	running(t, m.Start)

	c := must(client.New(s.config(t), client.Options{Scheme: operatorScheme(t)}))(t)
	g := &Garden{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "kitchen"}, Spec: GardenSpec{Crop: "leek"}}
	if err := c.Create(ctx, g); err != nil {
		t.Fatal(err)
	}
	key := client.ObjectKeyFromObject(g)
	kept := func(crop string) {
		t.Helper()
		eventually(t, 30*time.Second, "the operator has made what "+crop+" needs", func(ctx context.Context) error {
			made := &corev1.ConfigMap{}
			if err := c.Get(ctx, key, made); err != nil {
				return err
			}
			if err := c.Get(ctx, key, g); err != nil {
				return err
			}
			if made.Data["crop"] != crop || g.Status.Phase != crop || !metav1.IsControlledBy(made, g) || !controllerutil.ContainsFinalizer(g, clearing) {
				return fmt.Errorf("%v of %+v", made.Data, g)
			}
			return nil
		})
	}
	kept("leek")
	// What the operator owns is made anew when another deletes it.
	if err := c.Delete(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "kitchen"}}); err != nil {
		t.Fatal(err)
	}
	kept("leek")

	s.stop()
	s.run()
	old := g.DeepCopyObject().(*Garden)
	g.Spec.Crop = "kale"
	if err := c.Patch(ctx, g, client.MergeFrom(old)); err != nil {
		t.Fatal(err)
	}
	kept("kale")

	if err := c.Delete(ctx, g); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "the garden is cleared and goes, and what it owns with it", func(ctx context.Context) error {
		if err := c.Get(ctx, key, &Garden{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the garden: %v", err)
		}
		if err := c.Get(ctx, key, &corev1.ConfigMap{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("its ConfigMap: %v", err)
		}
		return nil
	})
	o.mu.Lock()
	defer o.mu.Unlock()
	if fmt.Sprint(o.cleared) != "[kitchen]" {
		t.Errorf("cleared %v", o.cleared)
	}
}

// running runs what runs until it is stopped, until the end of the test.
func running(t *testing.T, run func(context.Context) error) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("ended with: %v", err)
		}
	})
}
