// Package loop is the one shape of all controllers: named inputs whose changes
// become keys in a queue, and a reconcile function that reads the present
// state, decides, and moves one step.
//
// Invariant: one key never runs twice at once; an error is tried again, later
// each time, unless it is Permanent; Run returns only after all its goroutines.
//
// A controller is a folder with a New function like this:
//
//	func New(in Inputs) *loop.Loop {
//		c := &controller{Inputs: in}
//		l := loop.New("widget-controller", in.Log, c.reconcile)
//		loop.Watch(l, in.Widgets, loop.Self)
//		loop.Watch(l, in.Pods, loop.Owner[corev1.Pod]("Widget"))
//		return l
//	}
package loop
