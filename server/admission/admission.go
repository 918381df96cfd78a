// Package admission is the list of upstream's admission plugins that the API runs, in order, and what they are given to work with.
//
// Invariant: a plugin reads through the informers of the process, never through a socket, and starts nothing until it is needed.
//
//	admit, err := admission.New(admission.Config{Client: client, Informers: informers, Authorizer: authorizer, Done: ctx.Done()})
//	go admit.Run(ctx)
//
// Tests: server/api/admission_test.go, server/api/webhooks_test.go
package admission

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle"
	mutatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/mutating"
	validatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/resourcequota"
	webhookinit "k8s.io/apiserver/pkg/admission/plugin/webhook/initializer"
	mutatingwebhook "k8s.io/apiserver/pkg/admission/plugin/webhook/mutating"
	validatingwebhook "k8s.io/apiserver/pkg/admission/plugin/webhook/validating"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/server/storage"
	"k8s.io/apiserver/pkg/util/compatibility"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	controlplane "k8s.io/kubernetes/pkg/controlplane/apiserver/admission"
	"k8s.io/kubernetes/pkg/kubeapiserver/admission/exclusion"
	quotainstall "k8s.io/kubernetes/pkg/quota/v1/install"
	certapproval "k8s.io/kubernetes/plugin/pkg/admission/certificates/approval"
	"k8s.io/kubernetes/plugin/pkg/admission/certificates/ctbattest"
	certsigning "k8s.io/kubernetes/plugin/pkg/admission/certificates/signing"
	certsubject "k8s.io/kubernetes/plugin/pkg/admission/certificates/subjectrestriction"
	"k8s.io/kubernetes/plugin/pkg/admission/limitranger"
	"k8s.io/kubernetes/plugin/pkg/admission/network/defaultingressclass"
	"k8s.io/kubernetes/plugin/pkg/admission/noderestriction"
	"k8s.io/kubernetes/plugin/pkg/admission/podresize"
	"k8s.io/kubernetes/plugin/pkg/admission/podtopologylabels"
	"k8s.io/kubernetes/plugin/pkg/admission/priority"
	"k8s.io/kubernetes/plugin/pkg/admission/runtimeclass"
	"k8s.io/kubernetes/plugin/pkg/admission/security/podsecurity"
	"k8s.io/kubernetes/plugin/pkg/admission/serviceaccount"
	"k8s.io/kubernetes/plugin/pkg/admission/storage/persistentvolume/resize"
	"k8s.io/kubernetes/plugin/pkg/admission/storage/storageclass/setdefault"
	"k8s.io/kubernetes/plugin/pkg/admission/storage/storageobjectinuseprotection"

	"bramble.dev/server/ondemand"
	"bramble.dev/server/store"
)

type plugin struct {
	name     string
	register func(*admission.Plugins)
	// asks is the resource without whose objects the plugin has nothing to do: it runs while there is one. Empty: always.
	asks schema.GroupResource
	// presently: it knows resources by their present group alone.
	presently bool
	// beside starts what else is to run while the plugin does.
	beside func(context.Context, *Config, Informers, meta.RESTMapper, *running) error
}

// plugins run in this order, which is upstream's. Upstream's defaults that are left out, and why:
//   - DefaultTolerationSeconds: it has pods evicted five minutes after their node was last heard of, and here a node that is
//     away is not dead: it keeps its pods running, and they are its own until somebody says otherwise;
//   - TaintNodesByCondition: a node's taints follow its conditions in the node controller, from the first status on;
//   - NodeDeclaredFeatureValidator: it refuses changes of a pod that its node has not declared to know; agents declare nothing, and what
//     they cannot do they say in the pod's status;
//   - PodGroupProtection: it serves a kind that is not on by default.
var plugins = []plugin{
	{name: lifecycle.PluginName, register: lifecycle.Register},
	{name: limitranger.PluginName, register: limitranger.Register},
	{name: serviceaccount.PluginName, register: serviceaccount.Register},
	{name: noderestriction.PluginName, register: noderestriction.Register},
	{name: podsecurity.PluginName, register: podsecurity.Register, presently: true},
	{name: priority.PluginName, register: priority.Register},
	{name: setdefault.PluginName, register: setdefault.Register},
	{name: storageobjectinuseprotection.PluginName, register: storageobjectinuseprotection.Register},
	{name: resize.PluginName, register: resize.Register},
	{name: runtimeclass.PluginName, register: runtimeclass.Register},
	{name: certapproval.PluginName, register: certapproval.Register},
	{name: certsigning.PluginName, register: certsigning.Register},
	{name: ctbattest.PluginName, register: ctbattest.Register},
	{name: certsubject.PluginName, register: certsubject.Register},
	{name: defaultingressclass.PluginName, register: defaultingressclass.Register, presently: true},
	{name: podtopologylabels.PluginName, register: podtopologylabels.Register},
	{name: podresize.PluginName, register: podresize.Register},
	{name: mutatingpolicy.PluginName, register: mutatingpolicy.Register, asks: resource("mutatingadmissionpolicies")},
	{name: mutatingwebhook.PluginName, register: mutatingwebhook.Register, asks: resource("mutatingwebhookconfigurations")},
	{name: validatingpolicy.PluginName, register: validatingpolicy.Register, asks: resource("validatingadmissionpolicies"), beside: checkPolicies},
	{name: validatingwebhook.PluginName, register: validatingwebhook.Register, asks: resource("validatingwebhookconfigurations")},
	{name: resourcequota.PluginName, register: resourcequota.Register, presently: true},
}

