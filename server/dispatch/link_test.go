package dispatch_test

import (
	"context"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"bramble.dev/link"
)

func TestMainJob(t *testing.T) { overBrokers(t, mainJob) }

func mainJob(t *testing.T, c *cluster) {
	c.service("web")
	c.configMap("motd", "hello")
	c.configMap("other", "not for the node")
	c.start()
	b := c.board("pi1")
	b.start(c, c.token)
	pod := c.pod("p", "pi1", "motd")
	c.pod("elsewhere", "pi2", "other")
	eventually(t, "pod, ConfigMap and Service are on the node", func() bool {
		return b.has("node", "pods/default/p") && b.has("node", "configmaps/default/motd") && b.has("shared", "services/default/web") && b.has("node", "node/pi1") && b.has("shared", link.ClusterKey)
	})
	if b.has("node", "configmaps/default/other") || b.has("node", "pods/default/elsewhere") {
		t.Error("the node has what it does not need")
	}
	eventually(t, "synced", func() bool { return b.u.Synced("node") && b.u.Synced("shared") && b.u.Connected() })

	c.configMap("motd", "bonjour")
	eventually(t, "change", func() bool {
		v, _ := b.sets["node"].Get("configmaps/default/motd")
		var cm corev1.ConfigMap
		return cm.Unmarshal(v) == nil && cm.Data["data"] == "bonjour"
	})

	report := link.PodReport{UID: pod.UID, Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.42.0.5"}}
	value := must[[]byte](t)(report.Encode())
	key := "pods/default/p/" + string(pod.UID)
	b.put(key, value)
	node := link.NodeReport{MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, Labels: map[string]string{"kubernetes.io/arch": "arm64"},
		Platforms: map[string][]string{"docker.io/team/tool:1": {"linux/amd64"}},
		Status:    corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}}}
	b.put(link.NodeReportKey, must[[]byte](t)(node.Encode()))
	event := corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p.1"}, Reason: "Started", Count: 1}
	b.put("events/default/p.1", must[[]byte](t)(event.Marshal()))
	eventually(t, "status and event arrive", func() bool {
		p, err := c.client.CoreV1().Pods("default").Get(context.Background(), "p", metav1.GetOptions{})
		if err != nil || p.Status.Phase != corev1.PodRunning || p.Status.PodIP != "10.42.0.5" {
			return false
		}
		n, err := c.client.CoreV1().Nodes().Get(context.Background(), "pi1", metav1.GetOptions{})
		if err != nil || len(n.Status.Conditions) == 0 || n.Labels["kubernetes.io/arch"] != "arm64" || n.Annotations[link.PlatformsAnnotation] != `{"docker.io/team/tool:1":["linux/amd64"]}` {
			return false
		}
		_, err = c.client.CoreV1().Events("default").Get(context.Background(), "p.1", metav1.GetOptions{})
		return err == nil
	})
	eventually(t, "acknowledged", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.acked[key] == link.VersionOf(value) && len(b.acked) == 3
	})

	// What is known of images no longer holds.
	node.Platforms = nil
	b.put(link.NodeReportKey, must[[]byte](t)(node.Encode()))
	eventually(t, "platforms are taken back", func() bool {
		n, err := c.client.CoreV1().Nodes().Get(context.Background(), "pi1", metav1.GetOptions{})
		_, told := n.Annotations[link.PlatformsAnnotation]
		return err == nil && !told
	})

	// The pod is deleted; when nothing of it is left its object goes.
	if err := c.client.CoreV1().Pods("default").Delete(context.Background(), "p", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "deletion is told", func() bool {
		v, _ := b.sets["node"].Get("pods/default/p")
		var p corev1.Pod
		return p.Unmarshal(v) == nil && p.DeletionTimestamp != nil
	})
	report.Terminated, report.Status.Phase = true, corev1.PodSucceeded
	b.put(key, must[[]byte](t)(report.Encode()))
	eventually(t, "pod and what it named are gone", func() bool {
		return !b.has("node", "pods/default/p") && !b.has("node", "configmaps/default/motd")
	})
}

func TestStreams(t *testing.T) { overBrokers(t, streams) }

func streams(t *testing.T, c *cluster) {
	c.start()
	b := c.board("pi1")
	b.start(c, c.token)
	eventually(t, "connected", b.u.Connected)
	dials := map[string]func() (net.Conn, error){
		"to the node": func() (net.Conn, error) { return c.dispatcher.DialNode(context.Background(), "pi1", "kubelet") },
		"to the API":  func() (net.Conn, error) { return b.u.Dial(context.Background(), "api") },
	}
	for name, dial := range dials {
		t.Run(name, func(t *testing.T) {
			conn := must[net.Conn](t)(dial())
			echoes(t, conn, 3<<20)
		})
	}
	t.Run("no such target", func(t *testing.T) {
		conn := must[net.Conn](t)(b.u.Dial(context.Background(), "elsewhere"))
		if _, err := conn.Read(make([]byte, 1)); err == nil || err == io.EOF {
			t.Error(err)
		} else {
			t.Log(err)
		}
	})
	t.Run("deadline", func(t *testing.T) {
		conn := must[net.Conn](t)(c.dispatcher.DialNode(context.Background(), "pi1", "kubelet"))
		defer conn.Close()
		_ = conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("read without data")
		} else if e, ok := err.(net.Error); !ok || !e.Timeout() {
			t.Error(err)
		}
	})
	if _, err := c.dispatcher.DialNode(context.Background(), "pi9", "kubelet"); err == nil {
		t.Error("dialled a node that is not there")
	}
}

// echoes sends n bytes and reads them back.
func echoes(t *testing.T, conn net.Conn, n int) {
	t.Helper()
	began := time.Now()
	sent := sha256.New()
	go func() {
		r := rand.NewChaCha8([32]byte{1})
		_, _ = io.CopyN(io.MultiWriter(conn, sent), r, int64(n))
		_ = conn.(interface{ CloseWrite() error }).CloseWrite()
	}()
	read := sha256.New()
	m, err := io.Copy(read, conn)
	if err != nil || int(m) != n || string(read.Sum(nil)) != string(sent.Sum(nil)) {
		t.Errorf("%d of %d bytes came back, %v", m, n, err)
	}
	t.Logf("%d bytes and back in %v", n, time.Since(began))
	_ = conn.Close()
}
