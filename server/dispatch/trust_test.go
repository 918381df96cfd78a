package dispatch_test

import (
	"bytes"
	"compress/flate"
	"context"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"bramble.dev/link"
	"bramble.dev/link/carrier"
)

// spy is somebody else on the broker: it hears everything and may say anything.
type spy struct {
	client *carrier.Client
	mu     sync.Mutex
	heard  []heard
}

type heard struct {
	topic   string
	payload []byte
}

func (m *mosquitto) spy(t testing.TB) *spy {
	s := &spy{}
	u, err := carrier.ParseURL(m.plain)
	if err != nil {
		t.Fatal(err)
	}
	s.client = must[*carrier.Client](t)(carrier.Connect(context.Background(), carrier.Options{URL: u, ClientID: "spy", Subscribe: []string{"#"},
		Receive: func(topic string, payload []byte) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.heard = append(s.heard, heard{topic, bytes.Clone(payload)})
		}}))
	t.Cleanup(s.client.Close)
	return s
}

func (s *spy) all() []heard {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]heard(nil), s.heard...)
}

func (s *spy) say(t testing.TB, topic string, payload []byte) {
	if err := s.client.Publish(topic, payload); err != nil {
		t.Fatal(err)
	}
}

// contains looks for text in bytes, also in what they hold compressed.
func contains(b []byte, text string) bool {
	if bytes.Contains(b, []byte(text)) {
		return true
	}
	for i := range b {
		if i > 64 {
			break
		}
		plain, _ := io.ReadAll(flate.NewReader(bytes.NewReader(b[i:])))
		if bytes.Contains(plain, []byte(text)) {
			return true
		}
	}
	return false
}

// TestBrokerIsNotTrusted: who runs the broker, or is another client of it, reads nothing and starts nothing.
func TestBrokerIsNotTrusted(t *testing.T) {
	c := newCluster(t)
	m := startMosquitto(t)
	m.use(c)
	s := m.spy(t)
	ctx := context.Background()
	const password = "correct-horse-battery-staple"
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "hidden-secret"}, Data: map[string][]byte{"password": []byte(password)}}
	if _, err := c.client.CoreV1().Secrets("default").Create(ctx, secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.start()
	b := c.board("pi1")
	b.start(c, c.token)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "hidden-pod"}, Spec: corev1.PodSpec{NodeName: "pi1",
		Containers: []corev1.Container{{Name: "c", Image: "i", EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "hidden-secret"}}}}}}}}
	pod = must[*corev1.Pod](t)(c.client.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{}))
	eventually(t, "pod and Secret are on the node", func() bool {
		return b.has("node", "secrets/default/hidden-secret") && b.has("node", "pods/default/hidden-pod")
	})
	running := link.PodReport{UID: pod.UID, Status: corev1.PodStatus{Phase: corev1.PodRunning, Message: "hidden-message"}}
	b.put("pods/default/hidden-pod/"+string(pod.UID), must[[]byte](t)(running.Encode()))
	conn, err := b.u.Dial(ctx, "api")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("hidden-stream")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, len("hidden-stream"))); err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	phase := func() corev1.PodPhase {
		p := must[*corev1.Pod](t)(c.client.CoreV1().Pods("default").Get(ctx, "hidden-pod", metav1.GetOptions{}))
		return p.Status.Phase
	}
	eventually(t, "status", func() bool { return phase() == corev1.PodRunning })

	recorded := s.all()
	if len(recorded) < 10 {
		t.Fatalf("the spy heard %d messages", len(recorded))
	}
	parts := strings.Split(c.token, ".")
	for _, text := range []string{password, "hidden", "default", "password", parts[2] + parts[3], parts[3]} {
		for _, h := range recorded {
			if contains(h.payload, text) {
				t.Errorf("the spy can read %q at %s", text, h.topic)
			}
		}
		if contains(m.log.Bytes(), text) {
			t.Errorf("%q is in the broker's log", text)
		}
	}

	// The pod is deleted and gone; then the spy says all again, in order, at random, and bent.
	eventually(t, "acknowledged", func() bool { b.mu.Lock(); defer b.mu.Unlock(); return len(b.acked) > 0 })
	if err := c.client.CoreV1().Pods("default").Delete(ctx, "hidden-pod", metav1.DeleteOptions{GracePeriodSeconds: new(int64)}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "pod is gone", func() bool { return !b.has("node", "pods/default/hidden-pod") })
	attack := func(when string) {
		t.Helper()
		root, shared := b.sets["node"].Root(), b.sets["shared"].Root()
		r := rand.New(rand.NewPCG(1, 2))
		recorded := s.all()
		for _, h := range recorded {
			s.say(t, h.topic, h.payload)
		}
		for range 500 {
			h := recorded[r.IntN(len(recorded))]
			bent := bytes.Clone(h.payload)
			for range 1 + r.IntN(4) {
				if len(bent) > 0 {
					bent[r.IntN(len(bent))] ^= byte(1 << r.IntN(8))
				}
			}
			s.say(t, recorded[r.IntN(len(recorded))].topic, bent[:r.IntN(len(bent)+1)])
		}
		c.configMap("after", when)
		c.pod("after-"+when, "pi1", "after")
		eventually(t, "the node is still served "+when, func() bool { return b.has("node", "pods/default/after-"+when) })
		if err := c.client.CoreV1().Pods("default").Delete(ctx, "after-"+when, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "no more and no less "+when, func() bool { return b.sets["node"].Root() == root && b.sets["shared"].Root() == shared })
		if b.has("node", "pods/default/hidden-pod") || b.has("node", "secrets/default/hidden-secret") {
			t.Error("an old set came back")
		}
		eventually(t, "status still flows "+when, func() bool {
			event := corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "e." + when}, Count: 1}
			b.put("events/default/e."+when, must[[]byte](t)(event.Marshal()))
			_, err := c.client.CoreV1().Events("default").Get(ctx, "e."+when, metav1.GetOptions{})
			return err == nil
		})
	}
	attack("now")
	// Tomorrow, after a restart of both.
	if err := b.stop(); err != nil {
		t.Error(err)
	}
	c.stop()
	c.start()
	b.start(c, "")
	eventually(t, "connected again", b.u.Connected)
	attack("tomorrow")
}
