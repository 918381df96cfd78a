package main

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

const report = `<?xml version="1.0"?>
<testsuites><testsuite name="e2e">
<testcase name="[ReportBeforeSuite]" status="passed"/>
<testcase name="[It] [sig-apps] Deployment should run the lifecycle of a Deployment [Conformance] [sig-apps, Conformance]" status="passed"/>
<testcase name="[It] [sig-apps] ReplicaSet should list [Conformance] [sig-apps, Conformance]" status="failed"/>
<testcase name="[It] [sig-node] Pods should be submitted [NodeConformance] [Conformance]" status="timedout"/>
<testcase name="[It] [sig-node] Other [Conformance] [sig-node, Conformance]" status="skipped"/>
</testsuite></testsuites>`

func TestReportsAreMerged(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "junit_01.xml"), []byte(report), 0o644); err != nil {
		t.Fatal(err)
	}
	ran, err := readReports(dir)
	if err != nil {
		t.Fatal(err)
	}
	specs := []string{
		"[sig-apps] Deployment should run the lifecycle of a Deployment [Conformance]",
		"[sig-apps] ReplicaSet should list [Conformance]",
		"[sig-node] Other [Conformance]",
		"[sig-node] Pods should be submitted [NodeConformance] [Conformance]",
		"[sig-node] Untouched [Conformance]",
	}
	known := results{specs[4]: "passed", specs[1]: "passed"}
	passed, failed := merge(known, specs, ran)
	if passed != 1 || !reflect.DeepEqual(failed, []string{specs[1], specs[3]}) {
		t.Errorf("%d passed, failed: %v", passed, failed)
	}
	want := results{specs[0]: "passed", specs[1]: "failed", specs[3]: "failed", specs[4]: "passed"}
	if !reflect.DeepEqual(known, want) {
		t.Errorf("results %v, want %v", known, want)
	}
	out := page(specs, known)
	for _, w := range []string{"Of 5 specs, at their last run: **2 passed**, 2 failed; 1 have not been run.", "| sig-apps | 2 | 1 | 1 | 0 |", "- not run: Other"} {
		if !strings.Contains(out, w) {
			t.Errorf("the page lacks %q:\n%s", w, out)
		}
	}
}

func TestNoReportIsAnError(t *testing.T) {
	if _, err := readReports(t.TempDir()); err == nil {
		t.Error("a run without any report counted as a run")
	}
}
