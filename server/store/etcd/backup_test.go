package etcd

import (
	"testing"

	"bramble.dev/server/store"
)

func TestSplit(t *testing.T) {
	for key, want := range map[string]store.Object{
		"/registry/pods/ns/name":                                                {Prefix: "/registry/pods/", Key: "ns/name"},
		"/registry/namespaces/name":                                             {Prefix: "/registry/namespaces/", Key: "name"},
		"/registry/services/specs/ns/name":                                      {Prefix: "/registry/services/specs/", Key: "ns/name"},
		"/registry/services/endpoints/ns/name":                                  {Prefix: "/registry/services/endpoints/", Key: "ns/name"},
		"/registry/clusterroles/system:node":                                    {Prefix: "/registry/clusterroles/", Key: "system:node"},
		"/registry/example.com/things/ns/one.two":                               {Prefix: "/registry/example.com/things/", Key: "ns/one.two"},
		"/registry/apiextensions.k8s.io/customresourcedefinitions/things.a.com": {Prefix: "/registry/apiextensions.k8s.io/customresourcedefinitions/", Key: "things.a.com"},
		"/registry/alone":                                                       {Prefix: "/registry/alone", Key: ""},
	} {
		if got := split(key); got.Prefix != want.Prefix || got.Key != want.Key {
			t.Errorf("%s: %q, %q", key, got.Prefix, got.Key)
		}
	}
}
