package dispatch

// turns is how many may do the same at a time.
type turns chan struct{}

// do waits for its turn and runs f on a goroutine of its own, until it is done. What f needs is a deep stack, tens of KiB that a
// goroutine keeps for a while: so there are as many of them as turns, and not one for each of a thousand nodes, whose own
// goroutines wait with a small one.
func (t turns) do(f func()) {
	t <- struct{}{}
	done := make(chan struct{})
	go func() {
		f()
		close(done)
	}()
	<-done
	<-t // here, so that whoever waits runs next: woken before us, he would run after all others that can
}
