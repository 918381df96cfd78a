// Package events records what controllers and scheduler did or could not do as
// Events of the core API, counted and aggregated as upstream's are, so that a
// controller in trouble cannot flood the store.
//
// Invariant: recording never blocks and never fails the caller; at most a
// thousand events wait, more are dropped. Each is written under the identity of
// the component that it is from.
//
//	recorder := events.New()
//	defer recorder.Close()
//	rec := recorder.For("deployment-controller", client)
//	rec.Eventf(deployment, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled up %s", name)
//
// Tests: server/scheduler/scheduler_test.go
package events

import (
	"context"
	"fmt"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/record"

	corev1 "k8s.io/api/core/v1"
)

const writeTimeout = 10 * time.Second

// Recorder gives each component its own recorder over one queue.
type Recorder struct {
	broadcaster record.EventBroadcaster

	mu      sync.Mutex
	clients map[string]kubernetes.Interface
}

// New makes a recorder that works until Close.
func New() *Recorder {
	r := &Recorder{clients: map[string]kubernetes.Interface{}, broadcaster: record.NewBroadcaster()}
	r.broadcaster.StartRecordingToSink(sink{r})
	return r
}

// For gives the recorder of a component, which writes with its client.
func (r *Recorder) For(component string, client kubernetes.Interface) record.EventRecorder {
	r.mu.Lock()
	r.clients[component] = client
	r.mu.Unlock()
	return r.broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: component})
}

// Close ends the recording.
func (r *Recorder) Close() { r.broadcaster.Shutdown() }

// sink sends an event with the client of its component.
type sink struct{ *Recorder }

func (s sink) client(e *corev1.Event) (kubernetes.Interface, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.clients[e.Source.Component]; ok {
		return c, nil
	}
	return nil, fmt.Errorf("no client records the events of %q", e.Source.Component)
}

func (s sink) Create(e *corev1.Event) (*corev1.Event, error) {
	c, err := s.client(e)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
	defer cancel()
	return c.CoreV1().Events(e.Namespace).CreateWithEventNamespaceWithContext(ctx, e)
}

func (s sink) Update(e *corev1.Event) (*corev1.Event, error) {
	c, err := s.client(e)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
	defer cancel()
	return c.CoreV1().Events(e.Namespace).Update(ctx, e, metav1.UpdateOptions{})
}

func (s sink) Patch(e *corev1.Event, data []byte) (*corev1.Event, error) {
	c, err := s.client(e)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
	defer cancel()
	return c.CoreV1().Events(e.Namespace).PatchWithEventNamespaceWithContext(ctx, e, data)
}
