package events

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestRepeatedEventIsOneObject(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var got []*corev1.Event
	r := New("pi", func(e *corev1.Event) { got = append(got, e) }, func() time.Time { return now })
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "web", UID: "u"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}}
	for range 3 {
		r.Event(Container(pod, "c"), corev1.EventTypeWarning, BackOff, "Back-off restarting failed container c in pod web_a(u)")
		now = now.Add(time.Second)
	}
	last := got[len(got)-1]
	if len(got) != 3 || last.Name != got[0].Name || last.Count != 3 || last.FirstTimestamp.Equal(&last.LastTimestamp) {
		t.Fatalf("%+v", got)
	}
	if last.InvolvedObject.FieldPath != "spec.containers{c}" || last.Source != (corev1.EventSource{Component: "kubelet", Host: "pi"}) {
		t.Errorf("%+v", last)
	}
}

func TestNoisyObjectIsBounded(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	count := 0
	r := New("pi", func(*corev1.Event) { count++ }, func() time.Time { return now })
	for range 3600 { // an hour of a failing probe
		r.Event(corev1.ObjectReference{UID: "u"}, corev1.EventTypeWarning, Unhealthy, "Readiness probe failed")
		now = now.Add(time.Second)
	}
	if count < 36 || count > 38 {
		t.Errorf("%d events in an hour", count)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	now := time.Now()
	r := New("pi", func(*corev1.Event) {}, func() time.Time { return now })
	for i := range 3000 {
		now = now.Add(6 * time.Minute)
		r.Eventf(corev1.ObjectReference{UID: "u"}, corev1.EventTypeNormal, Pulled, "%d", i)
	}
	if len(r.known) > remembered {
		t.Errorf("%d remembered", len(r.known))
	}
}

// TestLongMessage: the API takes 1,024 bytes, and no half of a letter.
func TestLongMessage(t *testing.T) {
	var got *corev1.Event
	r := New("pi", func(e *corev1.Event) { got = e }, time.Now)
	r.Event(corev1.ObjectReference{UID: "u"}, corev1.EventTypeWarning, Failed, strings.Repeat("я", 1000))
	if n := len(got.Message); n > longest || n < longest-4 || !utf8.ValidString(got.Message) || !strings.HasSuffix(got.Message, "я...") {
		t.Errorf("%d bytes: %q", n, got.Message)
	}
}
