package resourcequota

import (
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime/schema"
	resourcehelper "k8s.io/component-helpers/resource"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/controllers/pods"
)

// holdings is what a namespace holds.
type holdings struct {
	pods     []*corev1.Pod
	services []*corev1.Service
	claims   []*corev1.PersistentVolumeClaim
	count    func(schema.GroupResource) int
	now      time.Time
}

// byCount are the resources that are plain numbers of objects.
var byCount = map[corev1.ResourceName]schema.GroupResource{
	corev1.ResourceConfigMaps:             {Resource: "configmaps"},
	corev1.ResourceSecrets:                {Resource: "secrets"},
	corev1.ResourceQuotas:                 {Resource: "resourcequotas"},
	corev1.ResourceReplicationControllers: {Resource: "replicationcontrollers"},
	corev1.ResourceServices:               {Resource: "services"},
	corev1.ResourcePersistentVolumeClaims: {Resource: "persistentvolumeclaims"},
}

// usage sums what a quota limits.
func usage(q *corev1.ResourceQuota, h holdings) corev1.ResourceList {
	used := corev1.ResourceList{}
	scoped := len(q.Spec.Scopes) > 0 || q.Spec.ScopeSelector != nil
	sum := corev1.ResourceList{}
	for _, pod := range h.pods {
		if inScope(q, pod) {
			add(sum, ofPod(pod, h.now))
		}
	}
	for _, service := range h.services {
		add(sum, ofService(service))
	}
	for _, claim := range h.claims {
		add(sum, ofClaim(claim))
	}
	for name := range q.Spec.Hard {
		gr, counted := byCount[name]
		if rest, ok := strings.CutPrefix(string(name), "count/"); ok && name != "count/pods" {
			gr, counted = schema.ParseGroupResource(rest), true
		}
		switch {
		case counted && !scoped:
			used[name] = *resource.NewQuantity(int64(h.count(gr)), resource.DecimalSI)
		case counted:
			used[name] = *resource.NewQuantity(0, resource.DecimalSI)
		default:
			used[name] = sum[name]
		}
	}
	return used
}

func add(to, more corev1.ResourceList) {
	for name, q := range more {
		have, ok := to[name]
		if !ok {
			to[name] = q.DeepCopy()
			continue
		}
		have.Add(q)
		to[name] = have
	}
}

func one() resource.Quantity { return *resource.NewQuantity(1, resource.DecimalSI) }

// ofPod is what a pod uses. One that has ended, or should have, is only counted
// as an object.
func ofPod(pod *corev1.Pod, now time.Time) corev1.ResourceList {
	out := corev1.ResourceList{"count/pods": one()}
	if pods.IsFinished(pod) || overdue(pod, now) {
		return out
	}
	out[corev1.ResourcePods] = one()
	options := resourcehelper.PodResourcesOptions{UseStatusResources: true}
	for name, q := range resourcehelper.PodRequests(pod, options) {
		switch {
		case name == corev1.ResourceCPU || name == corev1.ResourceMemory || name == corev1.ResourceEphemeralStorage || strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix):
			out[name] = q
			out[corev1.DefaultResourceRequestsPrefix+name] = q
		case strings.Contains(string(name), "/"):
			out[corev1.DefaultResourceRequestsPrefix+name] = q
		}
	}
	for name, q := range resourcehelper.PodLimits(pod, options) {
		if name == corev1.ResourceCPU || name == corev1.ResourceMemory || name == corev1.ResourceEphemeralStorage {
			out["limits."+name] = q
		}
	}
	return out
}

func overdue(pod *corev1.Pod, now time.Time) bool {
	if pod.DeletionTimestamp == nil || pod.DeletionGracePeriodSeconds == nil {
		return false
	}
	return now.After(pod.DeletionTimestamp.Add(time.Duration(*pod.DeletionGracePeriodSeconds) * time.Second))
}

func ofService(s *corev1.Service) corev1.ResourceList {
	out := corev1.ResourceList{}
	ports := int64(len(s.Spec.Ports))
	switch s.Spec.Type {
	case corev1.ServiceTypeLoadBalancer:
		out[corev1.ResourceServicesLoadBalancers] = one()
		if a := s.Spec.AllocateLoadBalancerNodePorts; a != nil && !*a {
			ports = 0
			for _, p := range s.Spec.Ports {
				if p.NodePort != 0 {
					ports++
				}
			}
		}
	case corev1.ServiceTypeNodePort:
	default:
		return out
	}
	out[corev1.ResourceServicesNodePorts] = *resource.NewQuantity(ports, resource.DecimalSI)
	return out
}

