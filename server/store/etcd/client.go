package etcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.uber.org/zap"
)

// DefaultPrefix is where upstream's API server keeps its objects, too.
const DefaultPrefix = "/registry"

// Options say where etcd is. They are named as upstream's flags.
type Options struct {
	Servers  []string // URLs of its members, such as https://10.0.0.1:2379
	CAFile   string   // who vouches for the members; "": the system's authorities
	CertFile string   // the certificate that is shown to them, and its key; optional
	KeyFile  string
	Prefix   string // of all keys; "": DefaultPrefix

	// BookmarkInterval is how often an idle watch that asked for bookmarks gets one (1 minute).
	BookmarkInterval time.Duration
	Logger           *slog.Logger
	// Fatal is called, once, when the copy in memory cannot be trusted any more. It should not return; the default logs and ends the
	// process.
	Fatal func(error)
}

// Times of the connections to the members.
const (
	dialTimeout      = 5 * time.Second
	keepaliveTime    = 10 * time.Second // of silence, after which a member is asked whether it is there
	keepaliveTimeout = 5 * time.Second
	askTimeout       = 5 * time.Second // for one answer
	pause            = time.Second     // between two tries
)

func (o Options) withDefaults() Options {
	if o.Prefix == "" {
		o.Prefix = DefaultPrefix
	}
	o.Prefix = "/" + strings.Trim(o.Prefix, "/")
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Fatal == nil {
		o.Fatal = func(err error) {
			o.Logger.Error("the store cannot go on", "err", err)
			os.Exit(70)
		}
	}
	return o
}

// Check says what is wrong with the options, in the words of the flags, before anything is opened.
func (o Options) Check() error {
	var errs []error
	if len(o.Servers) == 0 {
		errs = append(errs, errors.New("--etcd-servers is empty: name the members of etcd, such as https://10.0.0.1:2379,https://10.0.0.2:2379,https://10.0.0.3:2379"))
	}
	for _, s := range o.Servers {
		u, err := url.Parse(s)
		if err != nil || u.Host == "" || u.Port() == "" || u.Scheme != "http" && u.Scheme != "https" {
			errs = append(errs, fmt.Errorf("--etcd-servers %q: want URLs such as https://10.0.0.1:2379", s))
		} else if u.Scheme == "http" && (o.CAFile != "" || o.CertFile != "") {
			errs = append(errs, fmt.Errorf("--etcd-servers %q: a connection without TLS shows no certificate and asks for none: want https, or no --etcd-cafile and --etcd-certfile", s))
		}
	}
	if (o.CertFile == "") != (o.KeyFile == "") {
		errs = append(errs, errors.New("--etcd-certfile and --etcd-keyfile belong together: name both, or neither"))
	}
	if o.Prefix != "" && strings.Trim(o.Prefix, "/") == "" {
		errs = append(errs, fmt.Errorf("--etcd-prefix %q: want a name such as %s", o.Prefix, DefaultPrefix))
	}
	return errors.Join(errs...)
}

// dial makes a client. It connects when it is first used.
func (o Options) dial() (*kubernetes.Client, error) {
	var secure *tls.Config
	if strings.HasPrefix(o.Servers[0], "https://") {
		var err error
		if secure, err = o.tls(); err != nil {
			return nil, err
		}
	}
	c, err := kubernetes.New(clientv3.Config{
		Endpoints: o.Servers, TLS: secure, DialTimeout: dialTimeout, DialKeepAliveTime: keepaliveTime, DialKeepAliveTimeout: keepaliveTimeout,
		PermitWithoutStream: true, Logger: zap.NewNop(), // what goes wrong comes back as an error, and is logged once
	})
	if err != nil {
		return nil, fmt.Errorf("etcd: %w", err)
	}
	return c, nil
}

func (o Options) tls() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("--etcd-cafile: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--etcd-cafile %s holds no PEM certificate", o.CAFile)
		}
	}
	if o.CertFile == "" {
		return c, nil
	}
	if _, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile); err != nil {
		return nil, fmt.Errorf("--etcd-certfile, --etcd-keyfile: %w", err)
	}
	// Read for each connection: a certificate is renewed under a server that runs.
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
		return &pair, err
	}
	return c, nil
}

// patiently does what etcd is needed for until it succeeds, ctx is done, or it fails for a reason that another try does not mend.
func (o Options) patiently(ctx context.Context, do func(context.Context) error) error {
	for told := false; ; told = true {
		asked, cancel := context.WithTimeout(ctx, askTimeout)
		err := do(asked)
		cancel()
		var final refusal
		if err == nil || errors.As(err, &final) {
			return err
		}
		if !told {
			o.Logger.Warn("etcd does not answer; trying until it does", "servers", o.Servers, "err", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("etcd %s does not answer: %w", strings.Join(o.Servers, ","), errors.Join(context.Cause(ctx), err))
		case <-time.After(pause):
		}
	}
}

// refusal is an error that another try does not mend.
type refusal struct{ error }

func (r refusal) Unwrap() error { return r.error }
