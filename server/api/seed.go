package api

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1apply "k8s.io/client-go/applyconfigurations/meta/v1"
	networkingapply "k8s.io/client-go/applyconfigurations/networking/v1"
	"k8s.io/client-go/util/retry"
	schedulingv1 "k8s.io/kubernetes/pkg/apis/scheduling/v1"

	"bramble.dev/link"
	"bramble.dev/server/api/aggregator"
	"bramble.dev/server/api/customresources"
	"bramble.dev/server/auth"
)

// seeding is one thing that every cluster has, and its making, or its finding from the last time.
type seeding struct {
	what string
	do   func(context.Context) error
	kept bool // it is put back when somebody has deleted it while the server runs
}

func (s *Server) seedings() []seeding {
	return []seeding{
		{"service network", s.seedServiceCIDR, true},
		{"cluster IPs", func(ctx context.Context) error {
			return repairClusterIPs(ctx, s.wiring.client, s.wiring.informers, s.config.severalServers(), s.log)
		}, false},
		{"namespaces", s.seedNamespaces, true},
		{"roles", s.seedRoles, false},
		{"priority classes", s.seedPriorityClasses, false},
		{"flow schemas", s.turns.Seed, false},
		{"storage class", s.seedStorageClass, false},
		{"ingress class", s.seedIngressClass, false},
		{"kubernetes service", s.seedKubernetesService, true},
		{"API services", s.seedAPIServices, false},
		{"authentication of other API servers", s.seedAuthentication, true},
	}
}

// seed makes what every cluster has. What the API itself refuses, because of something that a user has written into it, keeps the server
// from nothing: without it he could not mend that. It is told, and tried again every minute.
func (s *Server) seed(ctx context.Context) error {
	for _, step := range s.seedings() {
		err := settled(func() error { return step.do(ctx) })
		var refused apierrors.APIStatus
		switch {
		case err == nil:
		case errors.As(err, &refused) && ctx.Err() == nil:
			s.log.Error("what every cluster has is missing, and is tried again every minute", "what", step.what, "err", err)
			s.missing = append(s.missing, step.what)
		default:
			return fmt.Errorf("seed %s: %w", step.what, err)
		}
	}
	return nil
}

// keepSeeds puts back what somebody has deleted, as upstream does, within a minute. It only reads while nobody has.
func (s *Server) keepSeeds(ctx context.Context) error {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.putBack(ctx)
		case <-ctx.Done():
			return nil
		}
	}
}

// putBack looks once after what is kept, and after what could not be made yet.
func (s *Server) putBack(ctx context.Context) {
	s.puttingBack.Lock()
	defer s.puttingBack.Unlock()
	for _, step := range s.seedings() {
		if !step.kept && !slices.Contains(s.missing, step.what) {
			continue
		}
		err := settled(func() error { return step.do(ctx) })
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			s.log.Warn("what every cluster has is still missing", "what", step.what, "err", err)
			continue
		}
		s.missing = slices.DeleteFunc(s.missing, func(what string) bool { return what == step.what })
	}
}

// settled does what another server may be about at the same moment: who comes second looks again.
func settled(do func() error) error {
	return retry.OnError(retry.DefaultBackoff, func(err error) bool { return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) }, do)
}

func (s *Server) seedNamespaces(ctx context.Context) error {
	for _, name := range []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease} {
		if _, err := s.wiring.client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			if err != nil {
				return err
			}
			continue
		}
		_, err := s.wiring.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	return nil
}

func (s *Server) seedPriorityClasses(ctx context.Context) error {
	classes := s.wiring.client.SchedulingV1().PriorityClasses()
	for _, c := range schedulingv1.SystemPriorityClasses() {
		_, err := classes.Get(ctx, c.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			_, err = classes.Create(ctx, c, metav1.CreateOptions{})
		}
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	return nil
}

// once makes what a cluster gets a single time in its life: what its user has removed does not come back. An annotation of the
// namespace kube-system says that it was there.
func (s *Server) once(ctx context.Context, annotation, name string, create func() error) error {
	namespaces := s.wiring.client.CoreV1().Namespaces()
	system, err := namespaces.Get(ctx, metav1.NamespaceSystem, metav1.GetOptions{})
	if err != nil || system.Annotations[annotation] != "" {
		return err
	}
	if err := create(); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	metav1.SetMetaDataAnnotation(&system.ObjectMeta, annotation, name)
	_, err = namespaces.Update(ctx, system, metav1.UpdateOptions{})
	return err
}

// seedStorageClass makes the class of the volumes that nodes make on their own disks, which is the default.
func (s *Server) seedStorageClass(ctx context.Context) error {
	wait, remove, grow := storagev1.VolumeBindingWaitForFirstConsumer, corev1.PersistentVolumeReclaimDelete, true
	class := &storagev1.StorageClass{
		ObjectMeta:  metav1.ObjectMeta{Name: "local", Annotations: map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}},
		Provisioner: link.LocalProvisioner, ReclaimPolicy: &remove, VolumeBindingMode: &wait, AllowVolumeExpansion: &grow,
	}
	return s.once(ctx, "bramble.dev/seeded-storage-class", class.Name, func() error {
		_, err := s.wiring.client.StorageV1().StorageClasses().Create(ctx, class, metav1.CreateOptions{})
		return err
	})
}

