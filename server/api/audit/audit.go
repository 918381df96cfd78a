package audit

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"

	"gopkg.in/natefinch/lumberjack.v2"
	auditinternal "k8s.io/apiserver/pkg/apis/audit"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	upstream "k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/audit/policy"
	"k8s.io/apiserver/pkg/endpoints/filters"
	"k8s.io/apiserver/pkg/endpoints/request"
	logbackend "k8s.io/apiserver/plugin/pkg/audit/log"
)

// Options say what is written, and where. The zero value stands for none.
type Options struct {
	Path       string  // of the log; empty: off
	Policy     string  // file with a Policy of audit.k8s.io/v1; empty: changes and what is run in pods, without what was sent
	MaxSize    int     // MiB, at which a new file is begun; 0: 10
	MaxBackups int     // older files that are kept; 0: all
	MaxAge     int     // days for which they are kept; 0: for ever
	Webhook    Webhook // a receiver of the same
}

// Log is an open audit log. A nil one is off.
type Log struct {
	sink   upstream.Backend
	policy upstream.PolicyRuleEvaluator
	out    []io.Closer
}

// Open reads the policy and tries the file. It returns nil if no log is asked for.
func Open(o Options, log *slog.Logger) (*Log, error) {
	if o.Path == "" && o.Webhook.Config == "" {
		if o.Policy != "" {
			return nil, errors.New("--audit-policy-file says what to write down, but not where: add --audit-log-path or --audit-webhook-config-file")
		}
		if o.Webhook.Mode == Blocking || o.Webhook.Mode == BlockingStrict {
			return nil, fmt.Errorf("--audit-webhook-mode %s says how events are sent, but not where: add --audit-webhook-config-file", o.Webhook.Mode)
		}
		return nil, nil
	}
	p := changes
	if o.Policy != "" {
		var err error
		if p, err = policy.LoadPolicyFromFile(o.Policy); err != nil {
			return nil, fmt.Errorf("--audit-policy-file: %w", err)
		}
	}
	l := &Log{policy: policy.NewPolicyRuleEvaluator(p)}
	var sinks []upstream.Backend
	if o.Path != "" {
		out, err := o.file(log)
		if err != nil {
			return nil, err
		}
		sinks, l.out = append(sinks, logbackend.NewBackend(out, logbackend.FormatJson, auditv1.SchemeGroupVersion)), append(l.out, out)
	}
	if o.Webhook.Config != "" {
		r, err := o.Webhook.open()
		if err != nil {
			return nil, errors.Join(err, l.Close())
		}
		sinks, l.out = append(sinks, r), append(l.out, r)
	}
	l.sink = upstream.Union(sinks...)
	return l, nil
}

// file opens the log.
func (o Options) file(log *slog.Logger) (*grouped, error) {
	if o.MaxSize == 0 {
		o.MaxSize = 10
	}
	file := &lumberjack.Logger{Filename: o.Path, MaxSize: o.MaxSize, MaxBackups: o.MaxBackups, MaxAge: o.MaxAge}
	if _, err := file.Write(nil); err != nil {
		return nil, fmt.Errorf("--audit-log-path: %w", err)
	}
	return newGrouped(file, log), nil
}

// changes is the policy where none is given. What renews itself by the second, and what only tells, is left out.
var changes = &auditinternal.Policy{
	OmitStages: []auditinternal.Stage{auditinternal.StageRequestReceived},
	Rules: []auditinternal.PolicyRule{
		// Whatever the verb: a shell in a pod begins with a GET, by WebSocket.
		{Level: auditinternal.LevelMetadata, Resources: []auditinternal.GroupResources{{Resources: []string{"pods/exec", "pods/attach", "pods/portforward", "pods/proxy", "services/proxy", "nodes/proxy"}}}},
		{Level: auditinternal.LevelNone, Verbs: []string{"get", "list", "watch"}},
		{Level: auditinternal.LevelNone, Resources: []auditinternal.GroupResources{
			{Group: "coordination.k8s.io", Resources: []string{"leases"}}, {Resources: []string{"events"}}, {Group: "events.k8s.io", Resources: []string{"events"}},
			{Group: "authentication.k8s.io"}, {Group: "authorization.k8s.io"}, // questions, which are asked by POST
		}},
		{Level: auditinternal.LevelMetadata},
	},
}

// Requests has those to h written down.
func (l *Log) Requests(h http.Handler, longRunning request.LongRunningRequestCheck) http.Handler {
	if l == nil {
		return h
	}
	return filters.WithAudit(h, l.sink, l.policy, longRunning)
}

// Unauthorized has the requests written down that h refuses because nobody is known to ask.
func (l *Log) Unauthorized(h http.Handler) http.Handler {
	if l == nil {
		return h
	}
	return filters.WithFailedAuthenticationAudit(h, l.sink, l.policy)
}

// Close writes what is still held back.
func (l *Log) Close() error {
	if l == nil {
		return nil
	}
	var err error
	for _, o := range l.out {
		err = errors.Join(err, o.Close())
	}
	return err
}
