package api

import (
	"errors"
	"fmt"

	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	api "k8s.io/kubernetes/pkg/apis/core"
	kubeletclient "k8s.io/kubernetes/pkg/kubelet/client"
	"k8s.io/kubernetes/pkg/registry/core/componentstatus"
	endpointsstore "k8s.io/kubernetes/pkg/registry/core/endpoint/storage"
	limitrangestore "k8s.io/kubernetes/pkg/registry/core/limitrange/storage"
	nodestore "k8s.io/kubernetes/pkg/registry/core/node/storage"
	pvstore "k8s.io/kubernetes/pkg/registry/core/persistentvolume/storage"
	pvcstore "k8s.io/kubernetes/pkg/registry/core/persistentvolumeclaim/storage"
	podstore "k8s.io/kubernetes/pkg/registry/core/pod/storage"
	podtemplatestore "k8s.io/kubernetes/pkg/registry/core/podtemplate/storage"
	controllerstore "k8s.io/kubernetes/pkg/registry/core/replicationcontroller/storage"
	corerest "k8s.io/kubernetes/pkg/registry/core/rest"
	"k8s.io/kubernetes/pkg/registry/core/service/ipallocator"
	servicestore "k8s.io/kubernetes/pkg/registry/core/service/storage"
	serviceaccountstore "k8s.io/kubernetes/pkg/registry/core/serviceaccount/storage"
)

// core makes the storages of the group with no name. Upstream's provider does the same, but makes allocators that reach for etcd
// and a kubelet client that dials nodes by their address.
type core struct{ *wiring }

func (c core) NewRESTStorage(served serverstorage.APIResourceConfigSource, g generic.RESTOptionsGetter) (genericapiserver.APIGroupInfo, error) {
	base := corerest.GenericConfig{
		StorageFactory: c.stores.factory, EventTTL: eventLife, ServiceAccountIssuer: c.tokens, APIAudiences: audiences, Informers: c.informers,
	}
	info, err := base.NewRESTStorage(served, g)
	if err != nil {
		return info, err
	}
	storages := info.VersionedResourcesStorageMap["v1"]
	var failed []error
	note := func(err error) { failed = append(failed, err) }

	nodes, err := nodestore.NewStorage(g, kubeletclient.KubeletClientConfig{Port: kubeletPort}, c.podTransport)
	note(err)
	pods, err := podstore.NewStorage(g, c.kubelets, c.podTransport, c.client.PolicyV1(), c.authorizer)
	note(err)
	templates, err := podtemplatestore.NewREST(g)
	note(err)
	controllers, err := controllerstore.NewStorage(g)
	note(err)
	limits, err := limitrangestore.NewREST(g)
	note(err)
	volumes, volumeStatus, err := pvstore.NewREST(g)
	note(err)
	claims, claimStatus, err := pvcstore.NewREST(g)
	note(err)
	endpoints, err := endpointsstore.NewREST(g)
	note(err)
	if err := errors.Join(failed...); err != nil {
		return info, fmt.Errorf("core storages: %w", err)
	}

	family := c.clusterIPs.IPFamily()
	services, serviceStatus, serviceProxy, err := servicestore.NewREST(g, family, map[api.IPFamily]ipallocator.Interface{family: c.clusterIPs},
		c.nodePorts, endpointSlices{c.informers}, pods.Pod, c.podTransport)
	if err != nil {
		return info, fmt.Errorf("services: %w", err)
	}
	hooks := c.client.AdmissionregistrationV1()
	accounts, err := serviceaccountstore.NewREST(g, c.tokens, audiences, c.authorizer, 0, pods.Pod.Store, storages["secrets"].(rest.Getter),
		nodes.Node.Store, hooks.ValidatingWebhookConfigurations(), hooks.MutatingWebhookConfigurations(), false, 0)
	if err != nil {
		return info, fmt.Errorf("serviceaccounts: %w", err)
	}

	for path, s := range map[string]rest.Storage{
		"pods": pods.Pod, "pods/status": pods.Status, "pods/binding": pods.Binding, "pods/eviction": pods.Eviction,
		"pods/ephemeralcontainers": pods.EphemeralContainers, "pods/resize": pods.Resize, "bindings": pods.LegacyBinding,
		"pods/log": pods.Log, "pods/exec": pods.Exec, "pods/attach": pods.Attach, "pods/portforward": pods.PortForward, "pods/proxy": pods.Proxy,
		"nodes": nodes.Node, "nodes/status": nodes.Status, "nodes/proxy": nodeProxy{ProxyREST: nodes.Proxy, kubelets: c.kubelets},
		"services": services, "services/status": serviceStatus, "services/proxy": serviceProxy,
		"endpoints": endpoints, "podtemplates": templates, "limitranges": limits,
		"replicationcontrollers": controllers.Controller, "replicationcontrollers/status": controllers.Status, "replicationcontrollers/scale": controllers.Scale,
		"serviceaccounts": accounts, "serviceaccounts/token": accounts.Token,
		"persistentvolumes": volumes, "persistentvolumes/status": volumeStatus,
		"persistentvolumeclaims": claims, "persistentvolumeclaims/status": claimStatus,
		"componentstatuses": componentstatus.NewStorage(c.stores.components),
	} {
		storages[path] = s
	}
	return info, nil
}
