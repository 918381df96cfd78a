package customresources

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"

	"k8s.io/apiextensions-apiserver/pkg/apiserver"
	client "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset/typed/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/controller/apiapproval"
	"k8s.io/apiextensions-apiserver/pkg/controller/establish"
	"k8s.io/apiextensions-apiserver/pkg/controller/finalizer"
	"k8s.io/apiextensions-apiserver/pkg/controller/nonstructuralschema"
	"k8s.io/apiextensions-apiserver/pkg/controller/status"
	"k8s.io/klog/v2"
	"k8s.io/kube-openapi/pkg/validation/spec"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/cache"
)

// running is what serves custom resources while there are definitions.
type running struct {
	definitions *followed
	handler     http.Handler
	discovery   *discovery
	cancel      context.CancelFunc
	wait        sync.WaitGroup
}

// workers is how many definitions each controller takes care of at once.
const workers = 2

// start makes upstream's handler and controllers, and tells them of the definitions when all of them are made. Discovery listens
// after them, so that what it announces is served.
func (c *Config) start() (*running, error) {
	if c.Starting != nil {
		c.Starting()
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{definitions: c.follow(ctx), cancel: cancel}
	api, err := client.NewForConfig(c.Client)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("custom resources: %w", err)
	}
	establishing := establish.NewEstablishingController(r.definitions, api)
	// The two handlers of discovery that upstream wants are of types that it keeps to itself; requests for them never reach this
	// handler. The schemas are those of objects' metadata, which upstream adds to each definition by itself.
	handler, err := apiserver.NewCustomResourceDefinitionHandler(nil, nil, r.definitions, c.NotFound,
		objectOptions{encoded{c.Options, objectCodec(), nil}, r.definitions.webhook}, c.Admit, establishing, c.Services, c.Credentials,
		1, c.Authorizer, c.RequestTimeout, c.MinWatch, map[string]*spec.Schema{}, c.MaxBodyBytes)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("custom resources: %w", err)
	}
	r.handler = handler
	naming := status.NewNamingConditionController(klog.Background(), r.definitions, api)
	structure := nonstructuralschema.NewConditionController(r.definitions, api)
	approval := apiapproval.NewKubernetesAPIApprovalPolicyConformantConditionController(r.definitions, api)
	cleanup := finalizer.NewCRDFinalizer(r.definitions, api, handler)
	r.discovery = newDiscovery(c, r.definitions)
	if _, err := r.definitions.Informer().AddEventHandler(r.discovery); err != nil {
		cancel()
		return nil, fmt.Errorf("custom resources: %w", err)
	}
	// Upstream's handler asks for a definition to be established when it changes, which one whose names were accepted just before a
	// crash does not do any more.
	if _, err := r.definitions.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) { establishing.QueueCRD(o.(*apiextensionsv1.CustomResourceDefinition).Name, 0) },
	}); err != nil {
		cancel()
		return nil, fmt.Errorf("custom resources: %w", err)
	}
	changed := make(chan struct{}, 1)
	note := func(any) {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	if _, err := r.definitions.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: note, UpdateFunc: func(_, o any) { note(o) }, DeleteFunc: note,
	}); err != nil {
		cancel()
		return nil, fmt.Errorf("custom resources: %w", err)
	}
	r.definitions.factory.Start(nil)
	for _, run := range []func(){
		func() { naming.RunWithContext(ctx) },
		func() { establishing.RunWithContext(ctx) },
		func() { structure.RunWithContext(workers, ctx) },
		func() { approval.RunWithContext(workers, ctx) },
		func() { cleanup.RunWithContext(workers, ctx) },
		func() { r.register(ctx, c, changed) },
	} {
		r.wait.Go(run)
	}
	return r, nil
}

// register keeps the APIServices of all versions that are to be served, established or not: as upstream has it.
func (r *running) register(ctx context.Context, c *Config, changed <-chan struct{}) {
	if r.definitions.factory.Current(ctx, &apiextensionsv1.CustomResourceDefinition{}) != nil {
		return // it was stopped before it knew a definition
	}
	c.Register(ctx, func() []schema.GroupVersion {
		served := map[schema.GroupVersion]bool{}
		for _, crd := range r.definitions.all() {
			for _, v := range crd.Spec.Versions {
				if v.Served && !c.BuiltIn(crd.Spec.Group) {
					served[schema.GroupVersion{Group: crd.Spec.Group, Version: v.Name}] = true
				}
			}
		}
		return slices.Collect(maps.Keys(served))
	}, changed)
}

// Stop ends the controllers and takes back what discovery announced. Requests under way are answered.
func (r *running) Stop() {
	r.cancel()
	r.wait.Wait()
	r.definitions.factory.Wait()
	r.discovery.withdraw()
}
