package store_test

import (
	"context"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
	"k8s.io/apiserver/pkg/storage/value"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	featuregatetesting "k8s.io/component-base/featuregate/testing"

	"bramble.dev/test/emulated"
)

// TestContract runs upstream's own tests of storage.Interface over this store, over upstream's etcd3 on a real
// etcd, and over what stands in front of that here, so that all promise the same.
func TestContract(t *testing.T) {
	t.Parallel()
	for name, prepare := range backends {
		t.Run(name, func(t *testing.T) {
			if name != "sqlite" && emulated.By() != "" {
				t.Skip("etcd itself is tested on the machine's own processor")
			}
			open := prepare(t)
			for _, c := range contract {
				t.Run(c.name, func(t *testing.T) { c.run(t, open(t)) })
			}
		})
	}
}

type contractTest struct {
	name string
	run  func(t *testing.T, b *backend)
}

// plain is a test that needs nothing from the side.
func plain(run func(context.Context, *testing.T, storage.Interface)) func(*testing.T, *backend) {
	return func(t *testing.T, b *backend) { run(context.Background(), t, b) }
}

var contract = []contractTest{
	// First: it watches from revision 1, and the one etcd is compacted by later tests.
	{"WatchSemantics", plain(storagetesting.RunWatchSemantics)},
	{"Create", func(t *testing.T, b *backend) {
		storagetesting.RunTestCreate(context.Background(), t, b, b.validateStored)
	}},
	{"CreateWithTTL", plain(storagetesting.RunTestCreateWithTTL)},
	{"CreateWithKeyExist", plain(storagetesting.RunTestCreateWithKeyExist)},
	{"Get", plain(storagetesting.RunTestGet)},
	{"UnconditionalDelete", plain(storagetesting.RunTestUnconditionalDelete)},
	{"ConditionalDelete", plain(storagetesting.RunTestConditionalDelete)},
	{"DeleteWithSuggestion", plain(storagetesting.RunTestDeleteWithSuggestion)},
	{"DeleteWithSuggestionAndConflict", plain(storagetesting.RunTestDeleteWithSuggestionAndConflict)},
	{"DeleteWithSuggestionOfDeletedObject", plain(storagetesting.RunTestDeleteWithSuggestionOfDeletedObject)},
	{"ValidateDeletionWithSuggestion", plain(storagetesting.RunTestValidateDeletionWithSuggestion)},
	{"ValidateDeletionWithOnlySuggestionValid", plain(storagetesting.RunTestValidateDeletionWithOnlySuggestionValid)},
	{"DeleteWithConflict", plain(storagetesting.RunTestDeleteWithConflict)},
	{"PreconditionalDeleteWithSuggestion", plain(storagetesting.RunTestPreconditionalDeleteWithSuggestion)},
	{"PreconditionalDeleteWithOnlySuggestionPass", plain(storagetesting.RunTestPreconditionalDeleteWithOnlySuggestionPass)},
	{"DeleteDamagedWithConflict", func(t *testing.T, b *backend) {
		allowUnsafeDeletion(t)
		storagetesting.RunTestDeleteWithConflictAndMissingExpectedTransformOrDecodeError(context.Background(), t, b, b.codec.failing.Store)
	}},
	{"DeleteDamaged", func(t *testing.T, b *backend) {
		allowUnsafeDeletion(t)
		storagetesting.RunTestDeleteExpectedTransformOrDecodeError(context.Background(), t, b, b.codec.failing.Store)
	}},
	{"DeleteDamagedWithSuggestion", func(t *testing.T, b *backend) {
		allowUnsafeDeletion(t)
		storagetesting.RunTestDeleteWithSuggestionAndMissingExpectedTransformOrDecodeError(context.Background(), t, b)
	}},
	{"List", func(t *testing.T, b *backend) {
		storagetesting.RunTestList(context.Background(), t, b, b.compact, false, nil)
	}},
	{"ConsistentList", func(t *testing.T, b *backend) {
		storagetesting.RunTestConsistentList(context.Background(), t, b, b.increaseRV, b.behind, true, b.behind)
	}},
	{"GetListNonRecursive", func(t *testing.T, b *backend) {
		storagetesting.RunTestGetListNonRecursive(context.Background(), t, b.increaseRV, b)
	}},
	{"GetListRecursivePrefix", plain(storagetesting.RunTestGetListRecursivePrefix)},
	{"ListPaging", plain(storagetesting.RunTestListPaging)},
	{"KeySchema", plain(storagetesting.RunTestKeySchema)},
	{"ListDamaged", testListDamaged},
	{"ListContinuation", func(t *testing.T, b *backend) {
		storagetesting.RunTestListContinuation(context.Background(), t, b, nil)
	}},
	{"ListPaginationRareObject", func(t *testing.T, b *backend) {
		storagetesting.RunTestListPaginationRareObject(context.Background(), t, b, nil)
	}},
	{"ListContinuationWithFilter", func(t *testing.T, b *backend) {
		storagetesting.RunTestListContinuationWithFilter(context.Background(), t, b, nil)
	}},
	{"ListInconsistentContinuation", func(t *testing.T, b *backend) {
		storagetesting.RunTestListInconsistentContinuation(context.Background(), t, b, b.compact)
	}},
	{"ListResourceVersionMatch", func(t *testing.T, b *backend) {
		storagetesting.RunTestListResourceVersionMatch(context.Background(), t, b)
	}},
	{"NamespaceScopedList", plain(storagetesting.RunTestNamespaceScopedList)},
	{"CompactRevision", func(t *testing.T, b *backend) {
		storagetesting.RunTestCompactRevision(context.Background(), t, b, b.increaseRV, b.compact)
	}},
	{"GuaranteedUpdate", func(t *testing.T, b *backend) {
		storagetesting.RunTestGuaranteedUpdate(context.Background(), t, b, b.validateStored)
	}},
	{"GuaranteedUpdateWithTTL", plain(storagetesting.RunTestGuaranteedUpdateWithTTL)},
	{"GuaranteedUpdateChecksStoredData", func(t *testing.T, b *backend) {
		storagetesting.RunTestGuaranteedUpdateChecksStoredData(context.Background(), t, b)
	}},
	{"GuaranteedUpdateWithConflict", plain(storagetesting.RunTestGuaranteedUpdateWithConflict)},
	{"GuaranteedUpdateWithSuggestionAndConflict", plain(storagetesting.RunTestGuaranteedUpdateWithSuggestionAndConflict)},
	{"TransformationFailure", func(t *testing.T, b *backend) {
		storagetesting.RunTestTransformationFailure(context.Background(), t, b)
	}},
	{"Stats", func(t *testing.T, b *backend) {
		storagetesting.RunTestStats(context.Background(), t, b, b.codec, b.transformer, false)
	}},
	{"Watch", plain(storagetesting.RunTestWatch)},
	{"ClusterScopedWatch", plain(storagetesting.RunTestClusterScopedWatch)},
	{"NamespaceScopedWatch", plain(storagetesting.RunTestNamespaceScopedWatch)},
	{"DeleteTriggerWatch", plain(storagetesting.RunTestDeleteTriggerWatch)},
	{"WatchFromZero", func(t *testing.T, b *backend) {
		storagetesting.RunTestWatchFromZero(context.Background(), t, b, b.compact)
	}},
	{"WatchFromNonZero", plain(storagetesting.RunTestWatchFromNonZero)},
	{"DelayedWatchDelivery", plain(storagetesting.RunTestDelayedWatchDelivery)},
	{"WatchError", func(t *testing.T, b *backend) {
		storagetesting.RunTestWatchError(context.Background(), t, b)
	}},
	{"WatchContextCancel", plain(storagetesting.RunTestWatchContextCancel)},
	{"WatcherTimeout", plain(storagetesting.RunTestWatcherTimeout)},
	{"WatchDeleteEventObjectHaveLatestRV", plain(storagetesting.RunTestWatchDeleteEventObjectHaveLatestRV)},
	{"ProgressNotify", func(t *testing.T, b *backend) {
		storagetesting.RunOptionalTestProgressNotify(context.Background(), t, b, b.increaseRV)
	}},
	{"WatchDispatchBookmarkEvents", func(t *testing.T, b *backend) {
		storagetesting.RunTestWatchDispatchBookmarkEvents(context.Background(), t, b, b.cached)
	}},
	{"WatchBookmarksWithCorrectResourceVersion", func(t *testing.T, b *backend) {
		if !b.cached {
			return // upstream does this in the watch cache; here the store is the cache
		}
		storagetesting.RunTestOptionalWatchBookmarksWithCorrectResourceVersion(context.Background(), t, b)
	}},
	{"SendInitialEventsBackwardCompatibility", plain(storagetesting.RunSendInitialEventsBackwardCompatibility)},
	{"WatchSemanticInitialEventsExtended", plain(storagetesting.RunWatchSemanticInitialEventsExtended)},
	{"WatchListMatchSingle", plain(storagetesting.RunWatchListMatchSingle)},
	{"WatchErrorEventIsBlockingFurtherEvents", func(t *testing.T, b *backend) {
		storagetesting.RunWatchErrorIsBlockingFurtherEvents(context.Background(), t, b)
	}},
}

