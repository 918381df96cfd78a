package admission

import (
	"context"
	"fmt"
	"io"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/cel/openapi/resolver"
	"k8s.io/client-go/informers"
	"k8s.io/kubernetes/pkg/controller/validatingadmissionpolicystatus"

	"bramble.dev/server/ondemand"
)

// asked is a plugin that asks webhooks or policies which somebody wrote into the API. It exists while there is one.
type asked struct {
	part *ondemand.Part[*running]
}

var (
	_ admission.MutationInterface   = asked{}
	_ admission.ValidationInterface = asked{}
)

// onDemand gives the plugins a placeholder for one of them, which runs while there are objects of a resource.
func (a *Admission) onDemand(p plugin) func(*admission.Plugins) {
	part := &ondemand.Part[*running]{
		Store: a.c.Store, Prefix: a.c.Prefix(p.asks), Start: func() (*running, error) { return a.c.start(p) },
		Failed: func(err error) {
			a.c.Logger.Error("following what admission asks failed", "plugin", p.name, "err", err)
		},
	}
	a.parts = append(a.parts, part)
	return func(all *admission.Plugins) {
		all.Register(p.name, func(io.Reader) (admission.Interface, error) { return asked{part}, nil })
	}
}

func (a asked) Handles(admission.Operation) bool { return true } // the plugin says it by itself

func (a asked) Admit(ctx context.Context, attributes admission.Attributes, o admission.ObjectInterfaces) error {
	r, err := a.running(attributes)
	if r == nil || err != nil {
		return err
	}
	if m, ok := r.plugin.(admission.MutationInterface); ok {
		return m.Admit(ctx, attributes, o)
	}
	return nil
}

func (a asked) Validate(ctx context.Context, attributes admission.Attributes, o admission.ObjectInterfaces) error {
	r, err := a.running(attributes)
	if r == nil || err != nil {
		return err
	}
	if v, ok := r.plugin.(admission.ValidationInterface); ok {
		return v.Validate(ctx, attributes, o)
	}
	return nil
}

// running gives what is to be asked about a request, nil if there is nothing.
func (a asked) running(attributes admission.Attributes) (*running, error) {
	r, ok, err := a.part.Running()
	switch {
	case err != nil:
		return nil, admission.NewForbidden(attributes, err)
	case !ok || !r.plugin.Handles(attributes.GetOperation()):
		return nil, nil
	}
	return r, nil
}

// running is a plugin with what it reads.
type running struct {
	plugin admission.Interface
	cancel context.CancelFunc
	wait   sync.WaitGroup
	read   interface{ Wait() } // what the plugin's informers end with
}

// Informers are those of one plugin: they end with a context, and Wait returns after that.
type Informers interface {
	informers.SharedInformerFactory
	Wait()
}

// start makes one of upstream's plugins, bare: one within a chain of its own would be asked again by that chain after it has changed
// an object, and by the whole one too.
func (c *Config) start(p plugin) (*running, error) {
	ctx, cancel := context.WithCancel(context.Background())
	informers := c.Read(ctx)
	all := admission.NewPlugins()
	p.register(all)
	mapper := kinds(c.Client.Discovery())
	made, err := all.InitPlugin(p.name, nil, c.initializers(informers, nil, mapper, ctx.Done()))
	r := &running{plugin: made, cancel: cancel, read: informers}
	if err == nil && p.beside != nil {
		err = p.beside(ctx, c, informers, mapper, r)
	}
	if err != nil {
		r.Stop()
		return nil, fmt.Errorf("admission: %s: %w", p.name, err)
	}
	return r, nil
}

// Stop ends what the plugin has started. Requests that it was asked about are answered.
func (r *running) Stop() {
	r.cancel()
	r.wait.Wait()
	r.read.Wait()
}

// checkPolicies runs upstream's controller that looks for mistakes of types in policies, and says so in their status.
func checkPolicies(ctx context.Context, c *Config, f Informers, mapper meta.RESTMapper, r *running) error {
	checker := &validating.TypeChecker{SchemaResolver: &resolver.ClientDiscoveryResolver{Discovery: c.Client.Discovery()}, RestMapper: mapper}
	controller, err := validatingadmissionpolicystatus.NewController(f.Admissionregistration().V1().ValidatingAdmissionPolicies(),
		c.Client.AdmissionregistrationV1().ValidatingAdmissionPolicies(), checker)
	if err != nil {
		return err
	}
	r.wait.Go(func() { controller.Run(ctx, 1) })
	return nil
}

func resource(name string) schema.GroupResource {
	return schema.GroupResource{Group: "admissionregistration.k8s.io", Resource: name}
}
