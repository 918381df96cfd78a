package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
)

func TestCreateReadUpdateDelete(t *testing.T) {
	c, ns := shared(t)
	maps := c.client.CoreV1().ConfigMaps(ns)
	made := must(maps.Create(t.Context(), configMap("a", "k", "1"), metav1.CreateOptions{}))(t)
	if made.UID == "" || made.ResourceVersion == "" || made.CreationTimestamp.IsZero() {
		t.Errorf("made %+v", made.ObjectMeta)
	}
	if _, err := maps.Create(t.Context(), configMap("a"), metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		t.Errorf("a second create: %v", err)
	}
	stale := made.DeepCopy()
	made.Data["k"] = "2"
	updated := must(maps.Update(t.Context(), made, metav1.UpdateOptions{}))(t)
	if updated.ResourceVersion == made.ResourceVersion {
		t.Error("the revision did not change")
	}
	if _, err := maps.Update(t.Context(), stale, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("an update of a stale object: %v", err)
	}
	again := must(maps.Update(t.Context(), updated, metav1.UpdateOptions{}))(t)
	if again.ResourceVersion != updated.ResourceVersion {
		t.Error("an update that changes nothing got a revision")
	}
	if err := maps.Delete(t.Context(), "a", metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions("other")}); !apierrors.IsConflict(err) {
		t.Errorf("deletion of another uid: %v", err)
	}
	if err := maps.Delete(t.Context(), "a", metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := maps.Get(t.Context(), "a", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after deletion: %v", err)
	}
	if g := must(maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "gen-"}}, metav1.CreateOptions{}))(t); !strings.HasPrefix(g.Name, "gen-") || len(g.Name) < 6 {
		t.Errorf("generated name %q", g.Name)
	}
	if err := maps.DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		t.Error(err)
	}
	if l := must(maps.List(t.Context(), metav1.ListOptions{}))(t); len(l.Items) != 0 {
		t.Errorf("%d left", len(l.Items))
	}
}

func TestDryRunWritesNothing(t *testing.T) {
	c, ns := shared(t)
	maps := c.client.CoreV1().ConfigMaps(ns)
	dry := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
	must(maps.Create(t.Context(), configMap("dry"), dry))(t)
	if _, err := maps.Get(t.Context(), "dry", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a dry run left something: %v", err)
	}
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "dry"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
	must(c.client.CoreV1().Services(ns).Create(t.Context(), svc, dry))(t)
}

