package resourcemetrics

import (
	"context"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/registry/rest"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/metrics/pkg/apis/metrics"

	corev1 "k8s.io/api/core/v1"
)

// nodes is the resource nodes of the group.
type nodes struct {
	asker *asker
	nodes corelisters.NodeLister
}

var (
	_ rest.Getter               = &nodes{}
	_ rest.Lister               = &nodes{}
	_ rest.Scoper               = &nodes{}
	_ rest.KindProvider         = &nodes{}
	_ rest.SingularNameProvider = &nodes{}
)

func (*nodes) New() runtime.Object     { return &metrics.NodeMetrics{} }
func (*nodes) NewList() runtime.Object { return &metrics.NodeMetricsList{} }
func (*nodes) Destroy()                {}
func (*nodes) Kind() string            { return "NodeMetrics" }
func (*nodes) NamespaceScoped() bool   { return false }

// GetSingularName is as metrics-server has it.
func (*nodes) GetSingularName() string { return "node" }

// Get is what one node uses.
func (s *nodes) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	node, err := s.nodes.Get(name)
	if apierrors.IsNotFound(err) {
		return nil, apierrors.NewNotFound(corev1.Resource("nodes"), name)
	}
	if err != nil {
		return nil, err
	}
	found := s.of(ctx, []*corev1.Node{node})
	if len(found) == 0 {
		return nil, apierrors.NewNotFound(metrics.Resource("nodemetrics"), name)
	}
	return &found[0], nil
}

// List is what the selected nodes use.
func (s *nodes) List(ctx context.Context, o *metainternalversion.ListOptions) (runtime.Object, error) {
	byLabel, byField := selectors(o)
	all, err := s.nodes.List(byLabel)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(slices.Clone(all), func(n *corev1.Node) bool { return !byField.Matches(fields.Set{"metadata.name": n.Name}) })
	slices.SortFunc(all, func(a, b *corev1.Node) int { return strings.Compare(a.Name, b.Name) })
	return &metrics.NodeMetricsList{Items: s.of(ctx, all)}, nil
}

func (s *nodes) of(ctx context.Context, all []*corev1.Node) []metrics.NodeMetrics {
	names := map[string][]types.UID{}
	for _, n := range all {
		names[n.Name] = nil
	}
	answers := s.asker.ask(ctx, names)
	out := []metrics.NodeMetrics{}
	for _, n := range all {
		u := answers[n.Name]
		if u == nil || len(u.Node.Usage) == 0 {
			continue
		}
		out = append(out, metrics.NodeMetrics{
			ObjectMeta: metav1.ObjectMeta{Name: n.Name, CreationTimestamp: metav1.NewTime(time.Now()), Labels: n.Labels},
			Timestamp:  u.Node.Timestamp, Window: u.Node.Window, Usage: u.Node.Usage,
		})
	}
	return out
}

// ConvertToTable is for kubectl get.
func (*nodes) ConvertToTable(_ context.Context, object, _ runtime.Object) (*metav1.Table, error) {
	t := &metav1.Table{}
	switch o := object.(type) {
	case *metrics.NodeMetrics:
		addNodes(t, *o)
	case *metrics.NodeMetricsList:
		addNodes(t, o.Items...)
	}
	return t, nil
}

// selectors are those of a list, which select everything if they are not given.
func selectors(o *metainternalversion.ListOptions) (labels.Selector, fields.Selector) {
	byLabel, byField := labels.Everything(), fields.Everything()
	if o != nil && o.LabelSelector != nil {
		byLabel = o.LabelSelector
	}
	if o != nil && o.FieldSelector != nil {
		byField = o.FieldSelector
	}
	return byLabel, byField
}