// testListDamaged stands for upstream's test of the same, which knows the keys' root.
func testListDamaged(t *testing.T, b *backend) {
	ctx := context.Background()
	for _, name := range []string{"a", "b", "c"} {
		if name == "b" {
			defer b.UpdatePrefixTransformer(func(*storagetesting.PrefixTransformer) value.Transformer {
				return storagetesting.NewPrefixTransformer([]byte("other!"), false)
			})()
		}
		pod := &example.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns"}}
		if err := b.Create(ctx, "/pods/ns/"+name, pod, nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	b.transformer.set(storagetesting.NewPrefixTransformer([]byte(testPrefix), false))
	var list example.PodList
	err := b.GetList(ctx, "/pods", storage.ListOptions{Recursive: true, Predicate: storage.Everything}, &list)
	if !storage.IsInternalError(err) || !strings.Contains(err.Error(), "unable to transform key") || !strings.Contains(err.Error(), "/pods/ns/b") {
		t.Errorf("error: %v", err)
	}
	if len(list.Items) != 1 || list.Items[0].Name != "a" {
		t.Errorf("items before the damaged one: %v", list.Items)
	}
}

func TestStatsWithSizes(t *testing.T) {
	b := sqliteBackend(t)
	if err := b.EnableResourceSizeEstimation(func(context.Context) ([]string, error) { return nil, nil }); err != nil {
		t.Fatal(err)
	}
	storagetesting.RunTestStats(context.Background(), t, b, b.codec, b.transformer, true)
}

func allowUnsafeDeletion(t *testing.T) {
	featuregatetesting.SetFeatureGateDuringTest(t, utilfeature.DefaultFeatureGate, features.AllowUnsafeMalformedObjectDeletion, true)
}

// validateStored checks what lies on disk.
func (b *backend) validateStored(ctx context.Context, t *testing.T, key string) {
	raw, err := b.stored(ctx, key)
	if err != nil || len(raw) < len(testPrefix) {
		t.Fatalf("stored value of %s: %q, %v", key, raw, err)
	}
	obj, err := runtime.Decode(b.codec, raw[len(testPrefix):])
	if err != nil {
		t.Fatal(err)
	}
	if pod := obj.(*example.Pod); pod.ResourceVersion != "" || pod.SelfLink != "" {
		t.Errorf("stored object has resourceVersion %q, selfLink %q", pod.ResourceVersion, pod.SelfLink)
	}
}
