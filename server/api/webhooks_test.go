package api

import (
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// answering serves a webhook that answers as review says.
func answering(t *testing.T, review func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse) admissionregistrationv1.WebhookClientConfig {
	t.Helper()
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		in := admissionv1.AdmissionReview{}
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		out := review(in.Request)
		out.UID = in.Request.UID
		in.Request, in.Response = nil, out
		_ = json.NewEncoder(w).Encode(in)
	}))
	t.Cleanup(s.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	return admissionregistrationv1.WebhookClientConfig{URL: &s.URL, CABundle: ca}
}

func in(ns string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: ns}}
}

var onConfigMaps = []admissionregistrationv1.RuleWithOperations{{
	Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
	Rule:       admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}},
}}

// Webhooks are asked from the moment that they are there until they are gone.
func TestWebhooks(t *testing.T) {
	c, ns := shared(t)
	maps, registration := c.client.CoreV1().ConfigMaps(ns), c.client.AdmissionregistrationV1()
	none, fail := admissionregistrationv1.SideEffectClassNone, admissionregistrationv1.Fail
	must(registration.MutatingWebhookConfigurations().Create(t.Context(), &admissionregistrationv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: ns},
		Webhooks: []admissionregistrationv1.MutatingWebhook{{
			Name: "m.example.com", Rules: onConfigMaps, NamespaceSelector: in(ns), SideEffects: &none, AdmissionReviewVersions: []string{"v1"}, FailurePolicy: &fail,
			ClientConfig: answering(t, func(r *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
				kind := admissionv1.PatchTypeJSONPatch
				return &admissionv1.AdmissionResponse{Allowed: true, PatchType: &kind, Patch: []byte(`[{"op":"add","path":"/data","value":{"by":"webhook"}}]`)}
			}),
		}},
	}, metav1.CreateOptions{}))(t)
	must(registration.ValidatingWebhookConfigurations().Create(t.Context(), &admissionregistrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: ns},
		Webhooks: []admissionregistrationv1.ValidatingWebhook{{
			Name: "v.example.com", Rules: onConfigMaps, NamespaceSelector: in(ns), SideEffects: &none, AdmissionReviewVersions: []string{"v1"}, FailurePolicy: &fail,
			ClientConfig: answering(t, func(r *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
				if strings.Contains(string(r.Object.Raw), `"by":"webhook"`) && r.Name != "bad" {
					return &admissionv1.AdmissionResponse{Allowed: true}
				}
				return &admissionv1.AdmissionResponse{Result: &metav1.Status{Message: "not this one"}}
			}),
		}},
	}, metav1.CreateOptions{}))(t)
	// The very next request finds both.
	if m := must(maps.Create(t.Context(), configMap("good"), metav1.CreateOptions{}))(t); m.Data["by"] != "webhook" {
		t.Errorf("the webhook changed nothing: %v", m.Data)
	}
	if _, err := maps.Create(t.Context(), configMap("bad"), metav1.CreateOptions{}); err == nil || !strings.Contains(err.Error(), `admission webhook "v.example.com" denied the request: not this one`) {
		t.Errorf("got %v", err)
	}
	for _, err := range []error{
		registration.MutatingWebhookConfigurations().Delete(t.Context(), ns, metav1.DeleteOptions{}),
		registration.ValidatingWebhookConfigurations().Delete(t.Context(), ns, metav1.DeleteOptions{}),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	eventually(t, "a webhook that is gone is not asked", func() bool {
		m, err := maps.Create(t.Context(), configMap("bad"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err == nil && m.Data["by"] == ""
	})
}

func TestPolicies(t *testing.T) {
	c, ns := shared(t)
	registration, maps := c.client.AdmissionregistrationV1(), c.client.CoreV1().ConfigMaps(ns)
	constraints := &admissionregistrationv1.MatchResources{NamespaceSelector: in(ns), ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{{RuleWithOperations: onConfigMaps[0]}}}
	policy := must(registration.ValidatingAdmissionPolicies().Create(t.Context(), &admissionregistrationv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: ns},
		Spec: admissionregistrationv1.ValidatingAdmissionPolicySpec{
			MatchConstraints: constraints,
			ParamKind:        &admissionregistrationv1.ParamKind{APIVersion: "v1", Kind: "ConfigMap"},
			Validations: []admissionregistrationv1.Validation{
				{Expression: "object.metadata.name != params.data['refused']", Message: "it is refused by name"},
				{Expression: "object.nothing == 1 || true"},
			},
		},
	}, metav1.CreateOptions{}))(t)
	parameters := configMap("parameters")
	parameters.Data = map[string]string{"refused": "bad"}
	must(maps.Create(t.Context(), parameters, metav1.CreateOptions{}))(t)
	must(registration.ValidatingAdmissionPolicyBindings().Create(t.Context(), &admissionregistrationv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: ns},
		Spec: admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec{
			PolicyName: ns, ValidationActions: []admissionregistrationv1.ValidationAction{admissionregistrationv1.Deny},
			ParamRef: &admissionregistrationv1.ParamRef{Name: "parameters", Namespace: ns, ParameterNotFoundAction: new(admissionregistrationv1.DenyAction)},
		},
	}, metav1.CreateOptions{}))(t)
	t.Cleanup(func() {
		ctx := t.Context()
		_ = registration.ValidatingAdmissionPolicyBindings().Delete(ctx, ns, metav1.DeleteOptions{})
		_ = registration.ValidatingAdmissionPolicies().Delete(ctx, ns, metav1.DeleteOptions{})
	})
	eventually(t, "the policy refuses by its parameters", func() bool {
		_, err := maps.Create(t.Context(), configMap("bad"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return apierrors.IsInvalid(err) && strings.Contains(err.Error(), "it is refused by name")
	})
	must(maps.Create(t.Context(), configMap("good"), metav1.CreateOptions{}))(t)
	eventually(t, "the mistake of types is said in the policy's status", func() bool {
		p, err := registration.ValidatingAdmissionPolicies().Get(t.Context(), policy.Name, metav1.GetOptions{})
		return err == nil && p.Status.TypeChecking != nil && len(p.Status.TypeChecking.ExpressionWarnings) == 1 &&
			p.Status.TypeChecking.ExpressionWarnings[0].FieldRef == "spec.validations[1].expression"
	})
}
