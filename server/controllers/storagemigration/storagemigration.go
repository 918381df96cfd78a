package storagemigration

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"

	storagemigrationv1 "k8s.io/api/storagemigration/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/controllers/loop"
)

const (
	name = "storage-version-migrator-controller"
	// patience is how long a resource may be unknown: its definition may have been made a moment before.
	patience = time.Minute
	again    = 5 * time.Second
	// page is how many objects are listed at a time.
	page = 500

	running   = string(storagemigrationv1.MigrationRunning)
	succeeded = string(storagemigrationv1.MigrationSucceeded)
	failed    = string(storagemigrationv1.MigrationFailed)
)

// Inputs is what the controller reads and writes with.
type Inputs struct {
	Client   kubernetes.Interface
	Metadata metadata.Interface
	Caches   *cache.Set
	Log      *slog.Logger
}

type controller struct {
	Inputs
	loop *loop.Loop
}

type migration = storagemigrationv1.StorageVersionMigration

// all is the one key: whose turn it is depends on every migration. There are seldom any, so they are not kept in memory.
var all = loop.Key{Name: "all"}

// New makes the controller.
func New(in Inputs) *loop.Loop {
	c := &controller{Inputs: in}
	c.loop = loop.New(name, in.Log, c.reconcile).OneWorker()
	gr := schema.GroupResource{Group: storagemigrationv1.GroupName, Resource: "storageversionmigrations"}
	loop.WatchKeys(c.loop, in.Caches, gr, func(key loop.Key, _ []byte) []loop.Key {
		if key == (loop.Key{}) {
			return nil
		}
		return []loop.Key{all}
	})
	return c.loop
}

func (c *controller) reconcile(ctx context.Context, _ loop.Key) error {
	list, err := c.Client.StoragemigrationV1().StorageVersionMigrations().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list migrations: %w", err)
	}
	slices.SortFunc(list.Items, func(a, b migration) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	busy := map[metav1.GroupResource]bool{}
	var errs []error
	for i := range list.Items {
		m := &list.Items[i]
		switch {
		case is(m, running) && ended(m):
			errs = append(errs, c.finish(ctx, m))
		case is(m, running):
			busy[m.Spec.Resource] = true
		}
	}
	for i := range list.Items {
		m := &list.Items[i]
		if ended(m) {
			continue
		}
		if !is(m, running) {
			if busy[m.Spec.Resource] {
				continue
			}
			busy[m.Spec.Resource] = true
			if m, err = c.begin(ctx, m); err != nil {
				errs = append(errs, err)
				continue
			}
		}
		errs = append(errs, c.run(ctx, m))
	}
	return errors.Join(errs...)
}

func is(m *migration, condition string) bool {
	return meta.IsStatusConditionTrue(m.Status.Conditions, condition)
}

func ended(m *migration) bool { return is(m, succeeded) || is(m, failed) }

// begin marks the resource's definition, if it has one, and the migration.
func (c *controller) begin(ctx context.Context, m *migration) (*migration, error) {
	d, err := c.definition(ctx, m.Spec.Resource)
	if err != nil {
		return nil, err
	}
	if d != nil {
		d.condition(metav1.ConditionTrue, "MigrationRunning", fmt.Sprintf("Migration %s is running", m.Name))
		if err := c.applyStatus(ctx, d); err != nil {
			return nil, err
		}
	}
	progress(m, "")
	return c.write(ctx, m)
}

// run writes the objects anew that are older than the migration. What it can try again is an error; what it can't ends the migration.
func (c *controller) run(ctx context.Context, m *migration) error {
	found, err := c.resource(m.Spec.Resource)
	switch {
	case err != nil:
		return err
	case found == nil && time.Since(m.CreationTimestamp.Time) < patience:
		c.loop.After(all, again)
		return nil
	case found == nil:
		return c.fail(ctx, m, "resource does not exist in discovery")
	case !found.migratable:
		return c.fail(ctx, m, fmt.Sprintf("resource %q does not support discovery operations: %v", found.GroupVersionResource.String(), verbs))
	}
	objects, revision, err := c.list(ctx, found.GroupVersionResource)
	if err != nil {
		return fmt.Errorf("list %s: %w", found, err)
	}
	if m.Status.ResourceVersion == "" {
		m.Status.ResourceVersion = revision
		if m, err = c.write(ctx, m); err != nil {
			return err
		}
	}
	since, err := strconv.ParseUint(m.Status.ResourceVersion, 10, 64)
	if err != nil {
		return c.fail(ctx, m, fmt.Sprintf("latest resourceVersion for %s is not valid: %v", found.GroupVersionResource.String(), err))
	}
	old := slices.DeleteFunc(slices.Clone(objects), func(o object) bool { return o.revision > since })
	for n, o := range old {
		err := c.rewrite(ctx, found, o)
		left := fmt.Sprintf("%d/%d", len(old)-n, len(objects))
		switch {
		case apierrors.IsConflict(err) || apierrors.IsNotFound(err): // somebody has written it, or it is gone
		case ctx.Err() != nil || passing(err):
			progress(m, fmt.Sprintf(", %s objects not yet migrated; transient error: %v", left, err))
			_, _ = c.write(ctx, m) // the error itself comes back
			return fmt.Errorf("migrate %s %s/%s: %w", found, o.namespace, o.name, err)
		case err != nil:
			progress(m, fmt.Sprintf(", %s objects not yet migrated", left))
			return c.fail(ctx, m, fmt.Sprintf("%s not yet migrated. migration encountered unhandled error: %v", left, err))
		}
	}
	done := ""
	if len(objects) > 0 {
		done = fmt.Sprintf(", %d objects verified migrated", len(objects))
	}
	progress(m, done)
	setCondition(m, succeeded, "StorageVersionMigrationSucceeded", "Migration completed")
	_, err = c.write(ctx, m)
	return err
}

