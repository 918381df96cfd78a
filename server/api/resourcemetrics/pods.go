package resourcemetrics

import (
	"cmp"
	"context"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/metrics/pkg/apis/metrics"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	corev1 "k8s.io/api/core/v1"
)

// pods is the resource pods of the group.
type pods struct {
	asker *asker
	pods  corelisters.PodLister
}

var (
	_ rest.Getter               = &pods{}
	_ rest.Lister               = &pods{}
	_ rest.Scoper               = &pods{}
	_ rest.KindProvider         = &pods{}
	_ rest.SingularNameProvider = &pods{}
)

func (*pods) New() runtime.Object     { return &metrics.PodMetrics{} }
func (*pods) NewList() runtime.Object { return &metrics.PodMetricsList{} }
func (*pods) Destroy()                {}
func (*pods) Kind() string            { return "PodMetrics" }
func (*pods) NamespaceScoped() bool   { return true }

// GetSingularName is as metrics-server has it.
func (*pods) GetSingularName() string { return "" }

// Get is what one pod uses.
func (s *pods) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	namespace := request.NamespaceValue(ctx)
	pod, err := s.pods.Pods(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil, apierrors.NewNotFound(corev1.Resource("pods"), name)
	}
	if err != nil {
		return nil, err
	}
	found := s.of(ctx, []*corev1.Pod{pod})
	if len(found) == 0 {
		return nil, apierrors.NewNotFound(metrics.Resource("podmetrics"), namespace+"/"+name)
	}
	return &found[0], nil
}

// List is what the selected pods use.
func (s *pods) List(ctx context.Context, o *metainternalversion.ListOptions) (runtime.Object, error) {
	byLabel, byField := selectors(o)
	all, err := s.pods.Pods(request.NamespaceValue(ctx)).List(byLabel)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(slices.Clone(all), func(p *corev1.Pod) bool {
		return !byField.Matches(fields.Set{"metadata.name": p.Name, "metadata.namespace": p.Namespace})
	})
	slices.SortFunc(all, func(a, b *corev1.Pod) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return &metrics.PodMetricsList{Items: s.of(ctx, all)}, nil
}

// of asks the nodes of these pods, and no others.
func (s *pods) of(ctx context.Context, all []*corev1.Pod) []metrics.PodMetrics {
	all = slices.DeleteFunc(all, func(p *corev1.Pod) bool { return p.Spec.NodeName == "" || p.Status.Phase != corev1.PodRunning })
	nodes := map[string][]types.UID{}
	for _, p := range all {
		nodes[p.Spec.NodeName] = append(nodes[p.Spec.NodeName], p.UID)
	}
	type place struct { // a node is believed about its own pods alone
		node string
		pod  types.UID
	}
	used := map[place]*metricsv1beta1.PodMetrics{}
	for node, u := range s.asker.ask(ctx, nodes) {
		for n := range u.Pods {
			used[place{node, u.Pods[n].UID}] = &u.Pods[n]
		}
	}
	out := []metrics.PodMetrics{}
	for _, p := range all {
		u := used[place{p.Spec.NodeName, p.UID}]
		if u == nil {
			continue
		}
		m := metrics.PodMetrics{
			ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, CreationTimestamp: metav1.NewTime(time.Now()), Labels: p.Labels},
			Timestamp:  u.Timestamp, Window: u.Window,
		}
		for _, c := range u.Containers {
			m.Containers = append(m.Containers, metrics.ContainerMetrics{Name: c.Name, Usage: c.Usage})
		}
		out = append(out, m)
	}
	return out
}

// ConvertToTable is for kubectl get.
func (*pods) ConvertToTable(_ context.Context, object, _ runtime.Object) (*metav1.Table, error) {
	t := &metav1.Table{}
	switch o := object.(type) {
	case *metrics.PodMetrics:
		addPods(t, *o)
	case *metrics.PodMetricsList:
		addPods(t, o.Items...)
	}
	return t, nil
}
