package store

import (
	"testing"
	"time"
)

// TestRingAfter: what a watcher takes at a time is bounded in number and in bytes, and it takes everything in the end.
func TestRingAfter(t *testing.T) {
	for _, tt := range []struct {
		name         string
		count, size  int
		limit        int
		most, chunks int
	}{
		{"small ones", 10, 100, 4, 4, 3},
		{"large ones", 10, chunkBytes / 3, 8, 2, 5},
		{"each too large", 3, 2 * chunkBytes, 8, 1, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var g ring
			for n := range tt.count {
				g.add(change{rev: int64(n + 1), at: time.Now(), prev: newItem("k", 1, make([]byte, tt.size))})
			}
			rev, chunks := int64(0), 0
			for rev < g.last() {
				news, ok := g.after(rev, tt.limit)
				if !ok || len(news) == 0 || len(news) > tt.most || news[0].rev != rev+1 {
					t.Fatalf("after %d: %d changes, %v", rev, len(news), ok)
				}
				rev = news[len(news)-1].rev
				chunks++
			}
			if chunks != tt.chunks {
				t.Errorf("%d chunks, want %d", chunks, tt.chunks)
			}
		})
	}
}
