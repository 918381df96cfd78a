package cronjob

import (
	"errors"
	"fmt"
	"sort"
	"strings"
	"time"
	_ "time/tzdata" // boards often have no time zones installed

	"github.com/robfig/cron/v3"

	batchv1 "k8s.io/api/batch/v1"
)

const (
	// late is added to each wake, so that a clock that is a little behind is not too early.
	late = 100 * time.Millisecond
	// manyMissed is the number of missed starts that is worth a warning.
	manyMissed = 100
)

// parse reads a CronJob's schedule in its time zone.
func parse(c *batchv1.CronJob) (s cron.Schedule, err error) {
	defer func() {
		if r := recover(); r != nil { // the library does on some time zones in the schedule
			err = fmt.Errorf("invalid schedule format: %v", r)
		}
	}()
	spec := c.Spec.Schedule
	if c.Spec.TimeZone != nil && !hasZone(c) {
		spec = fmt.Sprintf("TZ=%s %s", *c.Spec.TimeZone, spec)
	}
	return cron.ParseStandard(spec)
}

// hasZone says that the schedule itself names a time zone, which the API once let pass.
func hasZone(c *batchv1.CronJob) bool { return strings.Contains(c.Spec.Schedule, "TZ") }

// location is the time zone of the CronJob; UTC is the controller's own.
func location(c *batchv1.CronJob) (*time.Location, error) {
	if c.Spec.TimeZone == nil {
		return time.UTC, nil
	}
	return time.LoadLocation(*c.Spec.TimeZone)
}

// since is the time after which the first start is still to be made.
func since(c *batchv1.CronJob) time.Time {
	if t := c.Status.LastScheduleTime; t != nil {
		return t.Time
	}
	return c.CreationTimestamp.Time
}

var errNever = errors.New("time difference between two schedules is less than 1 second")

// due gives the latest time of a schedule after one time and not after another,
// zero if there is none, and about how many there are.
func due(s cron.Schedule, after, now time.Time) (latest time.Time, count int64, err error) {
	first := s.Next(after)
	if first.IsZero() {
		return time.Time{}, 0, errNever
	}
	if first.After(now) {
		return time.Time{}, 0, nil
	}
	second := s.Next(first)
	step := second.Sub(first).Round(time.Second)
	if step < time.Second {
		return time.Time{}, 0, errNever
	}
	count = int64(now.Sub(first)/step) + 1
	if every, ok := s.(cron.ConstantDelaySchedule); ok { // its times depend on where one begins
		return first.Add(now.Sub(first) / every.Delay * every.Delay), count, nil
	}
	// The next time after t is still due just as long as t is before the latest one.
	seconds := sort.Search(int(now.Sub(first)/time.Second)+1, func(n int) bool {
		next := s.Next(first.Add(time.Duration(n) * time.Second))
		return next.IsZero() || next.After(now)
	})
	if seconds == 0 {
		return first, count, nil
	}
	return s.Next(first.Add(time.Duration(seconds-1) * time.Second)), count, nil
}

// wake is how long it takes until the schedule's next time.
func wake(c *batchv1.CronJob, s cron.Schedule, now time.Time) time.Duration {
	last, _, err := due(s, since(c), now)
	switch {
	case err != nil:
		last = now
	case last.IsZero():
		last = since(c)
	}
	return s.Next(last).Add(late).Sub(now)
}
