package seam

import "sync"

// Output keeps the beginning of what a command prints. It may be both its Stdout and its Stderr,
// which are written at the same time. (A bytes.Buffer may not: io.Copy would use its ReadFrom.)
type Output struct {
	Max int // bytes; zero: 1 MiB

	mu   sync.Mutex
	kept []byte
}

// Write keeps what there is room for, and takes the rest.
func (o *Output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	most := o.Max
	if most == 0 {
		most = 1 << 20
	}
	if room := most - len(o.kept); room > 0 {
		o.kept = append(o.kept, b[:min(room, len(b))]...)
	}
	return len(b), nil
}

// String is what was kept.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.kept)
}
