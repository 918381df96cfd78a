package etcd_test

import (
	"bytes"
	"context"
	"crypto/aes"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"
	aestransformer "k8s.io/apiserver/pkg/storage/value/encrypt/aes"
	"k8s.io/client-go/kubernetes/scheme"

	"bramble.dev/server/store"
	shared "bramble.dev/server/store/etcd"
	"bramble.dev/test/etcd"
)

var (
	codecs = serializer.NewCodecFactory(scheme.Scheme)
	codec  = runtime.NewCodec(codecs.LegacyCodec(corev1.SchemeGroupVersion), codecs.UniversalDeserializer())
)

func newMap() runtime.Object { return &corev1.ConfigMap{} }

// open is a server's store on an etcd.
func open(t *testing.T, o shared.Options) *shared.Store {
	t.Helper()
	o.Fatal = func(err error) { t.Errorf("fatal: %v", err) }
	s, err := shared.Open(t.Context(), o, "ours")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

var maps = store.Resource{Prefix: "/configmaps", Codec: codec, New: newMap}

func create(t *testing.T, s storage.Interface, name string) *corev1.ConfigMap {
	t.Helper()
	out := &corev1.ConfigMap{}
	if err := s.Create(t.Context(), "/configmaps/ns/"+name, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}, out, 0); err != nil {
		t.Fatal(err)
	}
	return out
}

// What a write has been acknowledged for is seen at once by whoever reads the copy in its process, and by a consistent read in another.
func TestAcknowledgedIsSeen(t *testing.T) {
	url := etcd.Start(t).URL
	a, b := open(t, shared.Options{Servers: []string{url}}), open(t, shared.Options{Servers: []string{url}})
	if a.Incarnation() != b.Incarnation() || a.Incarnation() == "" {
		t.Errorf("incarnations %q and %q", a.Incarnation(), b.Incarnation())
	}
	here, there := a.Storage(maps), b.Storage(maps)
	for n := range 100 {
		name := fmt.Sprint("m", n)
		made := create(t, here, name)
		if err := a.Local(maps).Get(t.Context(), "/configmaps/ns/"+name, storage.GetOptions{}, &corev1.ConfigMap{}); err != nil {
			t.Fatalf("the copy lacks what was written: %v", err)
		}
		if count, changed := a.Stand("/registry/configmaps"); count != n+1 || fmt.Sprint(changed) != made.ResourceVersion {
			t.Fatalf("it stands at %d objects and %d after %d were made, the last at %s", count, changed, n+1, made.ResourceVersion)
		}
		var list corev1.ConfigMapList
		if err := there.GetList(t.Context(), "/configmaps", storage.ListOptions{Recursive: true, Predicate: storage.Everything}, &list); err != nil || len(list.Items) != n+1 {
			t.Fatalf("another server lists %d, %v after %d were made", len(list.Items), err, n+1)
		}
	}
}

// A watch that began at one server goes on at another one that started later.
func TestWatchGoesOnElsewhere(t *testing.T) {
	url := etcd.Start(t).URL
	a := open(t, shared.Options{Servers: []string{url}})
	first := create(t, a.Storage(maps), "first")
	create(t, a.Storage(maps), "second")
	b := open(t, shared.Options{Servers: []string{url}})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	w, err := b.Storage(maps).Watch(ctx, "/configmaps", storage.ListOptions{ResourceVersion: first.ResourceVersion, Recursive: true, Predicate: storage.Everything})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	create(t, a.Storage(maps), "third")
	for _, want := range []string{"second", "third"} {
		e, ok := <-w.ResultChan()
		if m, is := e.Object.(*corev1.ConfigMap); !ok || !is || e.Type != watch.Added || m.Name != want {
			t.Fatalf("%v %+v, want %s added", e.Type, e.Object, want)
		}
	}
}

