package resourcemetrics

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// says is a node that answers with these bytes.
type says struct {
	body   []byte
	zipped bool
}

func (s *says) RoundTrip(*http.Request) (*http.Response, error) {
	h := http.Header{}
	if s.zipped {
		h.Set("Content-Encoding", "gzip")
	}
	return &http.Response{StatusCode: http.StatusOK, Header: h, Body: io.NopCloser(bytes.NewReader(s.body))}, nil
}

// FuzzUsage: whatever a node answers, pods and nodes are told what can be read of it, and of no pod that is another node's.
func FuzzUsage(f *testing.F) {
	f.Add([]byte(`{"node":{"usage":{"cpu":"1","memory":"1Gi"},"window":"10s"},"pods":[{"metadata":{"uid":"mine"},"containers":[{"name":"c","usage":{"cpu":"1m"}}]},{"metadata":{"uid":"theirs"},"containers":[{"name":"c","usage":{"cpu":"9"}}]}]}`), false)
	f.Add([]byte(`{"Node":{"Usage":{"cpu":"-1","":"x"}},"Pods":[{"metadata":{"uid":"mine"},"containers":null}]}`), false)
	for _, b := range []string{"", "null", "[]", "{", `{"pods":[null]}`, `{"node":{"usage":{"cpu":"1e999999"}}}`, `{"node":{"usage":{"cpu":""}}}`, `{"node":{"window":"-1h","timestamp":"x"}}`} {
		f.Add([]byte(b), false)
	}
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	z.Write(bytes.Repeat([]byte(" "), 64<<20)) // more than an answer may be, when it is unpacked
	z.Close()
	f.Add(zipped.Bytes(), true)
	f.Add([]byte("\x1f\x8b"), true)

	both := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	both.Add(pod("mine", "n"))
	both.Add(pod("theirs", "m"))
	boards := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})
	boards.Add(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}})
	f.Fuzz(func(t *testing.T, body []byte, zipped bool) {
		a := &asker{transport: &says{body: body, zipped: zipped}, log: slog.New(slog.DiscardHandler)}
		p, n := &pods{a, corelisters.NewPodLister(both)}, &nodes{a, corelisters.NewNodeLister(boards)}
		mine, err := p.pods.Pods("x").Get("mine")
		if err != nil {
			t.Fatal(err)
		}
		used := p.of(t.Context(), []*corev1.Pod{mine})
		if len(used) > 1 || len(used) == 1 && used[0].Name != "mine" {
			t.Fatalf("%q: %v", body, used)
		}
		all, err := n.nodes.List(labels.Everything())
		if err != nil {
			t.Fatal(err)
		}
		nodes := n.of(t.Context(), all)
		ofPods, ofNodes := &metav1.Table{}, &metav1.Table{}
		addPods(ofPods, used...)
		addNodes(ofNodes, nodes...)
		for _, table := range []*metav1.Table{ofPods, ofNodes} {
			for _, row := range table.Rows {
				if len(row.Cells) != len(table.ColumnDefinitions) {
					t.Fatalf("%q: %d cells of %d columns", body, len(row.Cells), len(table.ColumnDefinitions))
				}
			}
		}
		if _, err := json.Marshal(used); err != nil {
			t.Fatal(err)
		}
	})
}

func pod(name, node string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: name, UID: types.UID(name)}, Spec: corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{Phase: corev1.PodRunning}}
}