// Config is what the plugins work with.
type Config struct {
	Client     kubernetes.Interface
	Dynamic    dynamic.Interface // for the parameters of policies
	Informers  informers.SharedInformerFactory
	Authorizer authorizer.Authorizer
	Served     storage.APIResourceConfigSource // which resources the API serves
	Present    map[schema.GroupResource]string // the present groups of the resources that an old group repeats
	Webhooks   Webhooks
	Done       <-chan struct{} // closed when the server ends

	Store  store.Store
	Prefix func(schema.GroupResource) string   // where the objects of a resource lie in the store
	Read   func(ctx context.Context) Informers // for what runs on demand, until ctx is done
	Logger *slog.Logger
}

// Webhooks is how the servers of webhooks are reached.
type Webhooks struct {
	Services    webhook.ServiceResolver                   // where a Service of the cluster is served
	Credentials webhook.AuthenticationInfoResolverWrapper // with which it is asked, and the way to it
}

// Admission is the chain of plugins.
type Admission struct {
	// Chain asks the plugins in their order. It is a field, not embedded: handlers look for methods that the type of the field hides.
	Chain admission.Interface
	c     Config
	parts []*ondemand.Part[*running]
}

// New makes the chain of plugins.
func New(c Config) (*Admission, error) {
	a := &Admission{c: c}
	all := admission.NewPlugins()
	var names []string
	wrap := map[string]bool{}
	for _, p := range plugins {
		if p.asks.Empty() {
			p.register(all)
		} else {
			a.onDemand(p)(all)
		}
		names = append(names, p.name)
		wrap[p.name] = p.presently
	}
	limits, err := quotainstall.NewQuotaConfigurationForAdmission(c.Informers, c.Served)
	if err != nil {
		return nil, fmt.Errorf("admission: quota: %w", err)
	}
	configuration, err := admission.ReadAdmissionConfiguration(names, "", runtime.NewScheme())
	if err != nil {
		return nil, fmt.Errorf("admission: configuration: %w", err)
	}
	a.Chain, err = all.NewFromPlugins(names, configuration, c.initializers(c.Informers, limits, nil, c.Done), admission.DecoratorFunc(func(h admission.Interface, name string) admission.Interface {
		if wrap[name] {
			return presently{h, c.Present}
		}
		return h
	}))
	if err != nil {
		return nil, fmt.Errorf("admission: %w", err)
	}
	return a, nil
}

// initializers give a plugin what it wants to work with.
func (c *Config) initializers(f informers.SharedInformerFactory, limits quota.Configuration, kinds meta.RESTMapper, done <-chan struct{}) admission.PluginInitializers {
	return admission.PluginInitializers{
		initializer.New(c.Client, c.Dynamic, f, c.Authorizer, utilfeature.DefaultFeatureGate, compatibility.DefaultBuildEffectiveVersion(), done, kinds),
		controlplane.NewPluginInitializer(limits, exclusion.Excluded()),
		webhookinit.NewPluginInitializer(c.Webhooks.Credentials, c.Webhooks.Services),
	}
}

// Run starts what asks webhooks and policies with the first of each, and stops it after the last, until ctx is done. A request does
// not wait for it: it starts what it needs by itself.
func (a *Admission) Run(ctx context.Context) {
	var wait sync.WaitGroup
	for _, p := range a.parts {
		wait.Go(func() { p.Run(ctx) })
	}
	wait.Wait()
}

// Close stops everything for good.
func (a *Admission) Close() {
	for _, p := range a.parts {
		p.Close()
	}
}