// Writers of two servers update one object: none of what was acknowledged is lost.
func TestWritersOfTwoServers(t *testing.T) {
	url := etcd.Start(t).URL
	a, b := open(t, shared.Options{Servers: []string{url}}), open(t, shared.Options{Servers: []string{url}})
	create(t, a.Storage(maps), "one")
	var wait sync.WaitGroup
	for n, s := range []*shared.Store{a, b, a, b} {
		wait.Go(func() {
			objects := s.Storage(maps)
			for i := range 25 {
				err := objects.GuaranteedUpdate(t.Context(), "/configmaps/ns/one", &corev1.ConfigMap{}, false, nil, storage.SimpleUpdate(func(o runtime.Object) (runtime.Object, error) {
					m := o.(*corev1.ConfigMap)
					if m.Data == nil {
						m.Data = map[string]string{}
					}
					m.Data[fmt.Sprintf("%d-%d", n, i)] = ""
					return m, nil
				}), nil)
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
	for _, s := range []*shared.Store{a, b} {
		var m corev1.ConfigMap
		if err := s.Storage(maps).Get(t.Context(), "/configmaps/ns/one", storage.GetOptions{}, &m); err != nil || len(m.Data) != 100 {
			t.Errorf("%d of 100 updates are there, %v", len(m.Data), err)
		}
	}
}

// Servers with other keys are not of this cluster.
func TestAnotherClusterIsRefused(t *testing.T) {
	url := etcd.Start(t).URL
	open(t, shared.Options{Servers: []string{url}})
	if _, err := shared.Open(t.Context(), shared.Options{Servers: []string{url}}, "theirs"); err == nil || !strings.Contains(err.Error(), "another cluster") {
		t.Errorf("error %v", err)
	}
	other, err := shared.Open(t.Context(), shared.Options{Servers: []string{url}, Prefix: "/other"}, "theirs")
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Close(); err != nil {
		t.Error(err)
	}
}

// Values lie encrypted in etcd, and a prefix of one's own is no part of what they are encrypted for.
func TestEncryption(t *testing.T) {
	url := etcd.Start(t).URL
	block, err := aes.NewCipher(bytes.Repeat([]byte("k"), 32))
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := aestransformer.NewGCMTransformer(block)
	if err != nil {
		t.Fatal(err)
	}
	sealed := maps
	sealed.Transformer = gcm
	a, b := open(t, shared.Options{Servers: []string{url}, Prefix: "/a"}), open(t, shared.Options{Servers: []string{url}, Prefix: "/b"})
	create(t, a.Storage(sealed), "secret")
	c, err := clientv3.NewFromURL(url)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got, err := c.Get(t.Context(), "/a/configmaps/ns/secret")
	if err != nil || len(got.Kvs) != 1 || bytes.Contains(got.Kvs[0].Value, []byte("secret")) {
		t.Fatalf("in etcd: %v, %v", got, err)
	}
	if _, err := c.Put(t.Context(), "/b/configmaps/ns/secret", string(got.Kvs[0].Value)); err != nil {
		t.Fatal(err)
	}
	var list corev1.ConfigMapList
	if err := b.Storage(sealed).GetList(t.Context(), "/configmaps", storage.ListOptions{Recursive: true, Predicate: storage.Everything}, &list); err != nil || len(list.Items) != 1 {
		t.Errorf("moved to another prefix: %v, %v", list.Items, err)
	}
	if err := b.Storage(sealed).Get(t.Context(), "/configmaps/ns/secret", storage.GetOptions{}, &corev1.ConfigMap{}); err != nil {
		t.Error(err)
	}
}

func TestCheck(t *testing.T) {
	for _, tt := range []struct {
		name string
		o    shared.Options
		err  string
	}{
		{"whole", shared.Options{Servers: []string{"https://a:2379", "https://b:2379"}, CAFile: "ca", CertFile: "c", KeyFile: "k", Prefix: "/x"}, ""},
		{"no members", shared.Options{}, "--etcd-servers is empty"},
		{"no URL", shared.Options{Servers: []string{"a:2379"}}, `--etcd-servers "a:2379"`},
		{"no port", shared.Options{Servers: []string{"https://a"}}, `--etcd-servers "https://a"`},
		{"no TLS", shared.Options{Servers: []string{"http://a:2379"}, CAFile: "ca"}, "without TLS"},
		{"half a pair", shared.Options{Servers: []string{"https://a:2379"}, CertFile: "c"}, "belong together"},
		{"no prefix", shared.Options{Servers: []string{"https://a:2379"}, Prefix: "//"}, "--etcd-prefix"},
	} {
		err := tt.o.Check()
		if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.err)
		}
	}
}