func ofClaim(c *corev1.PersistentVolumeClaim) corev1.ResourceList {
	asked := c.Spec.Resources.Requests[corev1.ResourceStorage]
	out := corev1.ResourceList{corev1.ResourceRequestsStorage: asked}
	if class := c.Spec.StorageClassName; class != nil && *class != "" {
		prefix := corev1.ResourceName(*class + ".storageclass.storage.k8s.io/")
		out[prefix+corev1.ResourceRequestsStorage] = asked
		out[prefix+corev1.ResourcePersistentVolumeClaims] = one()
	}
	return out
}

// inScope says whether a quota counts a pod.
func inScope(q *corev1.ResourceQuota, pod *corev1.Pod) bool {
	for _, scope := range q.Spec.Scopes {
		if !matches(pod, corev1.ScopedResourceSelectorRequirement{ScopeName: scope, Operator: corev1.ScopeSelectorOpExists}) {
			return false
		}
	}
	if q.Spec.ScopeSelector == nil {
		return true
	}
	for _, r := range q.Spec.ScopeSelector.MatchExpressions {
		if !matches(pod, r) {
			return false
		}
	}
	return true
}

func matches(pod *corev1.Pod, r corev1.ScopedResourceSelectorRequirement) bool {
	terminating := pod.Spec.ActiveDeadlineSeconds != nil && *pod.Spec.ActiveDeadlineSeconds >= 0
	switch r.ScopeName {
	case corev1.ResourceQuotaScopeTerminating:
		return terminating
	case corev1.ResourceQuotaScopeNotTerminating:
		return !terminating
	case corev1.ResourceQuotaScopeBestEffort:
		return bestEffort(pod)
	case corev1.ResourceQuotaScopeNotBestEffort:
		return !bestEffort(pod)
	case corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return crossesNamespaces(pod)
	case corev1.ResourceQuotaScopePriorityClass:
		class := pod.Spec.PriorityClassName
		switch r.Operator {
		case corev1.ScopeSelectorOpIn:
			return slices.Contains(r.Values, class)
		case corev1.ScopeSelectorOpNotIn:
			return !slices.Contains(r.Values, class)
		case corev1.ScopeSelectorOpDoesNotExist:
			return class == ""
		}
		return class != ""
	}
	return false
}

// bestEffort says that neither the pod nor a container asks for or is limited in anything.
func bestEffort(pod *corev1.Pod) bool {
	if r := pod.Spec.Resources; r != nil && asks(r.Requests, r.Limits) {
		return false
	}
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			if asks(containers[i].Resources.Requests, containers[i].Resources.Limits) {
				return false
			}
		}
	}
	return true
}

func asks(lists ...corev1.ResourceList) bool {
	for _, list := range lists {
		for name, q := range list {
			if (name == corev1.ResourceCPU || name == corev1.ResourceMemory) && !q.IsZero() {
				return true
			}
		}
	}
	return false
}

func crossesNamespaces(pod *corev1.Pod) bool {
	a := pod.Spec.Affinity
	if a == nil {
		return false
	}
	var terms []corev1.PodAffinityTerm
	if p := a.PodAffinity; p != nil {
		terms = append(terms, p.RequiredDuringSchedulingIgnoredDuringExecution...)
		for _, w := range p.PreferredDuringSchedulingIgnoredDuringExecution {
			terms = append(terms, w.PodAffinityTerm)
		}
	}
	if p := a.PodAntiAffinity; p != nil {
		terms = append(terms, p.RequiredDuringSchedulingIgnoredDuringExecution...)
		for _, w := range p.PreferredDuringSchedulingIgnoredDuringExecution {
			terms = append(terms, w.PodAffinityTerm)
		}
	}
	return slices.ContainsFunc(terms, func(t corev1.PodAffinityTerm) bool { return len(t.Namespaces) > 0 || t.NamespaceSelector != nil })
}

// countsAlike says that a change of a pod cannot change what it uses. A pod that is made smaller uses what it had until its node
// says in its status that it has less (KEP-1287).
func countsAlike(old, now *corev1.Pod) bool {
	return pods.IsFinished(old) == pods.IsFinished(now) && (old.DeletionTimestamp == nil) == (now.DeletionTimestamp == nil) &&
		old.Generation == now.Generation && equality.Semantic.DeepEqual(old.Spec.ActiveDeadlineSeconds, now.Spec.ActiveDeadlineSeconds) &&
		slices.EqualFunc(old.Status.ContainerStatuses, now.Status.ContainerStatuses, sameAmounts) &&
		slices.EqualFunc(old.Status.InitContainerStatuses, now.Status.InitContainerStatuses, sameAmounts)
}

func sameAmounts(a, b corev1.ContainerStatus) bool {
	return a.Name == b.Name && equality.Semantic.DeepEqual(a.Resources, b.Resources) && equality.Semantic.DeepEqual(a.AllocatedResources, b.AllocatedResources)
}
