package fairness

import (
	"context"
	"log/slog"
	"slices"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/labels"
	upstream "k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/client-go/tools/cache"
	"k8s.io/kubernetes/pkg/registry/flowcontrol/ensurer"
)

const (
	again   = time.Minute      // after a failure the objects are looked at again
	pause   = 2 * time.Second  // between a change and a look
	settles = 10 * time.Second // for conditions to be written; a server that cannot write them starts all the same
)

// bootstrap keeps upstream's objects. Upstream's own server looks at them once a minute; here a change of one makes it look.
type bootstrap struct {
	levels  ensurer.ObjectOps[*flowcontrolv1.PriorityLevelConfiguration]
	schemas ensurer.ObjectOps[*flowcontrolv1.FlowSchema]
	changed chan struct{}
	log     *slog.Logger
}

func newBootstrap(c Config) *bootstrap {
	levels, schemas := c.Informers.Flowcontrol().V1().PriorityLevelConfigurations(), c.Informers.Flowcontrol().V1().FlowSchemas()
	b := &bootstrap{
		levels:  ensurer.NewPriorityLevelConfigurationOps(c.Client.PriorityLevelConfigurations(), levels.Lister()),
		schemas: ensurer.NewFlowSchemaOps(c.Client.FlowSchemas(), schemas.Lister()),
		changed: make(chan struct{}, 1), log: c.Logger,
	}
	note := func() {
		select {
		case b.changed <- struct{}{}:
		default: // it will look anyway
		}
	}
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { note() }, UpdateFunc: func(any, any) { note() }, DeleteFunc: func(any) { note() },
	}
	for _, i := range []cache.SharedIndexInformer{levels.Informer(), schemas.Informer()} {
		i.AddEventHandler(handler)
	}
	return b
}

// ensure puts the objects right: the mandatory ones are as upstream has them, the suggested ones are there and are changed only where
// their annotation allows it, and those of an earlier release go.
func (b *bootstrap) ensure(ctx context.Context) error {
	suggestedLevels, suggestedSchemas := upstream.SuggestedPriorityLevelConfigurations, upstream.SuggestedFlowSchemas
	mandatoryLevels, mandatorySchemas := upstream.MandatoryPriorityLevelConfigurations, upstream.MandatoryFlowSchemas
	for _, step := range []func() error{
		func() error {
			return ensurer.EnsureConfigurations(ctx, b.levels, suggestedLevels, ensurer.NewSuggestedEnsureStrategy[*flowcontrolv1.PriorityLevelConfiguration]())
		},
		func() error {
			return ensurer.EnsureConfigurations(ctx, b.schemas, suggestedSchemas, ensurer.NewSuggestedEnsureStrategy[*flowcontrolv1.FlowSchema]())
		},
		func() error {
			return ensurer.EnsureConfigurations(ctx, b.levels, mandatoryLevels, ensurer.NewMandatoryEnsureStrategy[*flowcontrolv1.PriorityLevelConfiguration]())
		},
		func() error {
			return ensurer.EnsureConfigurations(ctx, b.schemas, mandatorySchemas, ensurer.NewMandatoryEnsureStrategy[*flowcontrolv1.FlowSchema]())
		},
		func() error {
			return ensurer.RemoveUnwantedObjects(ctx, b.schemas, slices.Concat(mandatorySchemas, suggestedSchemas))
		},
		func() error {
			return ensurer.RemoveUnwantedObjects(ctx, b.levels, slices.Concat(mandatoryLevels, suggestedLevels))
		},
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// settled waits until each FlowSchema has a condition.
func (b *bootstrap) settled(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settles)
	defer cancel()
	for ctx.Err() == nil {
		all, err := b.schemas.List(labels.Everything())
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(all, func(s *flowcontrolv1.FlowSchema) bool { return len(s.Status.Conditions) == 0 }) {
			return nil
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
		}
	}
	return nil
}

func (b *bootstrap) run(ctx context.Context) {
	var retry <-chan time.Time
	for {
		select {
		case <-b.changed:
		case <-retry:
		case <-ctx.Done():
			return
		}
		retry = nil
		// Two servers of different releases on one store would each take back what the other writes as fast as they can.
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
		if err := b.ensure(ctx); err != nil && ctx.Err() == nil {
			b.log.Warn("the FlowSchemas and PriorityLevelConfigurations of the beginning are not all there", "err", err)
			retry = time.After(again)
		}
	}
}