func TestPatches(t *testing.T) {
	c, ns := shared(t)
	pods := c.client.CoreV1().Pods(ns)
	p := pod("p")
	p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "d", Image: "registry.example/d:1"})
	must(pods.Create(t.Context(), p, metav1.CreateOptions{}))(t)
	tests := []struct {
		name  string
		kind  types.PatchType
		patch string
		check func(*corev1.Pod) bool
		fails func(error) bool
	}{
		{name: "strategic merge by container name", kind: types.StrategicMergePatchType, patch: `{"spec":{"containers":[{"name":"d","image":"registry.example/d:2"}]}}`,
			check: func(p *corev1.Pod) bool {
				return len(p.Spec.Containers) == 2 && p.Spec.Containers[1].Image == "registry.example/d:2"
			}},
		{name: "json merge", kind: types.MergePatchType, patch: `{"metadata":{"labels":{"a":"b"}}}`, check: func(p *corev1.Pod) bool { return p.Labels["a"] == "b" }},
		{name: "json patch", kind: types.JSONPatchType, patch: `[{"op":"test","path":"/metadata/labels/a","value":"b"},{"op":"remove","path":"/metadata/labels/a"}]`,
			check: func(p *corev1.Pod) bool { return p.Labels["a"] == "" }},
		{name: "json patch whose test fails", kind: types.JSONPatchType, patch: `[{"op":"test","path":"/metadata/labels/a","value":"x"}]`, fails: apierrors.IsInvalid},
		{name: "immutable field", kind: types.MergePatchType, patch: `{"spec":{"hostname":"x"}}`, fails: apierrors.IsInvalid},
		{name: "no patch at all", kind: types.MergePatchType, patch: `{`, fails: apierrors.IsBadRequest},
		{name: "unknown type", kind: "application/x-patch", patch: `{}`, fails: apierrors.IsUnsupportedMediaType},
		{name: "stale", kind: types.MergePatchType, patch: `{"metadata":{"resourceVersion":"1","labels":{"z":"z"}}}`, fails: apierrors.IsConflict},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := pods.Patch(t.Context(), "p", tt.kind, []byte(tt.patch), metav1.PatchOptions{})
			switch {
			case tt.fails != nil:
				if err == nil || !tt.fails(err) {
					t.Errorf("got %v", err)
				}
			case err != nil:
				t.Error(err)
			case !tt.check(got):
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestServerSideApply(t *testing.T) {
	c, ns := shared(t)
	maps := c.client.CoreV1().ConfigMaps(ns)
	apply := func(manager, value string, force bool) error {
		_, err := maps.Apply(t.Context(), corev1ac.ConfigMap("s", ns).WithData(map[string]string{"k": value}), metav1.ApplyOptions{FieldManager: manager, Force: force})
		return err
	}
	if err := apply("one", "1", false); err != nil {
		t.Fatal(err)
	}
	err := apply("two", "2", false)
	if !apierrors.IsConflict(err) || !strings.Contains(err.Error(), `conflict with "one"`) || !strings.Contains(err.Error(), ".data.k") {
		t.Errorf("a second owner: %v", err)
	}
	if err := apply("two", "1", false); err != nil {
		t.Errorf("the same value is shared: %v", err)
	}
	if err := apply("two", "2", true); err != nil {
		t.Errorf("forced: %v", err)
	}
	got := must(maps.Get(t.Context(), "s", metav1.GetOptions{}))(t)
	if got.Data["k"] != "2" || len(got.ManagedFields) != 1 || got.ManagedFields[0].Manager != "two" {
		t.Errorf("got %v, managed by %v", got.Data, got.ManagedFields)
	}
	if _, err := maps.Apply(t.Context(), corev1ac.ConfigMap("s", ns), metav1.ApplyOptions{FieldManager: "two"}); err != nil {
		t.Error(err)
	}
	if got := must(maps.Get(t.Context(), "s", metav1.GetOptions{}))(t); len(got.Data) != 0 {
		t.Errorf("what its only owner gave up is still there: %v", got.Data)
	}
}

func TestFieldValidation(t *testing.T) {
	c, ns := shared(t)
	post := func(mode string) answer {
		return ask(t, c.config, "POST", "/api/v1/namespaces/"+ns+"/configmaps?dryRun=All&fieldValidation="+mode,
			`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"f"},"dat":{},"data":{"a":"1","a":"2"}}`, "Content-Type: application/json")
	}
	if a := post("Strict"); a.code != 400 || !strings.Contains(a.body, `unknown field \"dat\"`) || !strings.Contains(a.body, `duplicate field \"data.a\"`) {
		t.Errorf("strict: %d %s", a.code, a.body)
	}
	if a := post("Warn"); a.code != 201 || len(a.header["Warning"]) != 2 {
		t.Errorf("warn: %d %v", a.code, a.header)
	}
	if a := post("Ignore"); a.code != 201 || len(a.header["Warning"]) != 0 {
		t.Errorf("ignore: %d %v", a.code, a.header)
	}
}

func TestWatch(t *testing.T) {
	c, ns := shared(t)
	maps := c.client.CoreV1().ConfigMaps(ns)
	must(maps.Create(t.Context(), configMap("before"), metav1.CreateOptions{}))(t)
	list := must(maps.List(t.Context(), metav1.ListOptions{}))(t)
	w := must(maps.Watch(t.Context(), metav1.ListOptions{ResourceVersion: list.ResourceVersion, LabelSelector: "seen=yes"}))(t)
	defer w.Stop()

	m := configMap("m")
	m.Labels = map[string]string{"seen": "yes"}
	must(maps.Create(t.Context(), configMap("unseen"), metav1.CreateOptions{}))(t)
	m = must(maps.Create(t.Context(), m, metav1.CreateOptions{}))(t)
	m.Data = map[string]string{"a": "b"}
	m = must(maps.Update(t.Context(), m, metav1.UpdateOptions{}))(t)
	m.Labels = nil
	m = must(maps.Update(t.Context(), m, metav1.UpdateOptions{}))(t)
	if err := maps.Delete(t.Context(), "m", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []watch.EventType{watch.Added, watch.Modified, watch.Deleted} {
		if e := next(t, w); e.Type != want || e.Object.(*corev1.ConfigMap).Name != "m" {
			t.Fatalf("got %s %v, want %s", e.Type, e.Object, want)
		}
	}

	old := must(maps.Watch(t.Context(), metav1.ListOptions{ResourceVersion: list.ResourceVersion}))(t)
	defer old.Stop()
	var got []string
	for range 5 {
		e := next(t, old)
		got = append(got, string(e.Type)+" "+e.Object.(*corev1.ConfigMap).Name)
	}
	if s := strings.Join(got, ", "); s != "ADDED unseen, ADDED m, MODIFIED m, MODIFIED m, DELETED m" {
		t.Errorf("resumed watch: %s", s)
	}

	// A watch that also lists, as today's clients do.
	yes := true
	streamed := must(maps.Watch(t.Context(), metav1.ListOptions{SendInitialEvents: &yes, AllowWatchBookmarks: true, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan}))(t)
	defer streamed.Stop()
	for {
		e := next(t, streamed)
		if e.Type == watch.Bookmark {
			if e.Object.(*corev1.ConfigMap).Annotations[metav1.InitialEventsAnnotationKey] != "true" {
				t.Errorf("bookmark %+v", e.Object)
			}
			break
		}
		if e.Type != watch.Added {
			t.Fatalf("got %v", e)
		}
	}
}

func next(t *testing.T, w watch.Interface) watch.Event {
	t.Helper()
	select {
	case e, ok := <-w.ResultChan():
		if !ok {
			t.Fatal("the watch ended")
		}
		return e
	case <-time.After(20 * time.Second):
		t.Fatal("no event")
	}
	panic("unreachable")
}

func TestLongListsInChunks(t *testing.T) {
	c, ns := shared(t)
	maps := c.client.CoreV1().ConfigMaps(ns)
	for i := range 25 {
		must(maps.Create(t.Context(), configMap(fmt.Sprintf("m%02d", i)), metav1.CreateOptions{}))(t)
	}
	var seen []string
	options := metav1.ListOptions{Limit: 10}
	for n := 0; ; n++ {
		l := must(maps.List(t.Context(), options))(t)
		for _, m := range l.Items {
			seen = append(seen, m.Name)
		}
		if n == 0 {
			// The list is of one moment: this object belongs to none of its parts.
			must(maps.Create(t.Context(), configMap("m10x"), metav1.CreateOptions{}))(t)
			if l.RemainingItemCount == nil || *l.RemainingItemCount != 15 {
				t.Errorf("remaining %v", l.RemainingItemCount)
			}
		}
		if options.Continue = l.Continue; l.Continue == "" {
			break
		}
	}
	if len(seen) != 25 {
		t.Errorf("saw %v", seen)
	}
}

func TestTables(t *testing.T) {
	c, ns := shared(t)
	must(c.client.CoreV1().Pods(ns).Create(t.Context(), pod("shown"), metav1.CreateOptions{}))(t)
	a := ask(t, c.config, "GET", "/api/v1/namespaces/"+ns+"/pods", "", "Accept: application/json;as=Table;v=v1;g=meta.k8s.io")
	var table metav1.Table
	if err := json.Unmarshal([]byte(a.body), &table); err != nil {
		t.Fatal(err)
	}
	if len(table.ColumnDefinitions) < 5 || table.ColumnDefinitions[1].Name != "Ready" || len(table.Rows) != 1 || table.Rows[0].Cells[0] != "shown" || table.Rows[0].Cells[2] != "Pending" {
		t.Errorf("table %+v", table)
	}
	if a := ask(t, c.config, "GET", "/api/v1/pods", "", "Accept: application/json;as=Table;v=v1beta9;g=meta.k8s.io"); a.code != http.StatusNotAcceptable {
		t.Errorf("an unknown table version: %d", a.code)
	}
}

func TestComponentsAreListed(t *testing.T) {
	c, _ := shared(t)
	var names []string
	for _, s := range must(c.client.CoreV1().ComponentStatuses().List(t.Context(), metav1.ListOptions{}))(t).Items {
		names = append(names, s.Name)
		if len(s.Conditions) != 1 || s.Conditions[0].Status != corev1.ConditionTrue || s.Conditions[0].Message != "ok" {
			t.Errorf("%s: %+v", s.Name, s.Conditions)
		}
	}
	slices.Sort(names)
	if want := []string{"controller-manager", "etcd-0", "scheduler"}; !slices.Equal(names, want) {
		t.Errorf("got %v, want %v", names, want)
	}
	if s := must(c.client.CoreV1().ComponentStatuses().Get(t.Context(), "etcd-0", metav1.GetOptions{}))(t); s.Conditions[0].Type != corev1.ComponentHealthy {
		t.Errorf("got %+v", s)
	}
}