// seedIngressClass makes the class of the Ingresses that nodes serve, which is the default: until its user takes another
// ingress controller.
func (s *Server) seedIngressClass(ctx context.Context) error {
	class := &networkingv1.IngressClass{
		ObjectMeta: metav1.ObjectMeta{Name: "bramble", Annotations: map[string]string{networkingv1.AnnotationIsDefaultIngressClass: "true"}},
		Spec:       networkingv1.IngressClassSpec{Controller: link.IngressController},
	}
	return s.once(ctx, "bramble.dev/seeded-ingress-class", class.Name, func() error {
		_, err := s.wiring.client.NetworkingV1().IngressClasses().Create(ctx, class, metav1.CreateOptions{})
		return err
	})
}

// seedAPIServices makes the APIServices of what is served here. Those of custom resources are kept by what serves these; what is left of
// them when the last definition has gone is removed here.
func (s *Server) seedAPIServices(ctx context.Context) error {
	client := s.wiring.apiServices.APIServices()
	if err := aggregator.KeepLocal(ctx, client, aggregator.OnStart, s.local); err != nil {
		return err
	}
	if n, _ := s.config.Store.Stand(s.wiring.stores.prefix(customresources.Resource)); n > 0 {
		return nil
	}
	return aggregator.KeepLocal(ctx, client, aggregator.Always, nil)
}

// seedAuthentication says how API servers beside this one know whose requests they get: by the cluster's certificates, and, where this
// one passes a request on, by headers.
func (s *Server) seedAuthentication(ctx context.Context) error {
	maps := s.wiring.client.CoreV1().ConfigMaps(metav1.NamespaceSystem)
	want := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "extension-apiserver-authentication"}, Data: map[string]string{
		"client-ca-file":                     string(s.config.PKI.CACertPEM()),
		"requestheader-client-ca-file":       string(s.config.PKI.FrontProxyCACertPEM()),
		"requestheader-allowed-names":        `["` + auth.FrontProxyUser + `"]`,
		"requestheader-username-headers":     `["X-Remote-User"]`,
		"requestheader-uid-headers":          `["X-Remote-Uid"]`,
		"requestheader-group-headers":        `["X-Remote-Group"]`,
		"requestheader-extra-headers-prefix": `["X-Remote-Extra-"]`,
	}}
	have, err := maps.Get(ctx, want.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = maps.Create(ctx, want, metav1.CreateOptions{})
	case err == nil && !equality.Semantic.DeepEqual(have.Data, want.Data):
		have.Data = want.Data
		_, err = maps.Update(ctx, have, metav1.UpdateOptions{})
	}
	return err
}

// seedServiceCIDR makes the object that cluster IPs are allocated from, and waits until the allocator has seen it.
func (s *Server) seedServiceCIDR(ctx context.Context) error {
	cidrs := s.wiring.client.NetworkingV1().ServiceCIDRs()
	want := s.config.ServiceCIDR.Masked().String()
	have, err := cidrs.Get(ctx, "kubernetes", metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		have, err = cidrs.Create(ctx, &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{want}}}, metav1.CreateOptions{})
	}
	if err != nil {
		return err
	}
	if have.Spec.CIDRs[0] != want {
		return fmt.Errorf("this cluster was made with the service network %s and cannot be served with %s: start the server with the former, or with an empty data folder", have.Spec.CIDRs[0], want)
	}
	// One that is being deleted stays as long as Services have its addresses, and gives out no more: to say so is its controller's.
	if have.DeletionTimestamp != nil {
		return nil
	}
	if !meta.IsStatusConditionTrue(have.Status.Conditions, networkingv1.ServiceCIDRConditionReady) {
		ready := metav1apply.Condition().WithType(networkingv1.ServiceCIDRConditionReady).WithStatus(metav1.ConditionTrue).
			WithMessage("Kubernetes default Service CIDR is ready").WithLastTransitionTime(metav1.Now())
		status := networkingapply.ServiceCIDR(have.Name).WithStatus(networkingapply.ServiceCIDRStatus().WithConditions(ready))
		if _, err := cidrs.ApplyStatus(ctx, status, metav1.ApplyOptions{FieldManager: "kubernetes-service-cidr-controller", Force: true}); err != nil {
			return err
		}
	}
	return s.waitForClusterIPs(ctx)
}

// waitForClusterIPs returns when the allocator, which follows ServiceCIDRs, knows ours.
func (s *Server) waitForClusterIPs(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		err := s.wiring.clusterIPs.DryRun().Allocate(serviceIP(s.config.ServiceCIDR).AsSlice())
		if err == nil {
			return nil
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		}
	}
}
