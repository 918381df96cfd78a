package admission

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
)

// presently is a plugin that knows a resource by its present group alone. Of a request for the same objects in a group of old it is
// asked as if it were for the present one: an Ingress of extensions/v1beta1 is of the default class too, and counts. Webhooks and
// policies are not among these plugins: they match, and see, what was asked for.
type presently struct {
	admission.Interface
	groups map[schema.GroupResource]string
}

func (p presently) Admit(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	if m, ok := p.Interface.(admission.MutationInterface); ok {
		return m.Admit(ctx, p.of(a), o)
	}
	return nil
}

func (p presently) Validate(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	if v, ok := p.Interface.(admission.ValidationInterface); ok {
		return v.Validate(ctx, p.of(a), o)
	}
	return nil
}

func (p presently) of(a admission.Attributes) admission.Attributes {
	r := a.GetResource()
	present, repeated := p.groups[r.GroupResource()]
	if !repeated {
		return a
	}
	r.Group = present
	return regrouped{a, r}
}

// regrouped is a request for a resource of another group.
type regrouped struct {
	admission.Attributes
	resource schema.GroupVersionResource
}

func (r regrouped) GetResource() schema.GroupVersionResource { return r.resource }
