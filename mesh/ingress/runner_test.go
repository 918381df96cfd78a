package ingress

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestLackingPorts: only what Ingresses want can be lacking, however much others have.
func TestLackingPorts(t *testing.T) {
	for _, c := range []struct {
		name   string
		taken  []int // that could not be had last time
		wanted []int
		except map[int]string
		want   string
	}{
		{"none", nil, []int{80, 443}, nil, ""},
		{"a program has one", []int{80}, []int{80, 443}, nil, "80"},
		{"a Service has one", nil, []int{0, 443}, map[int]string{80: "Service default/web"}, "80: Service default/web"},
		{"a Service has another port", nil, []int{80, 443}, map[int]string{7000: "Service default/game"}, ""},
		{"a program had one that is a Service's now", []int{80}, []int{0, 443}, map[int]string{80: "Service default/web"}, "80: Service default/web"},
	} {
		r := &Runner{Options: Options{HTTP: 80, HTTPS: 443}}
		for _, port := range c.taken {
			r.taken = append(r.taken, Taken{Port: port, Err: errors.New("")})
		}
		var got []string
		for _, l := range r.lacking(c.wanted, c.except) {
			got = append(got, strings.TrimSuffix(fmt.Sprintf("%d: %v", l.Port, l.Err), ": "))
		}
		slices.Sort(got)
		if s := strings.Join(got, ", "); s != c.want {
			t.Errorf("%s: %q, want %q", c.name, s, c.want)
		}
	}
}
