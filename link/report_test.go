package link

import (
	"encoding/hex"
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestNodeReportOnTheWire holds the bytes of an item `node`, with and without what older peers do not know: boards in
// the field and servers of either age read each other's.
func TestNodeReportOnTheWire(t *testing.T) {
	const (
		plain     = "1e1a0032040a0208003a140a0012001a0022002a0032003a0042004a00520006020000000001097b2261223a2262227d01110a016b12001a0a4e6f5363686564756c65"
		platforms = "357b22646f636b65722e696f2f7465616d2f746f6f6c3a31223a5b226c696e75782f616d643634222c226c696e75782f333836225d7d"
	)
	for _, test := range []struct {
		name, wire string
		platforms  map[string][]string
	}{
		{"as it always was", plain, nil},
		{"with platforms", plain + platforms, map[string][]string{"docker.io/team/tool:1": {"linux/amd64", "linux/386"}}},
	} {
		report := NodeReport{
			MAC: []byte{2, 0, 0, 0, 0, 1}, Labels: map[string]string{"a": "b"},
			Taints: []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoSchedule}}, Platforms: test.platforms,
		}
		b, err := report.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(b); got != test.wire {
			t.Errorf("%s:\n%s, want\n%s", test.name, got, test.wire)
		}
		got, err := DecodeNodeReport(b)
		if err != nil {
			t.Fatal(err)
		}
		if report.Status = got.Status; !reflect.DeepEqual(*got, report) {
			t.Errorf("%s: read as %+v", test.name, got)
		}
	}
	later, _ := hex.DecodeString(plain + platforms + "010203")
	if r, err := DecodeNodeReport(later); err != nil || len(r.Platforms) != 1 {
		t.Errorf("with what a later version appends: %+v, %v", r, err)
	}
	if _, err := DecodeNodeReport(later[:len(later)-5]); err == nil {
		t.Error("what is cut off was read")
	}
}
