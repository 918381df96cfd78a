package ingress

import (
	"errors"
	"fmt"
	"net"
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

// TestRetry: a port that is free again is no longer told as taken, and the next Set starts the process anew to have it.
func TestRetry(t *testing.T) {
	held, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	freed, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	has, free := held.Addr().(*net.TCPAddr).Port, freed.Addr().(*net.TCPAddr).Port
	r := &Runner{conn: &net.UnixConn{}, ports: []int{0, 0}, taken: []Taken{{Port: has}, {Port: free}, {Port: 1, Left: true}}}
	if r.Retry() {
		t.Error("a port is free that somebody has")
	}
	if !r.suits([]int{has, free}) {
		t.Error("the process is to have a port that somebody has")
	}
	freed.Close()
	if !r.Retry() {
		t.Error("a port is not free that nobody has")
	}
	if want := []Taken{{Port: has}, {Port: 1, Left: true}}; !slices.Equal(r.Taken(), want) {
		t.Errorf("taken are %v, want %v", r.Taken(), want)
	}
	if r.suits([]int{has, free}) {
		t.Error("the next Set does not take the port")
	}
	r = &Runner{ports: []int{0, has}, taken: []Taken{{Port: free, Left: true}}}
	if !r.suits([]int{0, has}) {
		t.Error("the process is to have a port that is left to others")
	}
	if r.suits([]int{free, has}) {
		t.Error("a port that others do not want any more is not taken")
	}
}
