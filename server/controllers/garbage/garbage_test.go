package garbage

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"pgregory.net/rapid"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/cache/cachetest"
)

// yard is an API with a running collector; its objects are ConfigMaps.
type yard struct {
	t      testing.TB
	api    *cachetest.API
	client interface {
		Get(context.Context, string, metav1.GetOptions) (*corev1.ConfigMap, error)
		Create(context.Context, *corev1.ConfigMap, metav1.CreateOptions) (*corev1.ConfigMap, error)
		Update(context.Context, *corev1.ConfigMap, metav1.UpdateOptions) (*corev1.ConfigMap, error)
		Delete(context.Context, string, metav1.DeleteOptions) error
	}
}

func newYard(t testing.TB) *yard {
	api := cachetest.New()
	client := api.Client()
	c := New(Inputs{
		Metadata: api.Metadata(), Discovery: client.Discovery(), Events: record.NewFakeRecorder(100),
		Source: api.Source, Prefix: cachetest.Prefix, Log: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); c.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return &yard{t: t, api: api, client: client.CoreV1().ConfigMaps("ns")}
}

// add makes an object owned by others; a name with "!" blocks its owner's deletion.
func (y *yard) add(name string, owners ...string) {
	y.t.Helper()
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns"}}
	for _, owner := range owners {
		block := strings.HasSuffix(owner, "!")
		cm.OwnerReferences = append(cm.OwnerReferences, y.ref(strings.TrimSuffix(owner, "!"), block))
	}
	if _, err := y.client.Create(context.Background(), cm, metav1.CreateOptions{}); err != nil {
		y.t.Fatal(err)
	}
}

func (y *yard) ref(owner string, block bool) metav1.OwnerReference {
	ref := metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: owner, UID: types.UID("no-such-" + owner), BlockOwnerDeletion: &block}
	if o, err := y.client.Get(context.Background(), owner, metav1.GetOptions{}); err == nil {
		ref.UID = o.UID
	}
	return ref
}

func (y *yard) delete(name string, p metav1.DeletionPropagation) {
	y.t.Helper()
	if err := y.client.Delete(context.Background(), name, metav1.DeleteOptions{PropagationPolicy: &p}); err != nil {
		y.t.Fatal(err)
	}
}

func (y *yard) left() []string {
	var out []string
	for _, cm := range cachetest.All[corev1.ConfigMap](y.api, "", "configmaps") {
		name := cm.Name
		if cm.DeletionTimestamp != nil {
			name += "(going)"
		}
		out = append(out, fmt.Sprintf("%s<%d", name, len(cm.OwnerReferences)))
	}
	slices.Sort(out)
	return out
}

// expect waits until exactly these are left (each with its number of owners)
// and stay for a moment.
func (y *yard) expect(want ...string) {
	y.t.Helper()
	slices.Sort(want)
	since := time.Time{}
	for range 1000 {
		if !slices.Equal(y.left(), want) {
			since = time.Time{}
		} else if since.IsZero() {
			since = time.Now()
		} else if time.Since(since) > 30*time.Millisecond {
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
	y.t.Fatalf("left are %v, want %v", y.left(), want)
}

func TestBackground(t *testing.T) {
	y := newYard(t)
	y.add("a")
	y.add("b", "a")
	y.add("c", "b")
	y.add("other")
	y.expect("a<0", "b<1", "c<1", "other<0")
	y.delete("a", metav1.DeletePropagationBackground)
	y.expect("other<0")
}

func TestAnOwnerThatNeverWas(t *testing.T) {
	y := newYard(t)
	y.add("a")
	y.add("b", "ghost")
	y.add("c", "ghost", "a")
	y.expect("a<0", "c<1")
}

func TestTwoOwners(t *testing.T) {
	y := newYard(t)
	y.add("a")
	y.add("b")
	y.add("c", "a", "b")
	y.delete("a", metav1.DeletePropagationBackground)
	y.expect("b<0", "c<1")
	y.delete("b", metav1.DeletePropagationBackground)
	y.expect()
}

func TestOrphans(t *testing.T) {
	y := newYard(t)
	y.add("a")
	y.add("b", "a")
	y.add("c", "b")
	y.expect("a<0", "b<1", "c<1")
	y.delete("a", metav1.DeletePropagationOrphan)
	y.expect("b<0", "c<1")
}

func TestForegroundWaitsForWhatBlocks(t *testing.T) {
	y := newYard(t)
	y.add("a")
	y.add("b", "a!")
	held, err := y.client.Get(t.Context(), "b", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	held.Finalizers = []string{"test/hold"}
	if held, err = y.client.Update(t.Context(), held, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	y.delete("a", metav1.DeletePropagationForeground)
	y.expect("a(going)<0", "b(going)<1")
	if held, err = y.client.Get(t.Context(), "b", metav1.GetOptions{}); err != nil {
		t.Fatal(err)
	}
	held.Finalizers = nil
	if _, err := y.client.Update(t.Context(), held, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	y.expect()
}

func TestForegroundSparesWhatAnotherOwns(t *testing.T) {
	y := newYard(t)
	y.add("a")
	y.add("b")
	y.add("c", "a!", "b!")
	y.expect("a<0", "b<0", "c<2")
	y.delete("a", metav1.DeletePropagationForeground)
	y.expect("b<0", "c<1")
}

func TestACircleEnds(t *testing.T) {
	y := newYard(t)
	y.add("a")
	y.add("b", "a!")
	y.add("c", "b!")
	a, err := y.client.Get(t.Context(), "a", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	a.OwnerReferences = []metav1.OwnerReference{y.ref("c", true)}
	if _, err := y.client.Update(t.Context(), a, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	y.expect("a<1", "b<1", "c<1")
	y.delete("a", metav1.DeletePropagationForeground)
	y.expect()
}

func TestSurvivesMissedChanges(t *testing.T) {
	y := newYard(t)
	y.add("a")
	y.add("b", "a")
	y.expect("a<0", "b<1")
	y.api.Source.Quietly(func() { y.delete("a", metav1.DeletePropagationBackground) })
	y.expect()
}

// Random forests and deletions: what is left is exactly what should be.
func TestNoOrphanAndNoVictim(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		y := newYard(t)
		owners := map[string][]string{}
		var names []string
		for i := range rapid.IntRange(1, 12).Draw(rt, "objects") {
			name := fmt.Sprintf("o%02d", i)
			for range rapid.IntRange(0, 2).Draw(rt, "owners") {
				if len(names) > 0 {
					owner := rapid.SampledFrom(names).Draw(rt, "owner")
					if !slices.Contains(owners[name], owner) {
						owners[name] = append(owners[name], owner)
					}
				}
			}
			marked := slices.Clone(owners[name])
			for i := range marked {
				if rapid.Bool().Draw(rt, "blocks") {
					marked[i] += "!"
				}
			}
			y.add(name, marked...)
			names = append(names, name)
		}
		victim := rapid.SampledFrom(names).Draw(rt, "victim")
		y.delete(victim, rapid.SampledFrom([]metav1.DeletionPropagation{metav1.DeletePropagationBackground, metav1.DeletePropagationForeground}).Draw(rt, "policy"))
		gone := map[string]bool{victim: true}
		var want []string
		for _, name := range names { // owners come before what they own
			alive := 0
			for _, owner := range owners[name] {
				if !gone[owner] {
					alive++
				}
			}
			if gone[name] || (len(owners[name]) > 0 && alive == 0) {
				gone[name] = true
				continue
			}
			want = append(want, fmt.Sprintf("%s<%d", name, alive))
		}
		y.expect(want...)
	})
}
