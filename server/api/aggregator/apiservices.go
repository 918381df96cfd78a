package aggregator

import (
	"context"
	"log/slog"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	"k8s.io/client-go/tools/cache"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/install"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	registry "k8s.io/kube-aggregator/pkg/registry/apiservice/etcd"
	"k8s.io/kubernetes/pkg/api/legacyscheme"

	"bramble.dev/server/api/informer"
	"bramble.dev/server/store"
)

// GroupName is the group of APIServices.
const GroupName = apiregistration.GroupName

// Resource is that of APIServices.
var Resource = schema.GroupResource{Group: GroupName, Resource: "apiservices"}

// The kind joins the scheme of all that are built in, as theirs do: from here on it is read and written like them.
func init() { install.Install(legacyscheme.Scheme) }

// follow gives the informer of APIServices, which lie in the store under prefix, and the factory that it ends with.
func follow(ctx context.Context, db store.Store, prefix string, log *slog.Logger, options ...informer.Option) (*informer.Factory, cache.SharedIndexInformer) {
	f := informer.NewFactory(ctx, db, legacyscheme.Scheme, func(schema.GroupResource) string { return prefix }, log, options...)
	return f, f.InformerFor(&apiregistrationv1.APIService{}, nil)
}

// Storages makes the storages of the group apiregistration.k8s.io.
type Storages struct{}

// NewRESTStorage is what every provider of a group has.
func (Storages) NewRESTStorage(_ serverstorage.APIResourceConfigSource, g generic.RESTOptionsGetter) (genericapiserver.APIGroupInfo, error) {
	info := genericapiserver.NewDefaultAPIGroupInfo(GroupName, legacyscheme.Scheme, legacyscheme.ParameterCodec, legacyscheme.Codecs)
	services := registry.NewREST(legacyscheme.Scheme, g)
	info.VersionedResourcesStorageMap[apiregistrationv1.SchemeGroupVersion.Version] = map[string]rest.Storage{
		Resource.Resource:             services,
		Resource.Resource + "/status": registry.NewStatusREST(legacyscheme.Scheme, services),
	}
	return info, nil
}
