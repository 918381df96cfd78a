package api

import (
	"crypto/aes"
	"crypto/sha256"
	"encoding/hex"
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
	"k8s.io/apiserver/pkg/storage/value"
	aestransformer "k8s.io/apiserver/pkg/storage/value/encrypt/aes"
	plaintext "k8s.io/apiserver/pkg/storage/value/encrypt/identity"
	"k8s.io/client-go/tools/cache"
	"k8s.io/kubernetes/pkg/controlplane"
	"k8s.io/kubernetes/pkg/kubeapiserver"

	"bramble.dev/server/api/aggregator"
	"bramble.dev/server/api/customresources"
	"bramble.dev/server/api/fairness"
	"bramble.dev/server/store"
)

// root is the prefix of all keys in the store.
const root = "/registry"

// stores puts upstream's registries on our store. It is their RESTOptionsGetter.
type stores struct {
	db      store.Store
	served  *serverstorage.ResourceConfig // which versions are on
	secrets value.Transformer
	factory *serverstorage.DefaultStorageFactory
}

func newStores(db store.Store, secretsKeys [][]byte) (*stores, error) {
	secrets, err := encryption(secretsKeys)
	if err != nil {
		return nil, err
	}
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
	return &stores{db: db, served: served, factory: f, secrets: secrets}, nil
}

// encryption is upstream's AES-GCM form, by which another API server with the same keys could read the store. The first key is what
// is written with. What was written before encryption was on is read as it is.
func encryption(keys [][]byte) (value.Transformer, error) {
	var all []value.PrefixTransformer
	for _, key := range keys {
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, fmt.Errorf("encryption of Secrets: %w", err)
		}
		gcm, err := aestransformer.NewGCMTransformer(block)
		if err != nil {
			return nil, fmt.Errorf("encryption of Secrets: %w", err)
		}
		sum := sha256.Sum256(key)
		all = append(all, value.PrefixTransformer{Prefix: []byte("k8s:enc:aesgcm:v1:" + hex.EncodeToString(sum[:4]) + ":"), Transformer: gcm})
		// Before keys had names of their own, the only one had this.
		all = append(all, value.PrefixTransformer{Prefix: []byte("k8s:enc:aesgcm:v1:bramble:"), Transformer: gcm})
	}
	all = append(all, value.PrefixTransformer{Prefix: []byte{}, Transformer: plaintext.NewEncryptCheckTransformer()})
	return value.NewPrefixTransformers(nil, all...), nil
}

// transformer is how a resource is written to memory and disk; nil: as it is.
func (s *stores) transformer(gr schema.GroupResource) value.Transformer {
	if gr == (schema.GroupResource{Resource: "secrets"}) {
		return s.secrets
	}
	return nil
}

// prefix is the store's key prefix of a resource, "/registry/deployments".
func (s *stores) prefix(gr schema.GroupResource) string {
	if defined(gr) || gr == aggregator.Resource { // as upstream's aggregator has it
		return definedPrefix(gr)
	}
	return root + "/" + strings.TrimPrefix(s.factory.ResourcePrefix(gr), "/")
}

// size is what the store holds of a resource.
func (s *stores) size(gr schema.GroupResource) (objects, bytes int64) { return s.db.Size(s.prefix(gr)) }

// defined tells custom resources and their definitions from the kinds that upstream's storage factory knows.
func defined(gr schema.GroupResource) bool {
	return gr == customresources.Resource || !builtIn(gr.Group)
}

// definedPrefix is below the group, so that no name that somebody chooses is that of another resource.
func definedPrefix(gr schema.GroupResource) string { return root + "/" + gr.Group + "/" + gr.Resource }

// GetRESTOptions is called by each of upstream's registries.
func (s *stores) GetRESTOptions(gr schema.GroupResource, example runtime.Object) (generic.RESTOptions, error) {
	if defined(gr) {
		return definedStores{s}.GetRESTOptions(gr, example)
	}
	config, err := s.factory.NewConfig(gr, example)
	if err != nil {
		return generic.RESTOptions{}, err
	}
	return s.options(gr, config, s.prefix(gr)), nil
}

// definedStores is the RESTOptionsGetter of custom resources, whatever group they claim. Their encoding comes from their definition.
type definedStores struct{ *stores }

func (s definedStores) GetRESTOptions(gr schema.GroupResource, _ runtime.Object) (generic.RESTOptions, error) {
	return s.options(gr, storagebackend.NewDefaultConfig(root, nil).ForResource(gr), definedPrefix(gr)), nil
}

func (s *stores) options(gr schema.GroupResource, config *storagebackend.ConfigForResource, prefix string) generic.RESTOptions {
	return generic.RESTOptions{
		StorageConfig: config, ResourcePrefix: strings.TrimPrefix(prefix, root+"/"), EnableGarbageCollection: true, DeleteCollectionWorkers: 1,
		Decorator: func(config *storagebackend.ConfigForResource, prefix string, _ func(runtime.Object) (string, error),
			newObject, _ func() runtime.Object, _ storage.AttrFunc, _ storage.IndexerFuncs, _ *cache.Indexers,
		) (storage.Interface, factory.DestroyFunc, error) {
			return s.db.Storage(store.Resource{Codec: config.Codec, Prefix: prefix, New: newObject, Volatile: volatileOf(gr), Transformer: s.transformer(gr), Started: fairness.WatchStarted}), func() {}, nil
		},
	}
}
