// Package admission is the list of upstream's admission plugins that the API runs, in order, and what they are given to work with.
//
// Invariant: a plugin reads through the informers of the process, never through a socket, and starts nothing until it is needed.
//
//	admit, err := admission.New(admission.Config{Client: client, Informers: informers, Authorizer: authorizer, Done: ctx.Done()})
package admission

import (
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle"
	"k8s.io/apiserver/pkg/admission/plugin/resourcequota"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/server/storage"
	"k8s.io/apiserver/pkg/util/compatibility"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	controlplane "k8s.io/kubernetes/pkg/controlplane/apiserver/admission"
	"k8s.io/kubernetes/pkg/kubeapiserver/admission/exclusion"
	quotainstall "k8s.io/kubernetes/pkg/quota/v1/install"
	certapproval "k8s.io/kubernetes/plugin/pkg/admission/certificates/approval"
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
)

type plugin struct {
	name     string
	register func(*admission.Plugins)
}

// plugins run in this order, which is upstream's. Upstream's defaults that are left out, and why:
//   - DefaultTolerationSeconds: it has pods evicted five minutes after their node was last heard of, and here a node that is
//     away is not dead: it keeps its pods running, and they are its own until somebody says otherwise;
//   - TaintNodesByCondition: a node's taints follow its conditions in the node controller, from the first status on;
//   - ClusterTrustBundleAttest, NodeDeclaredFeatureValidator, PodGroupProtection: they serve kinds that are not on by default;
//   - webhooks and policies: they are not asked yet, although the API keeps their objects. They go before ResourceQuota, which must be last.
var plugins = []plugin{
	{lifecycle.PluginName, lifecycle.Register},
	{limitranger.PluginName, limitranger.Register},
	{serviceaccount.PluginName, serviceaccount.Register},
	{noderestriction.PluginName, noderestriction.Register},
	{podsecurity.PluginName, podsecurity.Register},
	{priority.PluginName, priority.Register},
	{setdefault.PluginName, setdefault.Register},
	{storageobjectinuseprotection.PluginName, storageobjectinuseprotection.Register},
	{resize.PluginName, resize.Register},
	{runtimeclass.PluginName, runtimeclass.Register},
	{certapproval.PluginName, certapproval.Register},
	{certsigning.PluginName, certsigning.Register},
	{certsubject.PluginName, certsubject.Register},
	{defaultingressclass.PluginName, defaultingressclass.Register},
	{podtopologylabels.PluginName, podtopologylabels.Register},
	{podresize.PluginName, podresize.Register},
	{resourcequota.PluginName, resourcequota.Register},
}

// Config is what the plugins work with.
type Config struct {
	Client     kubernetes.Interface
	Informers  informers.SharedInformerFactory
	Authorizer authorizer.Authorizer
	Served     storage.APIResourceConfigSource // which resources the API serves
	Done       <-chan struct{}                 // closed when the server ends
}

// New makes the chain of plugins.
func New(c Config) (admission.Interface, error) {
	all := admission.NewPlugins()
	var names []string
	for _, p := range plugins {
		p.register(all)
		names = append(names, p.name)
	}
	quota, err := quotainstall.NewQuotaConfigurationForAdmission(c.Informers, c.Served)
	if err != nil {
		return nil, fmt.Errorf("admission: quota: %w", err)
	}
	configuration, err := admission.ReadAdmissionConfiguration(names, "", runtime.NewScheme())
	if err != nil {
		return nil, fmt.Errorf("admission: configuration: %w", err)
	}
	chain, err := all.NewFromPlugins(names, configuration, admission.PluginInitializers{
		initializer.New(c.Client, nil, c.Informers, c.Authorizer, utilfeature.DefaultFeatureGate, compatibility.DefaultBuildEffectiveVersion(), c.Done, nil),
		controlplane.NewPluginInitializer(quota, exclusion.Excluded()),
	}, nil)
	if err != nil {
		return nil, fmt.Errorf("admission: %w", err)
	}
	return chain, nil
}
