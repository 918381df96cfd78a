// Package shortage sees to it that a board which runs short of memory, disk or processes goes on working: it frees what nobody
// needs, and then ends pods, in the kubelet's order and words. It is what the kubelet calls image garbage collection and
// node-pressure eviction (pkg/kubelet/images, pkg/kubelet/eviction).
//
// Invariants: what to do is decided by pure functions of what was observed; a pod is ended only after what can be had without
// ending one has been taken; an image that a pod of this node needs, or may have to go back to, is never removed, and one that
// was imported by hand only when nothing else helps. While there is no shortage nothing is written, and nothing is read but a
// few counters of the kernel.
//
//	g := shortage.New(shortage.Config{Thresholds: thresholds, Levels: func() shortage.Levels { return shortage.Look(dir, images) }, ...})
//	pressure := g.Pressure() // for the node's status
//	g.Run(ctx)
package shortage
