package audit

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	auditinternal "k8s.io/apiserver/pkg/apis/audit"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	upstream "k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/apiserver/plugin/pkg/audit/buffered"
	webhookbackend "k8s.io/apiserver/plugin/pkg/audit/webhook"
)

// How events are sent, by upstream's names.
const (
	Batch          = "batch"           // a while later, many at once; what finds the buffer full is lost
	Blocking       = "blocking"        // before the request is answered; what cannot be sent is lost
	BlockingStrict = "blocking-strict" // and a request of which not even its arrival can be sent is refused
)

// Webhook says where events are sent to. The zero value stands for nowhere.
type Webhook struct {
	Config         string // kubeconfig file that names the receiver; empty: off
	Mode           string
	InitialBackoff time.Duration // before what could not be sent is tried again, five times in all, each later by half
	BufferSize     int           // events that wait
	MaxSize        int           // events sent at once
	MaxWait        time.Duration // for more to send with the first
	ThrottleQPS    float32       // batches a second
	ThrottleBurst  int
}

// DefaultWebhook is upstream's, but for the buffer, which is a tenth: a receiver that is away must not fill a board's memory.
var DefaultWebhook = Webhook{
	Mode: Batch, InitialBackoff: webhookbackend.DefaultInitialBackoffDelay, BufferSize: 1000, MaxSize: 400, MaxWait: 30 * time.Second, ThrottleQPS: 10, ThrottleBurst: 15,
}

func (w Webhook) check() error {
	switch {
	case !slices.Contains([]string{Batch, Blocking, BlockingStrict}, w.Mode):
		return fmt.Errorf("--audit-webhook-mode %q: want %s, %s or %s", w.Mode, Batch, Blocking, BlockingStrict)
	case w.InitialBackoff <= 0:
		return errors.New("--audit-webhook-initial-backoff: want more than none")
	case w.Mode != Batch:
		return nil
	case w.BufferSize < 1:
		return errors.New("--audit-webhook-batch-buffer-size: want at least 1")
	case w.MaxSize < 1:
		return errors.New("--audit-webhook-batch-max-size: want at least 1")
	case w.MaxSize > w.BufferSize:
		return fmt.Errorf("--audit-webhook-batch-max-size %d: want no more than the %d of --audit-webhook-batch-buffer-size", w.MaxSize, w.BufferSize)
	case w.MaxWait <= 0:
		return errors.New("--audit-webhook-batch-max-wait: want more than none")
	case w.ThrottleQPS <= 0:
		return errors.New("--audit-webhook-batch-throttle-qps: want more than none")
	case w.ThrottleBurst < 1:
		return errors.New("--audit-webhook-batch-throttle-burst: want at least 1")
	}
	return nil
}

// lastWords is how long the end of a server waits for what is still to be sent.
const lastWords = 5 * time.Second

// receiver sends events.
type receiver struct {
	upstream.Backend
	lenient bool // no request is refused because of an event that could not be sent
	stop    chan struct{}
	closing sync.Once
	closed  atomic.Bool
}

// open reads the file and begins to send; the receiver need not be there.
func (w Webhook) open() (*receiver, error) {
	if err := w.check(); err != nil {
		return nil, err
	}
	b, err := webhookbackend.NewBackend(w.Config, auditv1.SchemeGroupVersion, webhook.DefaultRetryBackoffWithInitialDelay(w.InitialBackoff), nil)
	if err != nil {
		return nil, fmt.Errorf("--audit-webhook-config-file: %w", err)
	}
	if w.Mode == Batch {
		b = buffered.NewBackend(b, buffered.BatchConfig{
			BufferSize: w.BufferSize, MaxBatchSize: w.MaxSize, MaxBatchWait: w.MaxWait,
			ThrottleEnable: true, ThrottleQPS: w.ThrottleQPS, ThrottleBurst: w.ThrottleBurst, AsyncDelegate: true,
		})
	}
	r := &receiver{Backend: b, lenient: w.Mode != BlockingStrict, stop: make(chan struct{})}
	return r, r.Run(r.stop)
}

// ProcessEvents passes over what programs do that end after the API.
func (r *receiver) ProcessEvents(events ...*auditinternal.Event) bool {
	return r.closed.Load() || r.Backend.ProcessEvents(events...) || r.lenient
}

// Close sends what is held back, or tells that it could not. Of a receiver that is away nothing more is waited for: upstream would go
// on trying for minutes.
func (r *receiver) Close() (err error) {
	r.closing.Do(func() {
		r.closed.Store(true)
		close(r.stop)
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			r.Shutdown()
		}()
		select {
		case <-sent:
		case <-time.After(lastWords):
			err = errors.New("events that the audit webhook has not taken are lost")
		}
	})
	return err
}
