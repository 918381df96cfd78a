package shortage

import (
	"reflect"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"bramble.dev/agent/status"
)

func TestParseThresholds(t *testing.T) {
	defaults := Defaults(4 << 30)
	for _, tt := range []struct {
		name  string
		given []string
		want  map[Signal]Threshold
		err   string
	}{
		{"none", nil, map[Signal]Threshold{MemoryAvailable: {Signal: MemoryAvailable, Quantity: 100 << 20}, NodeFsAvailable: {Signal: NodeFsAvailable, Percent: 10, Most: enough}, NodeFsInodes: {Signal: NodeFsInodes, Percent: 5},
			ImageFsAvailable: {Signal: ImageFsAvailable, Percent: 15, Most: enough, Own: true}, ImageFsInodes: {Signal: ImageFsInodes, Percent: 5, Own: true}, PIDAvailable: {Signal: PIDAvailable, Percent: 10}}, ""},
		{"one takes its default's place", []string{"memory.available<64Mi", " imagefs.available = 7.5% "}, map[Signal]Threshold{MemoryAvailable: {Signal: MemoryAvailable, Quantity: 64 << 20}, NodeFsAvailable: {Signal: NodeFsAvailable, Percent: 10, Most: enough},
			NodeFsInodes: {Signal: NodeFsInodes, Percent: 5}, ImageFsAvailable: {Signal: ImageFsAvailable, Percent: 7.5}, ImageFsInodes: {Signal: ImageFsInodes, Percent: 5, Own: true}, PIDAvailable: {Signal: PIDAvailable, Percent: 10}}, ""},
		{"switched off", []string{"nodefs.available<0%", "imagefs.available<100%", "nodefs.inodesFree<0%", "imagefs.inodesFree<0%", "pid.available<0%"}, map[Signal]Threshold{MemoryAvailable: {Signal: MemoryAvailable, Quantity: 100 << 20}}, ""},
		{"no operator", []string{"memory.available"}, nil, "want signal<quantity"},
		{"unknown", []string{"disk.available<5%"}, nil, `no signal "disk.available"`},
		{"too much", []string{"memory.available<101%"}, nil, "from 0% to 100%"},
		{"not a number", []string{"memory.available<NaN%"}, nil, "from 0% to 100%"},
		{"no quantity", []string{"memory.available<lots"}, nil, "positive quantity"},
		{"negative", []string{"memory.available<-1Mi"}, nil, "positive quantity"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseThresholds(defaults, tt.given)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v", err)
				}
				return
			}
			by := map[Signal]Threshold{}
			for _, th := range got {
				by[th.Signal] = th
			}
			if err != nil || !reflect.DeepEqual(by, tt.want) {
				t.Errorf("got %v, %v", by, err)
			}
		})
	}
	if small := Defaults(427 << 20)[0]; small.of(427<<20) != 427<<20/10 {
		t.Errorf("a small board keeps %v", small)
	}
}

func TestShort(t *testing.T) {
	thresholds := Defaults(4 << 30)
	l := Levels{Split: true, Of: map[Signal]Level{
		ImageFsAvailable: {14, 100}, NodeFsAvailable: {10, 100}, MemoryAvailable: {100<<20 - 1, 4 << 30}, PIDAvailable: {1, 100},
	}}
	var got []Signal
	for _, th := range short(thresholds, l) {
		got = append(got, th.Signal)
	}
	if want := []Signal{MemoryAvailable, ImageFsAvailable, PIDAvailable}; !reflect.DeepEqual(got, want) {
		t.Errorf("short of %v, want %v", got, want)
	}
	one := Levels{Of: map[Signal]Level{ImageFsAvailable: {14, 100}, NodeFsAvailable: {14, 100}}}
	if got := short(thresholds, one); len(got) > 0 {
		t.Errorf("one disk for all: short of %v", got)
	}
	large := Levels{Of: map[Signal]Level{NodeFsAvailable: {11 << 30, 1 << 40}}}
	if got := short(thresholds, large); len(got) > 0 {
		t.Errorf("a large disk: short of %v", got)
	}
	given, err := ParseThresholds(thresholds, []string{"imagefs.available<15%"})
	if got := short(given, one); err != nil || len(got) != 1 {
		t.Errorf("what was given holds everywhere: short of %v, %v", got, err)
	}
}

func TestPressureStaysForItsTransition(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	c := conditions{}
	c.note([]Threshold{{Signal: ImageFsInodes}}, now)
	for after, want := range map[time.Duration]bool{0: true, 4 * time.Minute: true, 5 * time.Minute: false} {
		if got := c.since(5*time.Minute, now.Add(after)); got != (status.Pressure{Disk: want}) {
			t.Errorf("after %v: %v", after, got)
		}
	}
}

func TestReservation(t *testing.T) {
	capacity := corev1.ResourceList{"memory": resource.MustParse("1Gi"), "ephemeral-storage": resource.MustParse("30Gi"), "cpu": resource.MustParse("4")}
	got := Reservation(Defaults(1<<30), capacity)
	if m, d := got["memory"], got["ephemeral-storage"]; len(got) != 2 || m.String() != "100Mi" || d.String() != "3Gi" {
		t.Errorf("reserved %v", got)
	}
}

func TestRefuse(t *testing.T) {
	pod := func(change func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "a"}}}}
		change(p)
		return p
	}
	priority := int32(systemCritical)
	bestEffort := pod(func(*corev1.Pod) {})
	tolerant := pod(func(p *corev1.Pod) {
		p.Spec.Tolerations = []corev1.Toleration{{Key: corev1.TaintNodeMemoryPressure, Operator: corev1.TolerationOpExists}}
	})
	vital := pod(func(p *corev1.Pod) { p.Spec.Priority = &priority })
	burstable := pod(func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"memory": resource.MustParse("1Mi")}
	})
	for _, tt := range []struct {
		name string
		pod  *corev1.Pod
		p    status.Pressure
		want string
	}{
		{"none", bestEffort, status.Pressure{}, ""},
		{"best effort, memory", bestEffort, status.Pressure{Memory: true}, "The node had condition: [MemoryPressure]. "},
		{"one that tolerates it", tolerant, status.Pressure{Memory: true}, ""},
		{"one that asks for memory", burstable, status.Pressure{Memory: true}, ""},
		{"disk", burstable, status.Pressure{Memory: true, Disk: true}, "The node had condition: [MemoryPressure DiskPressure]. "},
		{"critical", vital, status.Pressure{Disk: true, PID: true}, ""},
	} {
		got := Refuse(tt.pod, tt.p)
		if (got == nil) != (tt.want == "") || got != nil && (got.Message != tt.want || got.Reason != "Evicted") {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}
