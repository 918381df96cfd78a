package spelling

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestMend(t *testing.T) {
	tests := []struct{ name, body, want, mended string }{
		{"right", `{"spec":{"volumes":[{"name":"v","hostPath":{"path":"/a"}}]}}`, "", ""},
		{"the course's thirteenth", `{"spec":{"volumes":[{"name":"v","hostpath":{"path":"/a"}}]}}`,
			`{"spec":{"volumes":[{"name":"v","hostPath":{"path":"/a"}}]}}`, "spec.volumes[0].hostpath hostPath"},
		{"anywhere", `{"APIVersion":"v1", "spec":{"CONTAINERS": [ {"Name":"a"},{"VolumeMounts":[{"mountpath":"/x"}]} ]}}`,
			`{"apiVersion":"v1", "spec":{"containers": [ {"name":"a"},{"volumeMounts":[{"mountPath":"/x"}]} ]}}`,
			"spec.CONTAINERS[0].Name name|spec.CONTAINERS[1].VolumeMounts[0].mountpath mountPath|spec.CONTAINERS[1].VolumeMounts volumeMounts|spec.CONTAINERS containers|APIVersion apiVersion"},
		{"both spellings", `{"spec":{"volumes":[{"hostpath":{"path":"/a"},"hostPath":{"path":"/b"}}]}}`, "", ""},
		{"two wrong ones", `{"spec":{"volumes":[{"hostpath":{"path":"/a"},"HostPath":{"path":"/b"}}]}}`, "", ""},
		{"keys of maps are anybody's", `{"metadata":{"labels":{"HostPath":"a"},"annotations":{"NAME":"b"}}}`, "", ""},
		{"other unknown fields", `{"spec":{"hostPaths":{"name":"b"}}}`, "", ""},
		{"values", `{"spec":{"nodeName":"hostpath","hostname":"\"hostpath\":"}}`, "", ""},
		{"a null is a field", `{"spec":{"volumes":[{"name":"v","emptydir":null}]}}`, `{"spec":{"volumes":[{"name":"v","emptyDir":null}]}}`, "spec.volumes[0].emptydir emptyDir"},
		{"the order of a patch's elements", `{"spec":{"$setElementOrder/Volumes":[{"name":"v"}],"Volumes":[{"name":"v"}]}}`,
			`{"spec":{"$setElementOrder/volumes":[{"name":"v"}],"volumes":[{"name":"v"}]}}`, "spec.$setElementOrder/Volumes volumes|spec.Volumes volumes"},
		{"types that read themselves", `{"spec":{"containers":[{"livenessProbe":{"httpGet":{"port":{"Type":1}}},"resources":{"Limits":{"CPU":"1"}}}]}}`,
			`{"spec":{"containers":[{"livenessProbe":{"httpGet":{"port":{"Type":1}}},"resources":{"limits":{"CPU":"1"}}}]}}`, "spec.containers[0].resources.Limits limits"},
		{"not of the type", `{"spec":["hostpath",{"Name":1}],"metadata":3}`, "", ""},
		{"broken off", `{"Spec":{"volumes":[{"hostpath":`, "", ""},
		{"no JSON", `spec: {Volumes: []}`, "", ""},
		{"escapes", `{"SP\u0045C":{"Volumes":[]}}`, "", ""},
		{"too deep", strings.Repeat(`{"Spec":`, 100) + "1" + strings.Repeat("}", 100), "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { check(t, Mend, tt.body, tt.want, tt.mended) })
	}
}

// What kubectl sends when a manifest is applied again: the wrong name as it was or mended, or wrong after it was right.
func TestMendPatch(t *testing.T) {
	tests := []struct{ name, body, want, mended string }{
		{"retained keys", `{"spec":{"volumes":[{"$retainKeys":["hostpath","name"],"hostpath":{"path":"/a"},"name":"v"}]}}`,
			`{"spec":{"volumes":[{"$retainKeys":["hostPath","name"],"hostPath":{"path":"/a"},"name":"v"}]}}`, "spec.volumes[0].hostpath hostPath"},
		{"the manifest was mended", `{"spec":{"containers":[{"name":"c","volumemounts":null}],"volumes":[{"$retainKeys":["hostPath","name"],"hostpath":null,"name":"v"}]}}`,
			"", "spec.containers[0].volumemounts volumeMounts left|spec.volumes[0].hostpath hostPath left"},
		{"mended and changed", `{"spec":{"nodename":null,"nodeName":"b"}}`, "", "spec.nodename nodeName left"},
		{"wrong again", `{"spec":{"containers":[{"name":"c","volumeMounts":null,"volumemounts":[{"name":"v"}]}],"volumes":[{"$retainKeys":["hostpath","name"],"hostPath":null,"hostpath":{"path":"/a"},"name":"v"}]}}`,
			`{"spec":{"containers":[{"name":"c","volumemounts":null,"volumeMounts":[{"name":"v"}]}],"volumes":[{"$retainKeys":["hostPath","name"],"hostpath":null,"hostPath":{"path":"/a"},"name":"v"}]}}`,
			"spec.containers[0].volumemounts volumeMounts|spec.volumes[0].hostpath hostPath"},
		{"wrong in another way", `{"spec":{"NodeName":null,"nodename":"b"}}`, `{"spec":{"NodeName":null,"nodeName":"b"}}`,
			"spec.NodeName nodeName left|spec.nodename nodeName"},
		{"both", `{"spec":{"nodename":"a","nodeName":"b"}}`, "", ""},
		{"another kind of volume", `{"spec":{"volumes":[{"$retainKeys":["emptyDir","name"],"emptyDir":{},"hostpath":null,"name":"v"}]}}`,
			"", "spec.volumes[0].hostpath hostPath left"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { check(t, MendPatch, tt.body, tt.want, tt.mended) })
	}
}

// check mends a body, which must become what is wanted, or stay if that is "".
func check(t *testing.T, mend func([]byte, reflect.Type) []Mended, text, want, mended string) {
	t.Helper()
	body := []byte(text)
	var got []string
	for _, m := range mend(body, reflect.TypeFor[corev1.Pod]()) {
		s := m.Path + " " + m.Name
		if m.Left {
			s += " left"
		}
		got = append(got, s)
	}
	if s := strings.Join(got, "|"); s != mended {
		t.Errorf("mended\n %s, want\n %s", s, mended)
	}
	if want == "" {
		want = text
	}
	if string(body) != want {
		t.Errorf("body\n %s, want\n %s", body, want)
	}
}

// Whatever comes: no panic, the same length, JSON stays JSON, and a second look finds nothing.
func FuzzMend(f *testing.F) {
	f.Add([]byte(`{"spec":{"volumes":[{"$retainKeys":["hostpath"],"hostpath":{"path":"/a"}}]}}`))
	f.Add([]byte(`{"Spec":{"$setElementOrder/Volumes":[1,{"a":null}],"tolerations":[{"KEY":"\\\""}]}}`))
	f.Add([]byte(`{"a`))
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, mend := range []func([]byte, reflect.Type) []Mended{MendPatch, Mend} {
			body := bytes.Clone(body)
			length, valid := len(body), json.Valid(body)
			mend(body, reflect.TypeFor[corev1.Pod]())
			if len(body) != length || valid && !json.Valid(body) {
				t.Fatalf("became %q", body)
			}
			for _, again := range mend(body, reflect.TypeFor[corev1.Pod]()) {
				if valid && !again.Left {
					t.Fatalf("found again: %v in %q", again, body)
				}
			}
		}
	})
}

// go test -bench Mend ./server/api/spelling
func BenchmarkMend(b *testing.B) {
	body := []byte(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","labels":{"app":"p"}},"spec":{"containers":[{"name":"c","image":"busybox",` +
		`"env":[{"name":"A","value":"B"}],"volumeMounts":[{"name":"v","mountPath":"/v"}]}],"volumes":[{"name":"v","hostPath":{"path":"/a"}}]}}`)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		Mend(body, reflect.TypeFor[corev1.Pod]())
	}
}
