package store_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/storage"

	"bramble.dev/server/store"
)

// FuzzContinue: whatever a client sends as a token, a list of one namespace gives objects of that namespace or an error.
func FuzzContinue(f *testing.F) {
	db := openDB(f)
	s := configMaps(db)
	for _, k := range []string{"/configmaps/ns/a", "/configmaps/ns/b", "/configmaps/other/a", "/configmaps/ns2/a"} {
		ns, name, _ := strings.Cut(strings.TrimPrefix(k, "/configmaps/"), "/")
		cm := configMap(1)
		cm.Namespace, cm.Name = ns, name
		if err := s.Create(f.Context(), k, cm, nil, 0); err != nil {
			f.Fatal(err)
		}
	}
	for _, start := range []string{"a\x00", "a", "/", "../other/a", "//", "\xff"} {
		for _, rv := range []int64{-1, 1, 2, 5, 1 << 62} {
			token, err := storage.EncodeContinue("/"+start, "/", rv)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(token, int64(1))
		}
	}
	f.Add("", int64(0))
	f.Add("eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MH0", int64(-3))
	f.Fuzz(func(t *testing.T, token string, limit int64) {
		var list corev1.ConfigMapList
		err := s.GetList(t.Context(), "/configmaps/ns", pageOf(limit, token), &list)
		if err != nil {
			var status apierrors.APIStatus
			if !errors.As(err, &status) {
				t.Fatalf("an error without a status: %v", err)
			}
			return
		}
		for _, cm := range list.Items {
			if cm.Namespace != "ns" {
				t.Fatalf("token %q gives %s/%s", token, cm.Namespace, cm.Name)
			}
		}
	})
}

// FuzzKey: a key is refused, or it is below the resource and found again.
func FuzzKey(f *testing.F) {
	s := configMaps(openDB(f))
	for _, k := range []string{"/configmaps/ns/a", "/configmaps/", "/configmaps", "/pods/x", "/configmaps/../pods/x", "/configmaps/\x00", "/configmaps//", ""} {
		f.Add(k)
	}
	f.Fuzz(func(t *testing.T, key string) {
		err := s.Create(t.Context(), key, configMap(1), nil, 0)
		if err != nil {
			return
		}
		if !strings.HasPrefix(key, "/configmaps/") || strings.Contains(key, "/../") {
			t.Fatalf("key %q was taken", key)
		}
		if err := s.Delete(t.Context(), key, &corev1.ConfigMap{}, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{}); err != nil {
			t.Fatalf("key %q: %v", key, err)
		}
	})
}

// FuzzUnpack: what lies on disk is read or refused, and what was packed is read as it was.
func FuzzUnpack(f *testing.F) {
	f.Add([]byte{})
	f.Add(store.PackForTest([]byte("a value")))
	f.Add(store.PackForTest(bytes.Repeat([]byte("a value "), 1000)))
	f.Fuzz(func(t *testing.T, b []byte) {
		store.UnpackForTest(b)
		got, err := store.UnpackForTest(store.PackForTest(b))
		if err != nil || !bytes.Equal(got, b) {
			t.Fatalf("%d bytes came back as %d: %v", len(b), len(got), err)
		}
	})
}
