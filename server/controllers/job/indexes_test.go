package job

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestIndexesAreSets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := rapid.MapOf(rapid.IntRange(0, 30), rapid.Just(true))
		a, b := draw.Draw(t, "a"), draw.Draw(t, "b")
		x, y := indexesOf(a), indexesOf(b)
		both := 0
		for i := range 32 {
			if x.has(i) != a[i] {
				t.Fatalf("%v has %d: %v", x, i, x.has(i))
			}
			if x.union(y).has(i) != (a[i] || b[i]) {
				t.Fatalf("%v and %v make %v", x, y, x.union(y))
			}
			if a[i] && b[i] {
				both++
			}
		}
		if x.common(y) != both || x.count() != len(a) {
			t.Fatalf("%v and %v have %d in common, %v has %d", x, y, x.common(y), x, x.count())
		}
		if back := parseIndexes(x.String(), 31); !slices.Equal(back, x) {
			t.Fatalf("%v is written as %q and read as %v", x, x.String(), back)
		}
		n := rapid.IntRange(0, 40).Draw(t, "n")
		var want []int
		for i := 0; i < 25 && len(want) < n; i++ {
			if !a[i] {
				want = append(want, i)
			}
		}
		if got := x.missing(n, 25); !slices.Equal(got, want) {
			t.Fatalf("%v lacks %v, want %v", x, got, want)
		}
	})
}

func TestIndexesAsUpstreamWritesThem(t *testing.T) {
	if got := (indexes{{0, 0}, {2, 3}, {5, 9}}).String(); got != "0,2,3,5-9" {
		t.Errorf("got %s", got)
	}
}

func FuzzParseIndexes(f *testing.F) {
	for _, s := range []string{"", "0", "1,3-5,7", "5-3", "-1", "9999999999999999999", "1-2-3", "4,1-9,2"} {
		f.Add(s, 10)
	}
	f.Fuzz(func(t *testing.T, s string, limit int) {
		x := parseIndexes(s, limit)
		for i, one := range x {
			if one.first < 0 || one.last < one.first || one.last >= limit || i > 0 && one.first <= x[i-1].last+1 {
				t.Fatalf("%q is read as %v", s, x)
			}
		}
		if back := parseIndexes(x.String(), limit); !slices.Equal(back, x) {
			t.Fatalf("%v is written as %q and read as %v", x, x.String(), back)
		}
	})
}
