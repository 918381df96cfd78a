package agent

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"bramble.dev/agent/state"
)

// TestEventsKeepTheirOrder: what waits for the server is still the oldest first after a restart, so that the oldest is
// what is dropped at the bound.
func TestEventsKeepTheirOrder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.db")
	open := func() (*state.DB, *reports) {
		db, err := state.Open(path, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		r, err := openReports(db, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		return db, r
	}
	db, r := open()
	began := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	var want []string
	for i := range 20 {
		name := fmt.Sprintf("pod.%02d", 99-i) // names in the other order
		r.event(&corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, LastTimestamp: metav1.NewTime(began.Add(time.Duration(i) * time.Second))})
		want = append(want, "events/default/"+name)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db, r = open()
	defer db.Close()
	if !slices.Equal(r.events, want) {
		t.Errorf("after a restart %v, want %v", r.events, want)
	}
}
