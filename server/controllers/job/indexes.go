package job

import (
	"slices"
	"strconv"
	"strings"
)

// span is a range of completion indexes, both ends included.
type span struct{ first, last int }

// indexes are completion indexes: spans in order that neither overlap nor touch.
type indexes []span

// parseIndexes reads what String writes. Indexes from limit on are left out, and so is
// what is no index: a status can be written by anybody who may.
func parseIndexes(s string, limit int) indexes {
	var out indexes
	for part := range strings.SplitSeq(s, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		from, err := strconv.Atoi(first)
		if err != nil || from < 0 || from >= limit {
			continue
		}
		to, err := strconv.Atoi(last)
		if err != nil || to < from {
			continue
		}
		out = append(out, span{from, min(to, limit-1)})
	}
	return out.tidy()
}

// indexesOf makes indexes of a set.
func indexesOf(set map[int]bool) indexes {
	out := make(indexes, 0, len(set))
	for i := range set {
		out = append(out, span{i, i})
	}
	return out.tidy()
}

func (x indexes) union(y indexes) indexes { return slices.Concat(x, y).tidy() }

// tidy brings spans into order and joins those that overlap or touch.
func (x indexes) tidy() indexes {
	slices.SortFunc(x, func(a, b span) int { return a.first - b.first })
	var out indexes
	for _, s := range x {
		if n := len(out); n > 0 && s.first <= out[n-1].last+1 {
			out[n-1].last = max(out[n-1].last, s.last)
			continue
		}
		out = append(out, s)
	}
	return out
}

func (x indexes) count() int {
	n := 0
	for _, s := range x {
		n += s.last - s.first + 1
	}
	return n
}

func (x indexes) has(i int) bool {
	at, found := slices.BinarySearchFunc(x, i, func(s span, i int) int { return s.first - i })
	return found || at > 0 && x[at-1].last >= i
}

// common is how many indexes are in both.
func (x indexes) common(y indexes) int {
	n := 0
	for i, j := 0, 0; i < len(x) && j < len(y); {
		n += max(min(x[i].last, y[j].last)-max(x[i].first, y[j].first)+1, 0)
		if x[i].last < y[j].last {
			i++
		} else {
			j++
		}
	}
	return n
}

// missing gives the first n indexes below limit that are not in x.
func (x indexes) missing(n, limit int) []int {
	var out []int
	next := 0
	for _, s := range append(slices.Clone(x), span{limit, limit}) {
		for ; next < min(s.first, limit); next++ {
			if len(out) == n {
				return out
			}
			out = append(out, next)
		}
		next = max(next, s.last+1)
	}
	return out
}

func (x indexes) String() string {
	var out []string
	for _, s := range x {
		switch s.last - s.first {
		case 0:
			out = append(out, strconv.Itoa(s.first))
		case 1:
			out = append(out, strconv.Itoa(s.first), strconv.Itoa(s.last))
		default:
			out = append(out, strconv.Itoa(s.first)+"-"+strconv.Itoa(s.last))
		}
	}
	return strings.Join(out, ",")
}
