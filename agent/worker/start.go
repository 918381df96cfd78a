package worker

import (
	"fmt"
	"time"

	"bramble.dev/agent/podspec"
	"bramble.dev/agent/seam"
)

// The kubelet's numbers.
const (
	firstBackOff    = 10 * time.Second
	maxBackOff      = 5 * time.Minute
	forgetBackOff   = 2 * maxBackOff // a container that ran as long as this starts anew
	startRetry      = 10 * time.Second
	minGrace        = 2 * time.Second
	hurriedGrace    = time.Second // of a pod that is evicted for want of something
	maxVolumeRetry  = 2 * time.Minute
	maxSandboxRetry = time.Minute
	maxEndRetry     = time.Minute
	// showPullError is how long ErrImagePull is shown before ImagePullBackOff.
	showPullError = 3 * time.Second
)

// Reasons of containers that wait.
const (
	crashLoopBackOff = "CrashLoopBackOff"
	imagePullBackOff = "ImagePullBackOff"
	errImagePull     = "ErrImagePull"
	errNeverPull     = "ErrImageNeverPull"
	errInvalidName   = "InvalidImageName"
	errConfig        = "CreateContainerConfigError"
	errCreate        = "CreateContainerError"
	errRun           = "RunContainerError"
	errPostStart     = "PostStartHookError"
)

// start plans the start of a container that does not run.
func (p *planner) start(c podspec.Container) { p.prepare(c, true) }

// prepare plans what comes before the start of a container, and the start itself if it may. It says
// whether the container is on its way: it is not, while it is held back after a failure.
func (p *planner) prepare(c podspec.Container, mayStart bool) bool {
	past := p.o.Memory.Containers[c.Name].of(c)
	if p.o.Busy[imageWork(c.Name)] != 0 {
		return true
	}
	if p.later(past.NotBefore, startRetry) {
		return false
	}
	if o, ok := p.inSandbox(c.Name); ok && o.State != seam.Exited && o.State != seam.Running {
		return p.unfit(o, past)
	}
	if p.crashLoop(c, past) {
		return false
	}
	if past.Image.ID == "" {
		return p.image(c, past)
	}
	if mayStart {
		p.do(Action{Kind: StartContainer, Container: c.Name, Attempt: p.attempt(c.Name)})
	}
	return true
}

// unfit takes away a container that was never started, or of which nobody knows how it is: it may
// still run, and two of one name must not.
func (p *planner) unfit(o seam.Container, past Past) bool {
	switch {
	case p.o.Busy[o.ID] != 0:
	case o.State == seam.Unknown && (past.Stop == nil || past.Stop.ID != o.ID):
		p.do(Action{Kind: StopContainer, Container: o.Name, ID: o.ID})
	default:
		p.do(Action{Kind: RemoveContainer, Container: o.Name, ID: o.ID})
	}
	return true
}

// attempt is the number of the next start: one more than any that somebody remembers.
func (p *planner) attempt(name string) uint32 {
	n := p.o.Memory.Containers[name].Attempt
	for _, o := range p.byName[name] {
		n = max(n, o.Attempt+1)
	}
	return n
}

// crashLoop holds a container back that ended a short time ago, and ended before.
func (p *planner) crashLoop(c podspec.Container, past Past) bool {
	e, ok := p.last(c.Name)
	if !ok || e.reset || past.BackOff == 0 || p.again(c.Name) || e.at.Sub(past.BackOffAt) > forgetBackOff {
		return false
	}
	if !p.later(e.at.Add(past.BackOff), past.BackOff) {
		return false
	}
	if past.Waiting == nil || past.Waiting.Reason != crashLoopBackOff {
		p.do(Action{
			Kind: HoldBack, Container: c.Name, Reason: crashLoopBackOff,
			Message: fmt.Sprintf("back-off %s restarting failed container=%s pod=%s", past.BackOff, c.Name, podspec.Full(p.d.Pod)),
		})
	}
	return true
}

// of is what still holds of a container's past once it is defined so.
func (past Past) of(c podspec.Container) Past {
	trial := podspec.Trial(c.Container)
	if past.Trial != "" && past.Trial != trial {
		past.BackOff, past.BackOffAt, past.Waiting, past.NotBefore, past.Image = 0, time.Time{}, nil, time.Time{}, Image{}
	}
	past.Trial = trial
	return past
}

// grown is the back-off after one more start of a container that ended at that time.
func (past Past) grown(ended, now time.Time) Past {
	if past.BackOff == 0 || ended.Sub(past.BackOffAt) > forgetBackOff {
		past.BackOff = firstBackOff
	} else {
		past.BackOff = min(2*past.BackOff, maxBackOff)
	}
	past.BackOffAt = now
	return past
}

// image plans to make a container's image present.
func (p *planner) image(c podspec.Container, past Past) bool {
	if past.Image.Error == "" {
		return p.do(Action{Kind: EnsureImage, Container: c.Name})
	}
	if !p.later(past.Image.FailedAt.Add(past.Image.BackOff), maxBackOff) {
		return p.do(Action{Kind: EnsureImage, Container: c.Name})
	}
	if past.Waiting != nil && past.Waiting.Reason == errImagePull && !p.later(past.Image.FailedAt.Add(showPullError), showPullError) {
		p.do(Action{
			Kind: HoldBack, Container: c.Name, Reason: imagePullBackOff,
			Message: fmt.Sprintf("Back-off pulling image %q: %s: %s", c.Image, errImagePull, past.Image.Error),
		})
	}
	return false
}
