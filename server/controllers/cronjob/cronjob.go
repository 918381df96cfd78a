package cronjob

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/controllers/loop"
)

var kind = batchv1.SchemeGroupVersion.WithKind("CronJob")

// Inputs is what the controller reads and writes with.
type Inputs struct {
	Client   kubernetes.Interface
	Events   record.EventRecorder
	CronJobs *cache.Cache[batchv1.CronJob]
	Jobs     *cache.Cache[batchv1.Job]
	Log      *slog.Logger
}

type controller struct {
	Inputs
	loop   *loop.Loop
	writes loop.Writes
}

// New makes the controller of CronJobs.
func New(in Inputs) *loop.Loop {
	c := &controller{Inputs: in}
	c.loop = loop.New("cronjob-controller", in.Log, c.reconcile)
	loop.Watch(c.loop, in.CronJobs, c.keysOfCron)
	loop.Watch(c.loop, in.Jobs, loop.Owner[batchv1.Job](kind.Kind))
	return c.loop
}

// keysOfCron lets a new schedule begin at its next time: what it would have
// started before it was set is not made up for.
func (c *controller) keysOfCron(change cache.Change[batchv1.CronJob]) []loop.Key {
	key := change.Key()
	if change.Old == nil || change.New == nil || sameSchedule(change.Old, change.New) {
		return []loop.Key{key}
	}
	s, err := parse(change.New)
	if err != nil {
		c.Events.Eventf(change.New, corev1.EventTypeWarning, "UnParseableCronJobSchedule", "unparseable schedule for cronjob: %s", change.New.Spec.Schedule)
		return nil
	}
	c.loop.After(key, wake(change.New, s, time.Now()))
	return nil
}

func sameSchedule(a, b *batchv1.CronJob) bool {
	return a.Spec.Schedule == b.Spec.Schedule && equality.Semantic.DeepEqual(a.Spec.TimeZone, b.Spec.TimeZone)
}

func (c *controller) reconcile(ctx context.Context, key loop.Key) error {
	if err := c.writes.Settle(ctx, key); err != nil {
		return err
	}
	cron, ok := c.CronJobs.Get(key.Namespace, key.Name)
	if !ok {
		return nil
	}
	jobs := c.Jobs.ByOwner(cron.UID)
	gone, err := c.missing(ctx, cron, jobs)
	if err != nil {
		return err
	}
	return c.apply(ctx, key, cron, decide(observed{
		cron: cron, jobs: jobs, now: time.Now(),
		gone: func(ref corev1.ObjectReference) bool { return gone[ref.UID] },
	}))
}

// missing are the listed Jobs that are not there. The API is asked: the cache of
// Jobs may be behind that of CronJobs.
func (c *controller) missing(ctx context.Context, cron *batchv1.CronJob, jobs []*batchv1.Job) (map[types.UID]bool, error) {
	known, gone := map[types.UID]bool{}, map[types.UID]bool{}
	for _, j := range jobs {
		known[j.UID] = true
	}
	for _, ref := range cron.Status.Active {
		if known[ref.UID] {
			continue
		}
		j, err := c.Client.BatchV1().Jobs(cron.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err), err == nil && j.UID != ref.UID:
			gone[ref.UID] = true
		case err != nil:
			return nil, fmt.Errorf("read active Job %s: %w", ref.Name, err)
		}
	}
	return gone, nil
}

