package api

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"bramble.dev/link"
)

// nodesThatTell are nodes whose kubelets answer what they use; those that are away do not.
type nodesThatTell struct {
	asked atomic.Int32
	usage map[string]*link.Usage
}

func (n *nodesThatTell) dial(ctx context.Context, node string) (net.Conn, error) {
	u := n.usage[node]
	if u == nil {
		return nil, errors.New("node " + node + " is away")
	}
	here, there := net.Pipe()
	go http.Serve(&once{conn: there}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.asked.Add(1)
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		defer z.Close()
		json.NewEncoder(z).Encode(u)
	}))
	return here, nil
}

// once accepts one connection.
type once struct{ conn net.Conn }

func (o *once) Accept() (net.Conn, error) {
	if c := o.conn; c != nil {
		o.conn = nil
		return c, nil
	}
	return nil, net.ErrClosed
}
func (o *once) Close() error   { return nil }
func (o *once) Addr() net.Addr { return &net.UnixAddr{} }

func usage(cpu, memory string) corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
}

// What nodes and pods use is asked of the nodes when somebody asks for it, and shown as metrics-server shows it.
func TestResourceMetrics(t *testing.T) {
	told := &nodesThatTell{usage: map[string]*link.Usage{}}
	c := start(t, t.TempDir(), func(c *Config) { c.NodeDialer = told.dial })
	ctx := t.Context()
	for _, name := range []string{"pi-1", "pi-2"} {
		must(c.client.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"board": name}}}, metav1.CreateOptions{}))(t)
	}
	must(c.client.CoreV1().ServiceAccounts("default").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}))(t)
	at, window := metav1.NewTime(time.Unix(1000, 0)), metav1.Duration{Duration: time.Second}
	u := &link.Usage{Node: metricsv1beta1.NodeMetrics{Timestamp: at, Window: window, Usage: usage("1500m", "64Mi")}}
	// The liar tells of pods that are not its own, too.
	told.usage["liar"] = &link.Usage{}
	for name, app := range map[string]string{"a": "x", "b": "y", "c": "z"} {
		node := "pi-1"
		if name == "c" {
			node = "liar"
		}
		pod := must(c.client.CoreV1().Pods("default").Create(ctx, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": app}},
			Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "one", Image: "i"}}},
		}, metav1.CreateOptions{}))(t)
		pod.Status.Phase = corev1.PodRunning
		must(c.client.CoreV1().Pods("default").UpdateStatus(ctx, pod, metav1.UpdateOptions{}))(t)
		if name == "c" {
			told.usage["liar"].Pods = append(told.usage["liar"].Pods, metricsv1beta1.PodMetrics{ObjectMeta: metav1.ObjectMeta{UID: pod.UID}})
			continue
		}
		told.usage["liar"].Pods = append(told.usage["liar"].Pods, metricsv1beta1.PodMetrics{ObjectMeta: metav1.ObjectMeta{UID: pod.UID}, Containers: []metricsv1beta1.ContainerMetrics{{Name: "one", Usage: usage("9", "9Gi")}}})
		u.Pods = append(u.Pods, metricsv1beta1.PodMetrics{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: pod.UID}, Timestamp: at, Window: window, Containers: []metricsv1beta1.ContainerMetrics{
			{Name: "one", Usage: usage("250m", "1Mi")}, {Name: "two", Usage: usage("5m", "1Mi")},
		}})
	}
	told.usage["pi-1"] = u

	const root, table = "/apis/metrics.k8s.io/v1beta1", "Accept: application/json;as=Table;g=meta.k8s.io;v=v1"
	for _, x := range []struct {
		path, header, want, not string
		code                    int
	}{
		{"/apis", "", `"metrics.k8s.io/v1beta1"`, "", 200},
		{root, "", `"PodMetrics"`, "watch", 200},
		{root + "/nodes", "", `"usage":{"cpu":"1500m","memory":"64Mi"}`, "pi-2", 200},
		{root + "/nodes?labelSelector=board%3Dpi-2", "", `"items":[]`, "pi-1", 200},
		{root + "/nodes/pi-1", "", `"window":"1s"`, "", 200},
		{root + "/nodes/pi-2", "", `nodemetrics.metrics.k8s.io \"pi-2\" not found`, "", 404},
		{root + "/nodes/pi-3", "", `\"pi-3\" not found`, "", 404},
		{root + "/nodes", table, `"cells":["pi-1","1500m","64Mi","1s"]`, "pi-2", 200},
		{root + "/pods", "", `"name":"two"`, `"9"`, 200},
		{root + "/pods", table, `"cells":["b","255m","2Mi","1s"]`, "", 200},
		{root + "/namespaces/default/pods?labelSelector=app%3Dx", "", `"name":"a"`, `"name":"b"`, 200},
		{root + "/namespaces/default/pods?fieldSelector=metadata.name%3Db", "", `"name":"b"`, `"name":"a"`, 200},
		{root + "/namespaces/kube-system/pods", "", `"items":[]`, "", 200},
		{root + "/namespaces/default/pods/a", "", `"labels":{"app":"x"}`, "", 200},
		{root + "/namespaces/default/pods/none", "", `pods \"none\" not found`, "", 404},
	} {
		var headers []string
		if x.header != "" {
			headers = append(headers, x.header)
		}
		a := ask(t, c.config, "GET", x.path, "", headers...)
		if a.code != x.code || !strings.Contains(a.body, x.want) || x.not != "" && strings.Contains(a.body, x.not) {
			t.Errorf("%s: %d %.600s", x.path, a.code, a.body)
		}
	}
	if n := told.asked.Load(); n != 2 {
		t.Errorf("two nodes were asked %d times within seconds", n)
	}
	if a := ask(t, c.config, "DELETE", root+"/nodes/pi-1", ""); a.code != 405 {
		t.Errorf("delete: %d", a.code)
	}
}