// finish takes back the marks of begin; of a definition whose objects are all in one version, the others are struck off.
func (c *controller) finish(ctx context.Context, m *migration) error {
	d, err := c.definition(ctx, m.Spec.Resource)
	if err != nil {
		return err
	}
	if d != nil {
		unchanged := d.marked() == d.Metadata.Generation // since begin: the version that is stored is still the same
		reason, message := "MigrationFailed", "The migration has failed"
		if is(m, succeeded) {
			reason, message = "MigrationSucceeded", "The migration has succeeded but the stored versions have not been updated due to a generation mismatch"
			if unchanged {
				message = "The migration has succeeded and the stored versions have been updated"
			}
		}
		d.condition(metav1.ConditionFalse, reason, message)
		if is(m, succeeded) && unchanged {
			d.Status.StoredVersions = d.stored()
		}
		if err := c.applyStatus(ctx, d); err != nil {
			return err
		}
	}
	meta.SetStatusCondition(&m.Status.Conditions, metav1.Condition{
		Type: running, Status: metav1.ConditionFalse, Reason: "MigrationCompleted", Message: "Migration completed", ObservedGeneration: m.Generation,
	})
	_, err = c.write(ctx, m)
	return err
}

func (c *controller) fail(ctx context.Context, m *migration, message string) error {
	setCondition(m, failed, "StorageVersionMigrationFailed", message)
	_, err := c.write(ctx, m)
	return err
}

// progress says that the migration runs, and how far it is.
func progress(m *migration, far string) {
	setCondition(m, running, "MigrationRunning", "The migration is running"+far)
}

func setCondition(m *migration, condition, reason, message string) {
	meta.SetStatusCondition(&m.Status.Conditions, metav1.Condition{Type: condition, Status: metav1.ConditionTrue, Reason: reason, Message: message})
}

func (c *controller) write(ctx context.Context, m *migration) (*migration, error) {
	written, err := c.Client.StoragemigrationV1().StorageVersionMigrations().UpdateStatus(ctx, m, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("status of migration %s: %w", m.Name, err)
	}
	return written, nil
}

// verbs are what a migration needs of a resource.
var verbs = []string{"update", "patch", "list"}

// resource is one as it is served.
type resource struct {
	schema.GroupVersionResource
	kind       string
	migratable bool
}

// resource finds one in the version that its group prefers; nil if it isn't served.
func (c *controller) resource(gr metav1.GroupResource) (*resource, error) {
	lists, err := discovery.ServerPreferredResources(c.Client.Discovery())
	for _, list := range lists {
		gv, parse := schema.ParseGroupVersion(list.GroupVersion)
		if parse != nil || gv.Group != gr.Group {
			continue
		}
		for _, r := range list.APIResources {
			if r.Name == gr.Resource {
				can := !slices.ContainsFunc(verbs, func(v string) bool { return !slices.Contains(r.Verbs, v) })
				return &resource{gv.WithResource(r.Name), r.Kind, can}, nil
			}
		}
	}
	return nil, err // of a part that could not be read, perhaps this one's
}

// object is what a migration must know of one.
type object struct {
	namespace, name string
	revision        uint64
}

// list gives all objects of a resource, and the revision at which they were listed.
func (c *controller) list(ctx context.Context, gvr schema.GroupVersionResource) (objects []object, revision string, err error) {
	options := metav1.ListOptions{Limit: page}
	for {
		list, err := c.Metadata.Resource(gvr).List(ctx, options)
		if err != nil {
			return nil, "", err
		}
		if revision == "" {
			revision = list.ResourceVersion
		}
		for _, o := range list.Items {
			at, err := strconv.ParseUint(o.ResourceVersion, 10, 64)
			if err != nil {
				return nil, "", err
			}
			objects = append(objects, object{o.Namespace, o.Name, at})
		}
		if options.Continue = list.Continue; options.Continue == "" {
			return objects, revision, nil
		}
	}
}

// rewrite changes nothing of an object that is as it was listed: the store writes it anew if it lies there in another form than it would
// be written in now.
func (c *controller) rewrite(ctx context.Context, r *resource, o object) error {
	body, err := json.Marshal(map[string]any{
		"apiVersion": r.GroupVersion().String(), "kind": r.kind, "metadata": map[string]string{"resourceVersion": strconv.FormatUint(o.revision, 10)},
	})
	if err != nil {
		return err
	}
	_, err = c.Metadata.Resource(r.GroupVersionResource).Namespace(o.namespace).Patch(ctx, o.name, types.MergePatchType, body, metav1.PatchOptions{FieldManager: name})
	return err
}

// passing tells errors that may be gone at the next try.
func passing(err error) bool {
	return apierrors.IsServerTimeout(err) || apierrors.IsTooManyRequests(err) || apierrors.IsServiceUnavailable(err) ||
		apierrors.IsInternalError(err) || apierrors.IsTimeout(err) || errors.Is(err, context.DeadlineExceeded)
}