// apply carries a plan out.
func (c *controller) apply(ctx context.Context, key loop.Key, cron *batchv1.CronJob, p plan) error {
	for _, e := range p.events {
		c.Events.Event(cron, e.kind, e.reason, e.message)
	}
	var errs []error
	for _, j := range p.history {
		if err := c.remove(ctx, key, cron, j); err != nil {
			errs = append(errs, err)
		}
	}
	for _, j := range p.replace {
		if err := c.remove(ctx, key, cron, j); err != nil {
			return errors.Join(append(errs, fmt.Errorf("replace: %w", err))...)
		}
	}
	if p.create != nil {
		created, err := c.create(ctx, key, cron, p.create)
		if err != nil {
			// What was found out before is still written.
			return errors.Join(append(errs, err, c.report(ctx, key, cron, p.status))...)
		}
		if created != nil {
			p.list(created, p.at)
		}
	}
	if err := c.report(ctx, key, cron, p.status); err != nil {
		return errors.Join(append(errs, err)...)
	}
	if p.wake > 0 {
		c.loop.After(key, p.wake)
	}
	return errors.Join(errs...)
}

func (c *controller) remove(ctx context.Context, key loop.Key, cron *batchv1.CronJob, j *batchv1.Job) error {
	background := metav1.DeletePropagationBackground
	err := c.Client.BatchV1().Jobs(j.Namespace).Delete(ctx, j.Name, metav1.DeleteOptions{
		PropagationPolicy: &background, Preconditions: metav1.NewUIDPreconditions(string(j.UID)),
	})
	switch {
	case apierrors.IsNotFound(err), apierrors.IsConflict(err): // gone, or made again under its name
		return nil
	case err != nil:
		c.Events.Eventf(cron, corev1.EventTypeWarning, "FailedDelete", "Deleted job: %v", err)
		return fmt.Errorf("delete Job %s: %w", j.Name, err)
	}
	c.writes.Add(key, c.Jobs.Until(j.Namespace, j.Name, func(now *batchv1.Job) bool {
		return now == nil || now.UID != j.UID || now.DeletionTimestamp != nil
	}))
	c.Events.Eventf(cron, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted job %v", j.Name)
	return nil
}

// create makes the Job. One of its name that is there already was made by an
// earlier step that could not write the status any more; one that is not ours
// takes the place of ours, and nil is returned.
func (c *controller) create(ctx context.Context, key loop.Key, cron *batchv1.CronJob, wanted *batchv1.Job) (*batchv1.Job, error) {
	jobs := c.Client.BatchV1().Jobs(cron.Namespace)
	created, err := jobs.Create(ctx, wanted, metav1.CreateOptions{})
	switch {
	case apierrors.IsAlreadyExists(err):
		there, err := jobs.Get(ctx, wanted.Name, metav1.GetOptions{})
		if err != nil {
			return nil, fmt.Errorf("read Job %s that is there already: %w", wanted.Name, err)
		}
		if !metav1.IsControlledBy(there, cron) {
			return nil, nil
		}
		return there, nil
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil, nil // nothing can be made there any more, and that is right
	case err != nil:
		c.Events.Eventf(cron, corev1.EventTypeWarning, "FailedCreate", "Error creating job: %v", err)
		return nil, fmt.Errorf("create Job %s: %w", wanted.Name, err)
	}
	c.writes.Add(key, c.Jobs.Seen(created.ResourceVersion))
	c.Events.Eventf(cron, corev1.EventTypeNormal, "SuccessfulCreate", "Created job %v", created.Name)
	return created, nil
}

func reference(j *batchv1.Job) corev1.ObjectReference {
	return corev1.ObjectReference{
		APIVersion: batchv1.SchemeGroupVersion.String(), Kind: "Job",
		Namespace: j.Namespace, Name: j.Name, UID: j.UID, ResourceVersion: j.ResourceVersion,
	}
}

func (c *controller) report(ctx context.Context, key loop.Key, cron *batchv1.CronJob, status batchv1.CronJobStatus) error {
	if equality.Semantic.DeepEqual(cron.Status, status) {
		return nil
	}
	changed := cron.DeepCopy()
	changed.Status = status
	written, err := c.Client.BatchV1().CronJobs(cron.Namespace).UpdateStatus(ctx, changed, metav1.UpdateOptions{})
	return loop.Reported(&c.writes, key, c.CronJobs, written, err)
}
