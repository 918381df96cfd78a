package openid

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/util/filesystem"
)

const (
	lookEvery = time.Minute // at the file, should the kernel not tell of a change; upstream's number
	// patience is how long the issuers of a new file may keep silent until it is left aside, and how long those of the file before it are
	// known on, for requests that are being answered. Both are upstream's.
	patience   = time.Minute
	checkEvery = time.Second
)

// Issuers knows whose a token is that one of the issuers has signed. What a file says of them is taken in while the server runs.
type Issuers struct {
	options   Options
	audiences authenticator.Audiences
	log       *slog.Logger
	ctx       context.Context // of the questions to issuers
	first     *Config
	now       atomic.Pointer[generation]
	text      string // of the file that was taken in, or refused for good, last; of Follow alone
	reloads   *prometheus.CounterVec
	at        *prometheus.GaugeVec
	server    string
}

// Issuers begins to ask the issuers for their keys, and goes on asking until ctx is done. server names this one of several, in metrics.
// Nil: there are none.
func (c *Config) Issuers(ctx context.Context, audiences authenticator.Audiences, server string, log *slog.Logger) (*Issuers, error) {
	if c == nil || len(c.upstream.JWT) == 0 && c.options.File == "" {
		return nil, nil
	}
	g, err := c.begin(ctx, audiences)
	if err != nil {
		return nil, err
	}
	labels := []string{"status", "apiserver_id_hash"}
	i := &Issuers{
		options: c.options, audiences: audiences, log: log, ctx: ctx, first: c, text: c.text, server: fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(server))),
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apiserver_authentication_config_controller_automatic_reloads_total", Help: "How often another authentication configuration was found while the server ran, by what became of it.",
		}, labels),
		at: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "apiserver_authentication_config_controller_automatic_reload_last_timestamp_seconds", Help: "When that was last so.",
		}, labels),
	}
	i.now.Store(g)
	return i, nil
}

// AuthenticateToken asks the issuers that are known now.
func (i *Issuers) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	return i.now.Load().AuthenticateToken(ctx, token)
}

// Metrics are what is counted of a file, by upstream's names.
func (i *Issuers) Metrics() []prometheus.Collector {
	if i == nil || i.options.File == "" {
		return nil
	}
	return []prometheus.Collector{i.reloads, i.at}
}

// Follow takes in what the file, of which there must be one, says whenever that is something else, until ctx is done. One that is no good changes nothing: what was
// known before goes on, and the log says so once.
func (i *Issuers) Follow(ctx context.Context) {
	filesystem.WatchUntil(ctx, lookEvery, i.options.File, func() { i.look(ctx) }, func(err error) {
		i.log.Warn("a change of the authentication configuration will be found within a minute", "file", i.options.File, "err", err)
	})
}

// look reads the file. One that is no configuration is not tried again; one whose issuers are away is.
func (i *Issuers) look(ctx context.Context) {
	text, err := os.ReadFile(i.options.File)
	if err == nil && string(text) == i.text {
		return
	}
	if err == nil {
		var final bool
		if final, err = i.take(ctx, text); err == nil || final {
			i.text = string(text)
		}
	}
	if ctx.Err() != nil {
		return
	}
	status := "success"
	if err != nil {
		status = "failure"
		i.log.Error("the authentication configuration is not what it was and not taken in: what was known before goes on", "err", wrap("--authentication-config "+i.options.File, err))
	} else {
		i.log.Info("the authentication configuration was taken in anew", "file", i.options.File)
	}
	i.reloads.WithLabelValues(status, i.server).Inc()
	i.at.WithLabelValues(status, i.server).SetToCurrentTime()
}

// take puts what a text says in the place of what is known. That an error is final means that the text can never be taken.
func (i *Issuers) take(ctx context.Context, text []byte) (final bool, err error) {
	c, err := parse(text)
	if err == nil {
		err = c.check(i.first.own).ToAggregate()
	}
	if err == nil && !reflect.DeepEqual(c.upstream.Anonymous, i.first.upstream.Anonymous) {
		err = errors.New("anonymous: Forbidden: changed from initial configuration file")
	}
	if err != nil {
		return true, err
	}
	g, err := c.begin(i.ctx, i.audiences)
	if err != nil {
		return false, err
	}
	if err := g.wait(ctx); err != nil {
		g.stop()
		return false, err
	}
	before := i.now.Swap(g)
	time.AfterFunc(patience, before.stop)
	return false, nil
}

// wait waits until all issuers' keys are known.
func (g *generation) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := g.known()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(checkEvery):
		}
	}
}
