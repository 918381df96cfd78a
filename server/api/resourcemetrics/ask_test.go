package resourcemetrics

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/types"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"bramble.dev/link"
)

// board answers at once, and counts how often it is asked.
type board struct {
	usage link.Usage
	asked int
}

func (b *board) RoundTrip(*http.Request) (*http.Response, error) {
	b.asked++
	body, err := json.Marshal(b.usage)
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(bytes.NewReader(body))}, err
}

func (b *board) starts(uid types.UID) {
	var m metricsv1beta1.PodMetrics
	m.UID = uid
	b.usage.Pods = append(b.usage.Pods, m)
}

// An answer is kept, but not when it is asked about a pod that may have started since.
func TestAnswersAreKeptWhileTheyAreNews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &board{}
		a := &asker{transport: b, log: slog.New(slog.DiscardHandler)}
		b.starts("old")
		for _, x := range []struct {
			after time.Duration
			pods  []types.UID
			asked int
			what  string
		}{
			{0, nil, 1, "a first request"},
			{fresh, nil, 1, "the node alone"},
			{fresh, []types.UID{"old"}, 1, "a pod that was told of"},
			{0, []types.UID{"old", "new"}, 2, "a pod that was not"},
			{0, []types.UID{"new"}, 2, "the same at once"},
			{fresh, []types.UID{"none"}, 3, "a pod that no node knows"},
			{kept - fresh, []types.UID{"new"}, 3, "an answer outlives the one before it"},
			{2 * fresh, []types.UID{"new"}, 4, "an old answer"},
		} {
			time.Sleep(x.after)
			if x.asked == 2 && b.asked == 1 {
				b.starts("new")
			}
			u := a.ask(t.Context(), map[string][]types.UID{"pi": x.pods})["pi"]
			if u == nil || b.asked != x.asked {
				t.Errorf("%s: asked %d times, want %d", x.what, b.asked, x.asked)
			}
		}
		time.Sleep(kept)
		synctest.Wait()
		if len(a.answers) != 0 {
			t.Error("an answer stays in memory")
		}
	})
}
