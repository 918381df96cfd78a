package server

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"bramble.dev/server/api"
	"bramble.dev/server/auth"
	"bramble.dev/server/store"
)

// another is an aggregated API server: a store and an API of its own, with things, and without controllers.
type another struct {
	*httptest.Server
	away atomic.Bool // it answers that it is not there
	hold atomic.Bool // it takes requests for things and answers none
}

func serveThings(t *testing.T) *another {
	t.Helper()
	dir, log := t.TempDir(), slog.New(slog.DiscardHandler)
	pki, err := auth.OpenPKI(filepath.Join(dir, "pki"), auth.PKIOptions{})
	if err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(t.Context(), store.Options{Path: filepath.Join(dir, "state.db"), Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := api.New(t.Context(), api.Config{Store: db, PKI: pki, Listener: l, AdvertiseAddress: netip.MustParseAddr("192.0.2.10"), ServiceCIDR: netip.MustParsePrefix("10.43.0.0/16"), Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Run(t.Context()) }()
	inside, err := rest.TransportFor(s.ClientConfig("bramble-admin", "system:masters"))
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{FlushInterval: -1, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelError), Transport: inside, Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: "http", Host: "inside"})
	}}
	a := &another{}
	a.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a.away.Load() {
			http.Error(w, "not today", http.StatusInternalServerError)
			return
		}
		for a.hold.Load() && strings.Contains(r.URL.Path, "/things/") && r.Context().Err() == nil {
			time.Sleep(10 * time.Millisecond)
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		a.hold.Store(false)
		a.CloseClientConnections()
		a.Close()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		db.Close()
	})
	client, err := kubernetes.NewForConfig(s.ClientConfig("bramble-admin", "system:masters"))
	if err != nil {
		t.Fatal(err)
	}
	define(t, client)
	return a
}

func define(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	if err := client.Discovery().RESTClient().Post().AbsPath("/apis/apiextensions.k8s.io/v1/customresourcedefinitions").SetHeader("Content-Type", "application/json").Body([]byte(things)).Do(t.Context()).Error(); err != nil {
		t.Fatal(err)
	}
}

// Objects of another server own others and are owned as those of this one, and while that server is away or silent the others' owners
// are looked after.
func TestGarbageOfAnotherServer(t *testing.T) {
	other := serveThings(t)
	y := &apart{t: t, client: start(t, t.TempDir())}
	y.announce(other)

	t.Run("an owner there", func(t *testing.T) {
		y := y.in(t)
		thing, kept := y.thing("owner"), y.thing("kept")
		y.configMap("owned", thing)
		y.configMap("of-kept", kept)
		y.configMap("of-both", thing, kept)
		y.delete("things/owner", metav1.DeletePropagationBackground)
		y.gone("configmaps/owned")
		y.there("configmaps/of-kept")
		y.there("configmaps/of-both")
	})
	t.Run("an owner here", func(t *testing.T) {
		y := y.in(t)
		y.thing("owned", y.configMap("owner"))
		y.delete("configmaps/owner", metav1.DeletePropagationBackground)
		y.gone("things/owned")
	})
	t.Run("foreground", func(t *testing.T) {
		y := y.in(t)
		thing := y.thing("first")
		block := true
		thing.BlockOwnerDeletion = &block
		y.configMap("blocks", thing)
		y.delete("things/first", metav1.DeletePropagationForeground)
		y.gone("configmaps/blocks")
		y.gone("things/first")
	})
	t.Run("orphan", func(t *testing.T) {
		y := y.in(t)
		y.configMap("stays", y.thing("orphaned"))
		y.delete("things/orphaned", metav1.DeletePropagationOrphan)
		y.gone("things/orphaned")
		if m := y.there("configmaps/stays"); len(m.OwnerReferences) != 0 {
			t.Errorf("it is owned yet: %v", m.OwnerReferences)
		}
	})
	t.Run("silent", func(t *testing.T) {
		y := y.in(t)
		silent, owner := y.thing("silent"), y.configMap("here")
		other.hold.Store(true)
		for n := range 8 {
			y.configMap(fmt.Sprintf("asks-%d", n), silent, metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "never", UID: types.UID(fmt.Sprint(n))})
		}
		y.configMap("owned-here", owner)
		y.delete("configmaps/here", metav1.DeletePropagationBackground)
		y.gone("configmaps/owned-here")
		other.hold.Store(false)
		y.there("configmaps/asks-0")
	})
	t.Run("away", func(t *testing.T) {
		y := y.in(t)
		away, owner := y.thing("away"), y.configMap("here-too")
		y.configMap("of-away", away)
		other.away.Store(true)
		eventually(t, "the server is known to be away", func() bool { return !y.answers() })
		y.configMap("owned-here-too", owner)
		y.delete("configmaps/here-too", metav1.DeletePropagationBackground)
		y.gone("configmaps/owned-here-too")
		other.away.Store(false)
		eventually(t, "the server is back", y.answers)
		y.there("configmaps/of-away")
		y.delete("things/away", metav1.DeletePropagationBackground)
		y.gone("configmaps/of-away")
	})
	t.Run("announced no more", func(t *testing.T) {
		y := y.in(t)
		y.configMap("of-unknown", y.thing("unknown"))
		if err := y.client.Discovery().RESTClient().Delete().AbsPath("/apis/apiregistration.k8s.io/v1/apiservices/v1.example.com").Do(t.Context()).Error(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "nobody serves things", func() bool { return !y.answers() })
		// Twice, so that whoever looks for what is left of a resource that is served no more has done so.
		for n := range 2 {
			name := fmt.Sprintf("others%d", n)
			another := strings.NewReplacer("things", name, `"Thing"`, `"Other`+name+`"`, `"ThingList"`, `"Other`+name+`List"`, `"singular":"thing"`, `"singular":"`+name+`1"`, "example.com", "example.org").Replace(things)
			if err := y.client.Discovery().RESTClient().Post().AbsPath("/apis/apiextensions.k8s.io/v1/customresourcedefinitions").SetHeader("Content-Type", "application/json").Body([]byte(another)).Do(t.Context()).Error(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		y.there("configmaps/of-unknown")
	})
}

// apart is who works with the objects of both servers through one.
type apart struct {
	t      *testing.T
	client kubernetes.Interface
}

func (y *apart) in(t *testing.T) *apart { return &apart{t, y.client} }

// announce gives things to another server and waits until they are reached.
func (y *apart) announce(other *another) {
	y.t.Helper()
	_, port, err := net.SplitHostPort(other.Listener.Addr().String())
	if err != nil {
		y.t.Fatal(err)
	}
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "things"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "localhost"}}
	if _, err := y.client.CoreV1().Services("default").Create(y.t.Context(), s, metav1.CreateOptions{}); err != nil {
		y.t.Fatal(err)
	}
	const announcement = `{"apiVersion":"apiregistration.k8s.io/v1","kind":"APIService","metadata":{"name":"v1.example.com"},"spec":{"group":"example.com","version":"v1",
"groupPriorityMinimum":1000,"versionPriority":15,"insecureSkipTLSVerify":true,"service":{"namespace":"default","name":"things","port":%s}}}`
	err = y.client.Discovery().RESTClient().Post().AbsPath("/apis/apiregistration.k8s.io/v1/apiservices").SetHeader("Content-Type", "application/json").Body(fmt.Appendf(nil, announcement, port)).Do(y.t.Context()).Error()
	if err != nil {
		y.t.Fatal(err)
	}
	eventually(y.t, "things are served", y.answers)
}

