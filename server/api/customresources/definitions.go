package customresources

import (
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1beta1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver"
	"k8s.io/apiextensions-apiserver/pkg/registry/customresourcedefinition"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
)

// Resource is that of the definitions.
var Resource = schema.GroupResource{Group: apiextensionsv1.GroupName, Resource: "customresourcedefinitions"}

// Definitions makes the storages of the group apiextensions.k8s.io.
type Definitions struct{}

// NewRESTStorage is what every provider of a group has. Definitions are written in the older of their two versions, as upstream has
// it: where all versions of a resource share a schema, that form says it once (kubernetes/kubernetes#82292).
func (Definitions) NewRESTStorage(_ serverstorage.APIResourceConfigSource, g generic.RESTOptionsGetter) (genericapiserver.APIGroupInfo, error) {
	info := genericapiserver.NewDefaultAPIGroupInfo(apiextensionsv1.GroupName, apiserver.Scheme, metav1.ParameterCodec, apiserver.Codecs)
	definitions, err := customresourcedefinition.NewREST(apiserver.Scheme, encoded{
		g, apiserver.Codecs.LegacyCodec(v1beta1.SchemeGroupVersion, apiextensionsv1.SchemeGroupVersion),
		runtime.NewMultiGroupVersioner(v1beta1.SchemeGroupVersion, schema.GroupKind{Group: apiextensionsv1.GroupName}),
	})
	if err != nil {
		return info, err
	}
	info.VersionedResourcesStorageMap[apiextensionsv1.SchemeGroupVersion.Version] = map[string]rest.Storage{
		Resource.Resource:             definitions,
		Resource.Resource + "/status": customresourcedefinition.NewStatusREST(apiserver.Scheme, definitions),
	}
	return info, nil
}

// encoded gives the options of others with an encoding of its own.
type encoded struct {
	generic.RESTOptionsGetter
	codec   runtime.Codec
	version runtime.GroupVersioner
}

func (e encoded) GetRESTOptions(gr schema.GroupResource, example runtime.Object) (generic.RESTOptions, error) {
	o, err := e.RESTOptionsGetter.GetRESTOptions(gr, example)
	if err == nil {
		o.StorageConfig.Codec, o.StorageConfig.EncodeVersioner = e.codec, e.version
	}
	return o, err
}
