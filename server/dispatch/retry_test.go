package dispatch

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"log/slog"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"bramble.dev/link"
	"bramble.dev/server/auth"
	"bramble.dev/server/cache/cachetest"
)

// TestAConflictIsNoWarning: others write a Node at the same time, and the report is written a moment later.
func TestAConflictIsNoWarning(t *testing.T) {
	pki, err := auth.OpenPKI(t.TempDir(), auth.PKIOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		err   error
		quiet bool
	}{
		{"a conflict", apierrors.NewConflict(schema.GroupResource{Resource: "nodes"}, "pi1", errors.New("changed")), true},
		{"a full disk", apierrors.NewInternalError(errors.New("the disk is full")), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			api := cachetest.New()
			var said bytes.Buffer
			d, err := New(Config{Caches: api.Set(t), Client: api.Client(), Transport: noTransport{}, Identity: pki, Logger: slog.New(slog.NewTextHandler(&said, nil)),
				LinkKey: func() ([]byte, crypto.Signer, error) { return nil, nil, errors.New("none") }})
			if err != nil {
				t.Fatal(err)
			}
			nodes := api.Client().CoreV1().Nodes()
			if _, err := nodes.Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "pi1"}}, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			failures := 1
			api.SetFail(func(verb string, _ schema.GroupResource, _ runtime.Object) error {
				if failures--; verb == "update" && failures >= 0 {
					return c.err
				}
				return nil
			})
			report := link.NodeReport{Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}}}
			value, err := report.Encode()
			if err != nil {
				t.Fatal(err)
			}
			n := &node{d: d, name: "pi1"}
			n.applyOne(context.Background(), link.Change{Key: link.NodeReportKey, Value: value})
			have, err := nodes.Get(t.Context(), "pi1", metav1.GetOptions{})
			if err != nil || len(have.Status.Conditions) != 1 {
				t.Errorf("the report was not written: %v, %+v", err, have.Status)
			}
			if quiet := said.Len() == 0; quiet != c.quiet {
				t.Errorf("the log says %q", said.String())
			}
		})
	}
}
