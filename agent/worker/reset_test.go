package worker

import (
	"context"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/agent/fake"
)

// allAnew gives a container the rule that its exit code 42 starts the whole pod anew.
func allAnew(c *corev1.Container) {
	if c.RestartPolicy == nil {
		never := corev1.ContainerRestartPolicyNever
		c.RestartPolicy = &never
	}
	c.RestartPolicyRules = []corev1.ContainerRestartRule{{
		Action:    corev1.ContainerRestartRuleActionRestartAllContainers,
		ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: corev1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42}},
	}}
}

func condition(s corev1.PodStatus, kind corev1.PodConditionType) corev1.PodCondition {
	for _, c := range s.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return corev1.PodCondition{}
}

// TestRestartAllContainers: one container's end takes away all of them, init containers and sidecars too, and each starts
// again, whatever its own restart policy says.
func TestRestartAllContainers(t *testing.T) {
	simulate(t, func(n *node) {
		n.runtime.Behave("setup", fake.Behavior{ExitAfter: time.Second})
		n.runtime.Behave("app", fake.Behavior{ExitAfter: 10 * time.Second, ExitCode: 42})
		n.m.Set([]*corev1.Pod{pod(policy(corev1.RestartPolicyNever), withInit, withSidecar, withSecond, withDebug, func(p *corev1.Pod) { allAnew(&p.Spec.Containers[0]) })})
		n.after(5 * time.Second)
		n.expect("u1", "Running setup:Completed(0)/0+ proxy:running/0+ app:running/0+ second:running/0+ debug:running/0")
		if c := condition(n.status("u1"), corev1.AllContainersRestarting); c.Status != corev1.ConditionFalse {
			t.Errorf("before: %+v", c)
		}
		n.runtime.Behave("app", fake.Behavior{}) // the next one stays
		n.after(30 * time.Second)
		n.expect("u1", "Running setup:Completed(0)/1+ proxy:running/1+ app:running/1+ second:running/1+ debug:running/0")
		s := n.status("u1")
		for _, c := range slices.Concat(s.InitContainerStatuses, s.ContainerStatuses) {
			if end := c.LastTerminationState.Terminated; end == nil || end.Reason != "RestartingAllContainers" || end.ExitCode != 137 {
				t.Errorf("%s ended last with %+v", c.Name, end)
			}
		}
		for kind, want := range map[corev1.PodConditionType]corev1.ConditionStatus{
			corev1.AllContainersRestarting: corev1.ConditionFalse, corev1.PodInitialized: corev1.ConditionTrue, corev1.PodReady: corev1.ConditionTrue,
		} {
			if c := condition(s, kind); c.Status != want {
				t.Errorf("afterwards: %+v", c)
			}
		}
		all, _ := n.runtime.List(context.Background())
		if len(all) != 1 || len(all[0].Containers) != 5 {
			t.Errorf("the sandbox stays, with one container each: %+v", all)
		}
	})
}

// TestRestartAllByAnInitContainer: the pod has not failed, though an init container has, and is not held back.
func TestRestartAllByAnInitContainer(t *testing.T) {
	simulate(t, func(n *node) {
		n.runtime.Behave("setup", fake.Behavior{ExitAfter: 2 * time.Second, ExitCode: 42})
		n.m.Set([]*corev1.Pod{pod(policy(corev1.RestartPolicyNever), withSidecar, withInit, func(p *corev1.Pod) { allAnew(&p.Spec.InitContainers[1]) })})
		n.after(time.Second)
		n.runtime.Behave("setup", fake.Behavior{ExitAfter: time.Second})
		n.after(10 * time.Second)
		n.expect("u1", "Running proxy:running/1+ setup:Completed(0)/1+ app:running/0+")
	})
}

// TestRestartAllAgain: each time is one restart, and a container that fails by itself in between keeps its own rules.
func TestRestartAllAgain(t *testing.T) {
	simulate(t, func(n *node) {
		n.runtime.Behave("app", fake.Behavior{ExitAfter: 20 * time.Second, ExitCode: 42})
		n.m.Set([]*corev1.Pod{pod(policy(corev1.RestartPolicyNever), withSecond, func(p *corev1.Pod) {
			allAnew(&p.Spec.Containers[0])
			allAnew(&p.Spec.Containers[1])
		})})
		n.after(50 * time.Second)
		n.expect("u1", "Running app:running/2+ second:running/2+")
		n.runtime.Behave("app", fake.Behavior{ExitAfter: time.Second, ExitCode: 1})
		n.after(30 * time.Second)
		n.expect("u1", "Running app:Error(1)/3 second:running/3+")
	})
}

// TestRestartAllOverAnAgentsEnd: an agent that ends in the middle leaves what the next one needs to go on.
func TestRestartAllOverAnAgentsEnd(t *testing.T) {
	simulate(t, func(n *node) {
		n.runtime.Behave("app", fake.Behavior{ExitAfter: 5 * time.Second, ExitCode: 42})
		n.runtime.Behave("second", fake.Behavior{StopAfter: 90 * time.Second})
		p := pod(policy(corev1.RestartPolicyNever), withSecond, func(p *corev1.Pod) { allAnew(&p.Spec.Containers[0]) })
		n.m.Set([]*corev1.Pod{p})
		n.after(6 * time.Second) // second is being stopped
		if c := condition(n.status("u1"), corev1.AllContainersRestarting); c.Status != corev1.ConditionTrue || c.Reason != "RestartAllContainersStarted" {
			t.Errorf("on the way: %+v", c)
		}
		n.stop()
		n.runtime.Behave("app", fake.Behavior{})
		n.start()
		n.m.Set([]*corev1.Pod{p})
		n.after(20 * time.Second)
		n.expect("u1", "Running app:running/1+ second:running/1+")
	})
}