func (y *apart) answers() bool {
	return y.client.Discovery().RESTClient().Get().AbsPath("/apis/example.com/v1/things").Do(y.t.Context()).Error() == nil
}

func (y *apart) path(what string) string {
	if strings.HasPrefix(what, "things") {
		return "/apis/example.com/v1/namespaces/default/" + what
	}
	return "/api/v1/namespaces/default/" + what
}

func (y *apart) thing(name string, owners ...metav1.OwnerReference) metav1.OwnerReference {
	y.t.Helper()
	return y.create("things", "example.com/v1", "Thing", name, owners)
}

func (y *apart) configMap(name string, owners ...metav1.OwnerReference) metav1.OwnerReference {
	y.t.Helper()
	return y.create("configmaps", "v1", "ConfigMap", name, owners)
}

func (y *apart) create(resource, version, kind, name string, owners []metav1.OwnerReference) metav1.OwnerReference {
	y.t.Helper()
	m := metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: version, Kind: kind}, ObjectMeta: metav1.ObjectMeta{Name: name, OwnerReferences: owners}}
	text, err := json.Marshal(m)
	if err == nil {
		text, err = y.client.Discovery().RESTClient().Post().AbsPath(y.path(resource)).SetHeader("Content-Type", "application/json").SetHeader("Accept", "application/json").Body(text).DoRaw(y.t.Context())
	}
	if err == nil {
		err = json.Unmarshal(text, &m)
	}
	if err != nil {
		y.t.Fatal(err)
	}
	return metav1.OwnerReference{APIVersion: version, Kind: kind, Name: name, UID: m.UID}
}

func (y *apart) delete(what string, p metav1.DeletionPropagation) {
	y.t.Helper()
	if err := y.client.Discovery().RESTClient().Delete().AbsPath(y.path(what)).SetHeader("Content-Type", "application/json").Body(fmt.Appendf(nil, `{"propagationPolicy":%q}`, p)).Do(y.t.Context()).Error(); err != nil {
		y.t.Fatal(err)
	}
}

func (y *apart) get(what string) (m metav1.PartialObjectMetadata, err error) {
	text, err := y.client.Discovery().RESTClient().Get().AbsPath(y.path(what)).SetHeader("Accept", "application/json").DoRaw(y.t.Context())
	if err == nil {
		err = json.Unmarshal(text, &m)
	}
	return m, err
}

func (y *apart) gone(what string) {
	y.t.Helper()
	eventually(y.t, what+" is gone", func() bool {
		_, err := y.get(what)
		return apierrors.IsNotFound(err)
	})
}

func (y *apart) there(what string) metav1.PartialObjectMetadata {
	y.t.Helper()
	time.Sleep(100 * time.Millisecond) // what it must not do would be done by now
	m, err := y.get(what)
	if err != nil {
		y.t.Errorf("%s: %v", what, err)
	}
	return m
}
