package mesh

import (
	"runtime"

	"github.com/vishvananda/netns"
)

// inNetNS runs f on a thread that is in a namespace for that time. The goroutine is its own, so that a
// thread that cannot come back ends with it.
func inNetNS(path string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		done <- func() error {
			runtime.LockOSThread()
			before, err := netns.Get()
			if err != nil {
				return err
			}
			defer before.Close()
			ns, err := netns.GetFromPath(path)
			if err != nil {
				return err
			}
			defer ns.Close()
			if err := netns.Set(ns); err != nil {
				return err
			}
			err = f()
			if netns.Set(before) == nil {
				runtime.UnlockOSThread()
			}
			return err
		}()
	}()
	return <-done
}
