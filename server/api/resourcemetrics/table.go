package resourcemetrics

import (
	"maps"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/metrics/pkg/apis/metrics"

	corev1 "k8s.io/api/core/v1"
)

// The columns are those of metrics-server: the name, each resource, the window.

func addNodes(t *metav1.Table, all ...metrics.NodeMetrics) {
	for n := range all {
		addRow(t, all[n].Name, all[n].Usage, all[n].Window, &all[n])
	}
}

func addPods(t *metav1.Table, all ...metrics.PodMetrics) {
	for n := range all {
		sum := corev1.ResourceList{}
		for _, c := range all[n].Containers {
			for name, q := range c.Usage {
				has := sum[name]
				has.Add(q)
				sum[name] = has
			}
		}
		addRow(t, all[n].Name, sum, all[n].Window, &all[n])
	}
}

func addRow(t *metav1.Table, name string, usage corev1.ResourceList, window metav1.Duration, object runtime.Object) {
	resources := slices.Sorted(maps.Keys(usage))
	if t.ColumnDefinitions == nil {
		t.ColumnDefinitions = append(t.ColumnDefinitions, metav1.TableColumnDefinition{Name: "Name", Type: "string", Format: "name", Description: "Name of the resource"})
		for _, r := range resources {
			t.ColumnDefinitions = append(t.ColumnDefinitions, metav1.TableColumnDefinition{Name: string(r), Type: "string", Format: "quantity"})
		}
		t.ColumnDefinitions = append(t.ColumnDefinitions, metav1.TableColumnDefinition{Name: "Window", Type: "string", Format: "duration"})
	}
	cells := []any{name}
	for _, r := range resources {
		q := usage[r]
		cells = append(cells, q.String())
	}
	t.Rows = append(t.Rows, metav1.TableRow{Cells: append(cells, window.Duration.String()), Object: runtime.RawExtension{Object: object}})
}
