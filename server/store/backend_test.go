package store_test

import (
	"context"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/apimachinery/pkg/api/apitesting"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apiserver/pkg/apis/example"
	examplev1 "k8s.io/apiserver/pkg/apis/example/v1"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/etcd3"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
	"k8s.io/apiserver/pkg/storage/value"
	"k8s.io/utils/clock"

	"bramble.dev/server/store"
	shared "bramble.dev/server/store/etcd"
	"bramble.dev/test/etcd"
)

var (
	scheme = runtime.NewScheme()
	codecs = serializer.NewCodecFactory(scheme)
	codec  = apitesting.TestCodec(codecs, examplev1.SchemeGroupVersion)
)

func init() {
	metav1.AddToGroupVersion(scheme, metav1.SchemeGroupVersion)
	utilruntime.Must(example.AddToScheme(scheme))
	utilruntime.Must(examplev1.AddToScheme(scheme))
}

func newPod() runtime.Object     { return &example.Pod{} }
func newPodList() runtime.Object { return &example.PodList{} }

// backend is one implementation of storage.Interface, fresh for a test, with what upstream's tests do to it from the
// side.
type backend struct {
	storage.Interface
	transformer *swap
	codec       *failingCodec
	compact     storagetesting.Compaction
	increaseRV  storagetesting.IncreaseRVFunc
	stored      func(ctx context.Context, key string) ([]byte, error) // as it lies on disk; key without the root
	cached      bool                                                  // bookmarks are sent, as upstream's watch cache does
	behind      bool                                                  // a list at revision 0 may be, as in upstream's watch cache
}

const testPrefix = "test!"

// backends are what the contract is tested on: each prepares itself for a suite, and then opens one for each test.
var backends = map[string]func(suite *testing.T) func(t *testing.T) *backend{
	"sqlite": func(*testing.T) func(*testing.T) *backend { return sqliteBackend },
	"etcd":   etcdBackends(etcdBackend),
	"shared": etcdBackends(sharedBackend),
}

func parts() (*swap, *failingCodec) {
	s := &swap{}
	s.set(storagetesting.NewPrefixTransformer([]byte(testPrefix), false))
	return s, &failingCodec{Codec: codec}
}

