package resourcequota

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	corev1 "k8s.io/api/core/v1"
)

func pod(phase corev1.PodPhase, cpu string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{Status: corev1.PodStatus{Phase: phase}, Spec: corev1.PodSpec{Containers: []corev1.Container{{}}}}
	if cpu != "" {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}
	}
	for _, c := range change {
		c(p)
	}
	return p
}

func TestUsage(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	gone := func(p *corev1.Pod) {
		at, grace := metav1.NewTime(now.Add(-time.Hour)), int64(30)
		p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &at, &grace
	}
	class := "fast"
	h := holdings{
		now:  now,
		pods: []*corev1.Pod{pod("Running", "1"), pod("Running", "500m", func(p *corev1.Pod) { p.Spec.PriorityClassName = "high" }), pod("Running", ""), pod("Succeeded", "4"), pod("Running", "8", gone)},
		services: []*corev1.Service{
			{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: make([]corev1.ServicePort, 2)}},
			{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Ports: make([]corev1.ServicePort, 1)}},
		},
		claims: []*corev1.PersistentVolumeClaim{{Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: &class, Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}}}},
		count:  func(gr schema.GroupResource) int { return len(gr.String()) },
	}
	quota := func(scopes []corev1.ResourceQuotaScope, names ...corev1.ResourceName) *corev1.ResourceQuota {
		q := &corev1.ResourceQuota{Spec: corev1.ResourceQuotaSpec{Scopes: scopes, Hard: corev1.ResourceList{}}}
		for _, n := range names {
			q.Spec.Hard[n] = resource.MustParse("10")
		}
		return q
	}
	for _, test := range []struct {
		name   string
		scopes []corev1.ResourceQuotaScope
		want   map[corev1.ResourceName]string
	}{
		{"all", nil, map[corev1.ResourceName]string{
			"pods": "3", "count/pods": "5", "cpu": "1500m", "requests.cpu": "1500m", "memory": "0", "configmaps": "10", "count/jobs.batch": "10",
			"services.nodeports": "3", "services.loadbalancers": "1", "requests.storage": "1Gi", "fast.storageclass.storage.k8s.io/persistentvolumeclaims": "1",
		}},
		{"best effort", []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeBestEffort}, map[corev1.ResourceName]string{"pods": "1"}},
		{"of a priority", []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopePriorityClass}, map[corev1.ResourceName]string{"pods": "1", "cpu": "500m"}},
		{"with a deadline", []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeTerminating}, map[corev1.ResourceName]string{"pods": "0"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var names []corev1.ResourceName
			for n := range test.want {
				names = append(names, n)
			}
			got := usage(quota(test.scopes, names...), h)
			for n, want := range test.want {
				if q := got[n]; q.Cmp(resource.MustParse(want)) != 0 {
					t.Errorf("%s: used %s, want %s", n, q.String(), want)
				}
			}
			if len(got) != len(test.want) {
				t.Errorf("used is %v", got)
			}
		})
	}
}
