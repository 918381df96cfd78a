package aggregator

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/cache"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	apiregistrationclient "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset/typed/apiregistration/v1"

	"bramble.dev/server/store"
)

// Local is a group version that this server answers by itself.
type Local struct {
	schema.GroupVersion
	GroupPriority, VersionPriority int32 // in discovery
}

// Managed says what an APIService follows that nobody wrote. It is the value of the label by which upstream knows these.
type Managed string

const (
	OnStart Managed = "onstart" // what a server serves, at its start: a change of the APIService stays until the next
	Always  Managed = "true"    // the definitions of custom resources, all the time

	managedLabel = "kube-aggregator.kubernetes.io/automanaged"
)

// KeepLocal makes the APIServices of these group versions, puts right those that are managed and say something else, and removes those
// that are managed in this manner and not wanted any more. What somebody wrote without the label is left alone.
func KeepLocal(ctx context.Context, client apiregistrationclient.APIServiceInterface, by Managed, wanted []Local) error {
	list, err := client.List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list APIServices: %w", err)
	}
	have := map[string]*apiregistrationv1.APIService{}
	for n := range list.Items {
		have[list.Items[n].Name] = &list.Items[n]
	}
	// Side by side, because writes that wait together share a sync of the disk.
	work, ctx := errgroup.WithContext(ctx)
	work.SetLimit(16)
	for _, l := range wanted {
		want := l.apiService(by)
		old := have[want.Name]
		delete(have, want.Name)
		work.Go(func() error { return keep(ctx, client, old, want) })
	}
	for _, old := range have {
		if old.Labels[managedLabel] == string(by) {
			work.Go(func() error { return remove(ctx, client, old) })
		}
	}
	return work.Wait()
}

func (l Local) apiService(by Managed) *apiregistrationv1.APIService {
	return &apiregistrationv1.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: l.Version + "." + l.Group, Labels: map[string]string{managedLabel: string(by)}},
		Spec:       apiregistrationv1.APIServiceSpec{Group: l.Group, Version: l.Version, GroupPriorityMinimum: l.GroupPriority, VersionPriority: l.VersionPriority},
	}
}

func keep(ctx context.Context, client apiregistrationclient.APIServiceInterface, old, want *apiregistrationv1.APIService) error {
	var err error
	switch {
	case old == nil:
		_, err = client.Create(ctx, want, metav1.CreateOptions{})
	case old.Labels[managedLabel] == "", old.Labels[managedLabel] == want.Labels[managedLabel] && equality.Semantic.DeepEqual(old.Spec, want.Spec):
		return nil
	default:
		old.Spec, old.Labels[managedLabel] = want.Spec, want.Labels[managedLabel]
		_, err = client.Update(ctx, old, metav1.UpdateOptions{})
	}
	return unlessOvertaken(err, want.Name)
}

func remove(ctx context.Context, client apiregistrationclient.APIServiceInterface, old *apiregistrationv1.APIService) error {
	err := client.Delete(ctx, old.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(old.UID))})
	return unlessOvertaken(err, old.Name)
}

// unlessOvertaken takes it for done when somebody else wrote meanwhile: they knew what they found.
func unlessOvertaken(err error, name string) error {
	if err == nil || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return fmt.Errorf("APIService %s: %w", name, err)
}

// Registrar keeps the APIServices of the definitions of custom resources, also against somebody who deletes one.
type Registrar struct {
	Store  store.Store
	Prefix string // where APIServices lie in the store
	Client apiregistrationclient.APIServiceInterface
	Logger *slog.Logger
}

// How custom resources stand among others, and their versions among each other; upstream's numbers.
const (
	customGroupPriority   = 1000
	customVersionPriority = 100
)

// Run does so until ctx is done; served gives what the definitions say now, and changed tells that it may be something else.
func (r *Registrar) Run(ctx context.Context, served func() []schema.GroupVersion, changed <-chan struct{}) {
	again := make(chan struct{}, 1)
	note := func(any) {
		select {
		case again <- struct{}{}:
		default:
		}
	}
	f, all := follow(ctx, r.Store, r.Prefix, r.Logger)
	defer f.Wait()
	if _, err := all.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: note, UpdateFunc: func(_, o any) { note(o) }, DeleteFunc: note}); err != nil {
		r.Logger.Error("an APIService of custom resources that somebody deletes will be missed", "err", err)
	}
	for ctx.Err() == nil {
		var wanted []Local
		for _, gv := range served() {
			wanted = append(wanted, Local{gv, customGroupPriority, customVersionPriority})
		}
		var soon <-chan time.Time
		if err := KeepLocal(ctx, r.Client, Always, wanted); err != nil && ctx.Err() == nil {
			r.Logger.Error("the APIServices of custom resources are not up to date", "err", err)
			soon = time.After(time.Second)
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-again:
		case <-soon:
		}
	}
}
