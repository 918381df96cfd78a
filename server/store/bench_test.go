package store_test

// The figures of docs and of the budgets, sqlite beside etcd in one run (the file systems of both in $TMPDIR):
//
//	go test ./server/store -run '^$' -bench . -benchtime 3000x -count 5 | benchstat -col /store -

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/etcd3"
	"k8s.io/apiserver/pkg/storage/value/encrypt/identity"

	"bramble.dev/server/store"
	shared "bramble.dev/server/store/etcd"
	"bramble.dev/test/etcd"
)

var protobuf = func() runtime.Codec {
	s := runtime.NewScheme()
	utilruntime.Must(corev1.AddToScheme(s))
	f := serializer.NewCodecFactory(s)
	info, _ := runtime.SerializerInfoForMediaType(f.SupportedMediaTypes(), runtime.ContentTypeProtobuf)
	return f.CodecForVersions(info.Serializer, f.UniversalDeserializer(), corev1.SchemeGroupVersion, corev1.SchemeGroupVersion)
}()

func newConfigMap() runtime.Object     { return &corev1.ConfigMap{} }
func newConfigMapList() runtime.Object { return &corev1.ConfigMapList{} }

func configMaps(db *store.DB) storage.Interface {
	return db.Storage(store.Resource{Prefix: "/configmaps", Codec: protobuf, New: newConfigMap})
}

// configMap has 1.5 KB of text that no compressor gets much out of.
func configMap(i int) *corev1.ConfigMap {
	b := make([]byte, 1050)
	r := rand.NewChaCha8([32]byte{byte(i), byte(i >> 8), byte(i >> 16)})
	r.Read(b)
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "cm-" + strconv.Itoa(i), UID: "0b9c4b38-6a3f-4f3c-9d0a-0f6f8f3f1c55"},
		Data:       map[string]string{"key": base64.StdEncoding.EncodeToString(b)},
	}
}

// measured is a store whose writes to disk can be counted.
type measured struct {
	storage.Interface
	pid    int
	settle func() // moves what the log holds to its place
}

var measuredStores = map[string]func(b *testing.B) measured{
	"sqlite": func(b *testing.B) measured {
		db := openDB(b)
		return measured{configMaps(db), os.Getpid(), db.CheckpointForTest}
	},
	"etcd": func(b *testing.B) measured {
		server := etcd.Start(b)
		client, err := kubernetes.New(clientv3.Config{Endpoints: []string{server.URL}})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { client.Close() })
		v := storage.APIObjectVersioner{}
		s, err := etcd3.New(client, nil, protobuf, newConfigMap, newConfigMapList, "/registry", "/configmaps/", schema.GroupResource{Resource: "configmaps"},
			identity.NewEncryptCheckTransformer(), etcd3.NewDefaultLeaseManagerConfig(), etcd3.NewDefaultDecoder(protobuf, v), v)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(s.Close)
		return measured{s, server.PID, func() {}}
	},
	"shared": func(b *testing.B) measured {
		server := etcd.Start(b)
		s, err := shared.Open(b.Context(), shared.Options{Servers: []string{server.URL}}, "authority")
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { s.Close() })
		return measured{s.Storage(store.Resource{Prefix: "/configmaps", Codec: protobuf, New: newConfigMap}), server.PID, func() {}}
	},
}

func BenchmarkCreate(b *testing.B) {
	for _, name := range []string{"sqlite", "etcd", "shared"} {
		for _, writers := range []int{1, 16} {
			b.Run(fmt.Sprintf("store=%s/writers=%d", name, writers), func(b *testing.B) {
				s := measuredStores[name](b)
				benchWrites(b, s, writers, func(ctx context.Context, i int) error {
					return s.Create(ctx, key(i), configMap(i), nil, 0)
				})
			})
		}
	}
}

func BenchmarkUpdate(b *testing.B) {
	const objects = 256
	for _, name := range []string{"sqlite", "etcd", "shared"} {
		for _, writers := range []int{1, 16} {
			b.Run(fmt.Sprintf("store=%s/writers=%d", name, writers), func(b *testing.B) {
				s := measuredStores[name](b)
				for i := range objects {
					if err := s.Create(b.Context(), key(i), configMap(i), nil, 0); err != nil {
						b.Fatal(err)
					}
				}
				benchWrites(b, s, writers, func(ctx context.Context, i int) error {
					return s.GuaranteedUpdate(ctx, key(i%objects), &corev1.ConfigMap{}, false, nil, storage.SimpleUpdate(func(obj runtime.Object) (runtime.Object, error) {
						obj.(*corev1.ConfigMap).Data["n"] = strconv.Itoa(i)
						return obj, nil
					}), nil)
				})
			})
		}
	}
}

func key(i int) string { return "/configmaps/default/cm-" + strconv.Itoa(i) }

// benchWrites reports the bytes that each write costs the disk, those of the checkpoint included.
func benchWrites(b *testing.B, s measured, writers int, write func(context.Context, int) error) {
	s.settle()
	before := written(b, s.pid)
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	for range writers {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= b.N {
					return
				}
				if err := write(b.Context(), i); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	s.settle()
	b.ReportMetric(float64(written(b, s.pid)-before)/float64(b.N), "disk-B/op")
}

// written is what a process has caused to be written to disk.
func written(b *testing.B, pid int) int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		if v, ok := strings.CutPrefix(string(line), "write_bytes: "); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			return n
		}
	}
	b.Fatal("no write_bytes")
	return 0
}

func BenchmarkGet(b *testing.B) {
	for _, cache := range []int64{1, 64 << 20} {
		b.Run(fmt.Sprintf("cache=%d", cache), func(b *testing.B) {
			s := filled(b, 1000, cache)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if err := s.Get(b.Context(), key(i%1000), storage.GetOptions{}, &corev1.ConfigMap{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkList(b *testing.B) {
	for _, cache := range []int64{1, 64 << 20} {
		b.Run(fmt.Sprintf("objects=1000/cache=%d", cache), func(b *testing.B) {
			s := filled(b, 1000, cache)
			b.ReportAllocs()
			for b.Loop() {
				if err := s.GetList(b.Context(), "/configmaps", storage.ListOptions{Recursive: true, Predicate: storage.Everything}, &corev1.ConfigMapList{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func filled(b *testing.B, n int, cache int64) storage.Interface {
	db := openDB(b, func(o *store.Options) { o.CacheBytes = cache })
	s := configMaps(db)
	fill(b, s, n)
	return s
}

func fill(t testing.TB, s storage.Interface, n int) {
	t.Helper()
	if err := fillFrom(t.Context(), s, n); err != nil {
		t.Fatal(err)
	}
}

func fillFrom(ctx context.Context, s storage.Interface, n int) error {
	var next atomic.Int64
	var g errgroup.Group
	for range 64 {
		g.Go(func() error {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if err := s.Create(ctx, key(i), configMap(i), nil, 0); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}
