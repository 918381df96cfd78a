package image

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"bramble.dev/runtime/testimage"
)

// secretOf is a pull secret's keyring for a registry.
func secretOf(t *testing.T, host, owner, password string) *Keyring {
	t.Helper()
	k := new(Keyring)
	auth := base64.StdEncoding.EncodeToString([]byte("user:" + password))
	if err := k.AddDockerConfig(owner, fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, host, auth)); err != nil {
		t.Fatal(err)
	}
	return k
}

func recordOf(t *testing.T, s *Store, id string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(s.records(), hexOf(id)+".json"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestPrivateImage is an image that one tenant's Secret brought to the board, and who may start it then.
func TestPrivateImage(t *testing.T) {
	var public atomic.Bool
	public.Store(true)
	host := testRegistry(t, func(h http.Handler) http.Handler {
		closed := private(h, false)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if public.Load() {
				h.ServeHTTP(w, r)
			} else {
				closed.ServeHTTP(w, r)
			}
		})
	})
	ref := host + "/secret:1"
	push(t, ref, busybox(t, testimage.Options{}))
	public.Store(false)
	dir := t.TempDir()
	s := open(t, dir, Options{})
	n, _ := ParseName(ref)
	owner := secretOf(t, host, "a/regcred/1", "secret")
	img, err := s.Pull(t.Context(), ref, PullOptions{Auth: owner.Lookup(n)})
	if err != nil {
		t.Fatal(err)
	}
	record := recordOf(t, s, img.ID)
	if strings.Contains(record, "user") || strings.Contains(record, "c2VjcmV0") {
		t.Errorf("the record holds the password: %s", record)
	}
	may := func(want bool, ref string, k *Keyring) {
		t.Helper()
		if _, ok := s.ResolveFor(ref, k); ok != want {
			t.Errorf("may use %s: %v", ref, ok)
		}
	}
	for range 2 { // the second time as after a restart
		may(true, ref, owner)
		for _, ref := range []string{ref, img.Digests[0], img.ID, hexOf(img.ID), n.repository() + "@" + img.ID} {
			may(false, ref, new(Keyring))
			may(false, ref, secretOf(t, host, "b/guess/2", "wrong"))
			may(false, ref, secretOf(t, "elsewhere.example", "b/other/3", "secret"))
		}
		if recordOf(t, s, img.ID) != record {
			t.Error("looking writes to the card")
		}
		s = open(t, dir, Options{})
	}
	may(true, img.Digests[0], owner)
	may(true, img.ID, owner)

	same := secretOf(t, host, "b/regcred/4", "secret")
	may(true, ref, same) // what it holds was accepted
	if recordOf(t, s, img.ID) == record {
		t.Error("the other Secret is not remembered")
	}
	may(true, ref, secretOf(t, host, "b/regcred/4", "rotated"))
	may(true, ref, secretOf(t, host, "c/copy/5", "rotated"))
	may(true, ref, owner)

	if _, err := s.Pull(t.Context(), ref, PullOptions{Auth: secretOf(t, host, "b/guess/2", "wrong").Lookup(n)}); err == nil {
		t.Error("the registry let a wrong password see it")
	}
	may(false, ref, secretOf(t, host, "b/guess/2", "wrong"))
	public.Store(true) // from now on it is for everyone, and that is found out by asking
	may(false, ref, new(Keyring))
	for range 2 {
		if _, err := s.Pull(t.Context(), ref, PullOptions{}); err != nil {
			t.Fatal(err)
		}
		may(true, ref, new(Keyring))
		s = open(t, dir, Options{})
	}
	if _, err := s.Pull(t.Context(), ref, PullOptions{Auth: owner.Lookup(n)}); err != nil {
		t.Fatal(err)
	}
	may(true, ref, new(Keyring))
}

// TestImportedIsForAll imports an image under a name, before and after it was had with a Secret.
func TestImportedIsForAll(t *testing.T) {
	var closed atomic.Bool
	host := testRegistry(t, func(h http.Handler) http.Handler {
		asks := private(h, true)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if closed.Load() {
				asks.ServeHTTP(w, r)
			} else {
				h.ServeHTTP(w, r)
			}
		})
	})
	ref := host + "/team/app:1"
	img := busybox(t, testimage.Options{})
	push(t, ref, img)
	closed.Store(true)
	file := filepath.Join(t.TempDir(), "app.tar")
	if err := testimage.WriteDocker(file, ref, img); err != nil {
		t.Fatal(err)
	}
	n, _ := ParseName(ref)
	s := open(t, t.TempDir(), Options{})
	bring := map[string]func(){
		"import": func() {
			if _, err := importFile(t, s, file); err != nil {
				t.Fatal(err)
			}
		},
		"pull": func() {
			if _, err := s.Pull(t.Context(), ref, PullOptions{Auth: secretOf(t, host, "a/regcred/1", "secret").Lookup(n)}); err != nil {
				t.Fatal(err)
			}
		},
	}
	for _, order := range [][]string{{"import", "pull"}, {"pull", "import"}} {
		s = open(t, t.TempDir(), Options{})
		for _, how := range order {
			bring[how]()
		}
		if _, ok := s.ResolveFor(ref, new(Keyring)); !ok {
			t.Errorf("%v: it is not for all", order)
		}
		id, _ := img.ConfigName()
		if _, ok := s.ResolveFor(id.String(), new(Keyring)); !ok {
			t.Errorf("%v: by its ID it is not for all", order)
		}
		// Under another name the same content was never shown to anybody.
		if _, ok := s.ResolveFor(host+"/other@"+id.String(), new(Keyring)); ok {
			t.Errorf("%v: another repository has it too", order)
		}
	}
}

// TestAccessIsBounded gives an image to many Secrets.
func TestAccessIsBounded(t *testing.T) {
	var a Access
	for i := range 3 * maxKeys {
		a = a.with(opened(Name{}, Auth{Owner: fmt.Sprint(i), Password: fmt.Sprint(i)}))
	}
	if len(a.Keys) != maxKeys || a.Keys[maxKeys-1].Owner != fmt.Sprint(3*maxKeys-1) {
		t.Errorf("%d keys, the last %+v", len(a.Keys), a.Keys[len(a.Keys)-1])
	}
	again := a.with(opened(Name{}, Auth{Owner: fmt.Sprint(3*maxKeys - 1), Password: "new"}))
	if len(again.Keys) != maxKeys || again.equal(a) {
		t.Errorf("a new password: %d keys", len(again.Keys))
	}
}
