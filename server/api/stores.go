package api

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	serveroptions "k8s.io/apiserver/pkg/server/options"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"
	"k8s.io/kubernetes/pkg/controlplane"
	"k8s.io/kubernetes/pkg/kubeapiserver"

	"bramble.dev/server/store"
)

// root is the prefix of all keys in the store.
const root = "/registry"

// stores puts upstream's registries on our store. It is their RESTOptionsGetter.
type stores struct {
	db      *store.DB
	served  *serverstorage.ResourceConfig // which versions are on
	factory *serverstorage.DefaultStorageFactory
}

func newStores(db *store.DB) (*stores, error) {
	served := controlplane.DefaultAPIResourceConfigSource()
	config := kubeapiserver.NewStorageFactoryConfig()
	config.APIResourceConfig = served
	// Of etcd only the name is left: the options carry the prefix and the encoding.
	options := serveroptions.NewEtcdOptions(storagebackend.NewDefaultConfig(root, nil))
	options.DefaultStorageMediaType = runtime.ContentTypeProtobuf
	f, err := config.Complete(options).New()
	if err != nil {
		return nil, fmt.Errorf("storage encodings: %w", err)
	}
	return &stores{db: db, served: served, factory: f}, nil
}

// prefix is the store's key prefix of a resource, "/registry/deployments".
func (s *stores) prefix(gr schema.GroupResource) string {
	return root + "/" + strings.TrimPrefix(s.factory.ResourcePrefix(gr), "/")
}

// GetRESTOptions is called by each of upstream's registries.
func (s *stores) GetRESTOptions(gr schema.GroupResource, example runtime.Object) (generic.RESTOptions, error) {
	config, err := s.factory.NewConfig(gr, example)
	if err != nil {
		return generic.RESTOptions{}, err
	}
	return generic.RESTOptions{
		StorageConfig: config, ResourcePrefix: s.factory.ResourcePrefix(gr), EnableGarbageCollection: true, DeleteCollectionWorkers: 1,
		Decorator: func(config *storagebackend.ConfigForResource, prefix string, _ func(runtime.Object) (string, error),
			newObject, newList func() runtime.Object, _ storage.AttrFunc, _ storage.IndexerFuncs, _ *cache.Indexers,
		) (storage.Interface, factory.DestroyFunc, error) {
			return s.db.Storage(store.Resource{Codec: config.Codec, Prefix: prefix, New: newObject, NewList: newList, Volatile: volatileOf(gr)}), func() {}, nil
		},
	}, nil
}