func openDB(t testing.TB, change ...func(*store.Options)) *store.DB {
	t.Helper()
	o := store.Options{
		Path:             filepath.Join(t.TempDir(), "state.db"),
		BookmarkInterval: time.Second,
		FirstRevision:    1, // upstream's tests watch from there
		Fatal:            func(err error) { t.Errorf("fatal: %v", err) },
	}
	for _, c := range change {
		c(&o)
	}
	db, err := store.Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func sqliteBackend(t *testing.T) *backend {
	db := openDB(t)
	transformer, c := parts()
	return &backend{
		Interface:   db.Storage(store.Resource{Prefix: "/pods", Codec: c, New: newPod, Transformer: transformer}),
		transformer: transformer,
		codec:       c,
		compact: func(ctx context.Context, t *testing.T, rv string) {
			rev, err := storage.APIObjectVersioner{}.ParseResourceVersion(rv)
			if err != nil {
				t.Fatal(err)
			}
			db.CompactForTest(int64(rev))
			db.BumpForTest(ctx) // etcd's compaction writes a key, and upstream's tests count on it
		},
		increaseRV: func(ctx context.Context, t *testing.T) int64 { return db.BumpForTest(ctx) },
		stored: func(_ context.Context, key string) ([]byte, error) {
			return db.StoredForTest("/registry/pods/", key[len("/pods/"):])
		},
		cached: true,
	}
}

// etcdBackends starts one etcd for all tests; each has its own prefix.
func etcdBackends(open func(t *testing.T, url, prefix string) *backend) func(suite *testing.T) func(t *testing.T) *backend {
	return func(suite *testing.T) func(t *testing.T) *backend {
		url := etcd.Start(suite, "--watch-progress-notify-interval=1s").URL
		compactVersion = 0 // of this etcd
		tests := 0
		return func(t *testing.T) *backend {
			tests++
			return open(t, url, fmt.Sprintf("/test%d", tests))
		}
	}
}

// sharedBackend is what servers share: upstream's store on etcd behind a copy in memory.
func sharedBackend(t *testing.T, url, prefix string) *backend {
	t.Helper()
	s, err := shared.Open(t.Context(), shared.Options{Servers: []string{url}, Prefix: prefix, BookmarkInterval: time.Second, Fatal: func(err error) { t.Errorf("fatal: %v", err) }}, "authority")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	plain := etcdBackend(t, url, prefix)
	return &backend{
		Interface:   s.Storage(store.Resource{Prefix: "/pods", Codec: plain.codec, New: newPod, Transformer: plain.transformer}),
		transformer: plain.transformer,
		codec:       plain.codec,
		compact: func(ctx context.Context, t *testing.T, rv string) {
			plain.compact(ctx, t, rv)
			rev, err := storage.APIObjectVersioner{}.ParseResourceVersion(rv)
			if err != nil {
				t.Fatal(err)
			}
			s.CompactForTest(int64(rev))
		},
		increaseRV: plain.increaseRV,
		stored:     plain.stored,
		cached:     true,
		behind:     true,
	}
}

func etcdBackend(t *testing.T, url, prefix string) *backend {
	t.Helper()
	client, err := kubernetes.New(clientv3.Config{
		Endpoints:   []string{url},
		DialTimeout: 5 * time.Second,
		DialOptions: []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	compactor := etcd3.NewCompactor(client.Client, 0, clock.RealClock{}, nil)
	t.Cleanup(compactor.Stop)
	transformer, c := parts()
	leases := etcd3.NewDefaultLeaseManagerConfig()
	leases.ReuseDurationSeconds = 1
	v := storage.APIObjectVersioner{}
	s, err := etcd3.New(client, compactor, c, newPod, newPodList, prefix, "/pods/", schema.GroupResource{Resource: "pods"},
		transformer, leases, etcd3.NewDefaultDecoder(c, v), v)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return &backend{
		Interface:   s,
		transformer: transformer,
		codec:       c,
		compact: func(ctx context.Context, t *testing.T, rv string) {
			rev, err := v.ParseResourceVersion(rv)
			if err != nil {
				t.Fatal(err)
			}
			compactEtcd(ctx, t, client.Client, s, int64(rev))
		},
		increaseRV: func(ctx context.Context, t *testing.T) int64 {
			resp, err := client.KV.Put(ctx, "increaseRV", "ok")
			if err != nil {
				t.Fatal(err)
			}
			return resp.Header.Revision
		},
		stored: func(ctx context.Context, key string) ([]byte, error) {
			resp, err := client.KV.Get(ctx, prefix+key)
			if err != nil || len(resp.Kvs) == 0 {
				return nil, err
			}
			return resp.Kvs[0].Value, nil
		},
	}
}

var compactVersion int64

func compactEtcd(ctx context.Context, t *testing.T, c *clientv3.Client, s storage.Interface, rev int64) {
	var err error
	for range 3 {
		before := compactVersion
		compactVersion, _, _, err = etcd3.Compact(ctx, c, compactVersion, rev)
		if err != nil {
			t.Fatal(err)
		}
		if compactVersion == before+1 {
			break // it was ours; otherwise it only told us the version
		}
	}
	for s.CompactRevision() < rev {
		select {
		case <-ctx.Done():
			t.Fatal(ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// swap is a transformer that tests replace while it is in use.
type swap struct {
	now atomic.Pointer[value.Transformer]
}

func (s *swap) set(t value.Transformer) { s.now.Store(&t) }

func (s *swap) TransformFromStorage(ctx context.Context, data []byte, c value.Context) ([]byte, bool, error) {
	return (*s.now.Load()).TransformFromStorage(ctx, data, c)
}

func (s *swap) TransformToStorage(ctx context.Context, data []byte, c value.Context) ([]byte, error) {
	return (*s.now.Load()).TransformToStorage(ctx, data, c)
}

func (b *backend) UpdatePrefixTransformer(modify storagetesting.PrefixTransformerModifier) func() {
	before := *b.transformer.now.Load()
	changed := *before.(*storagetesting.PrefixTransformer)
	b.transformer.set(modify(&changed))
	return func() { b.transformer.set(before) }
}

func (b *backend) UpdateTransformer(modify storagetesting.TransformerModifier) func() {
	before := *b.transformer.now.Load()
	b.transformer.set(modify(before))
	return func() { b.transformer.set(before) }
}

// failingCodec cannot decode while it is told so.
type failingCodec struct {
	runtime.Codec
	failing atomic.Bool
}

func (c *failingCodec) Decode(data []byte, gvk *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	if c.failing.Load() {
		return nil, nil, fmt.Errorf("synthetic error")
	}
	return c.Codec.Decode(data, gvk, into)
}
