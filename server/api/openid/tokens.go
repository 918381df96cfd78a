package openid

import (
	"context"
	"errors"
	"fmt"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/request/anonymous"
	"k8s.io/apiserver/pkg/authentication/token/union"
	"k8s.io/apiserver/plugin/pkg/authenticator/token/oidc"
)

// generation is the issuers that are known at a time.
type generation struct {
	authenticator.Token
	checks []func() error
	stop   context.CancelFunc
}

// begin asks the issuers for their keys, and goes on asking until ctx is done or it is stopped. The tokens are good for the API's
// audiences; those of a token itself say which program it was made for.
func (c *Config) begin(ctx context.Context, audiences authenticator.Audiences) (*generation, error) {
	ctx, stop := context.WithCancel(ctx)
	g := &generation{stop: stop}
	var all []authenticator.Token
	for _, j := range c.upstream.JWT {
		o := oidc.Options{JWTAuthenticator: j, SupportedSigningAlgs: c.algorithms, Compiler: c.compiler, DisallowedIssuers: c.own}
		if ca := j.Issuer.CertificateAuthority; ca != "" {
			o.CAContentProvider = bundle(ca)
		}
		t, err := oidc.New(ctx, o)
		if err != nil {
			stop()
			return nil, fmt.Errorf("issuer %s: %w", j.Issuer.URL, err)
		}
		all = append(all, t)
		g.checks = append(g.checks, t.HealthCheck)
	}
	g.Token = authenticator.WrapAudienceAgnosticToken(audiences, union.NewFailOnError(all...))
	return g, nil
}

// known says of which issuer the keys are not known yet.
func (g *generation) known() error {
	var errs []error
	for _, check := range g.checks {
		errs = append(errs, check())
	}
	return errors.Join(errs...)
}

// Anonymous lets in who shows nothing: by default everywhere, nil: nowhere.
func (c *Config) Anonymous() authenticator.Request {
	if c == nil || c.upstream.Anonymous == nil {
		return anonymous.NewAuthenticator(nil)
	}
	if !c.upstream.Anonymous.Enabled {
		return nil
	}
	return anonymous.NewAuthenticator(c.upstream.Anonymous.Conditions)
}

// bundle is one or more certificates, as PEM.
type bundle string

func (b bundle) CurrentCABundleContent() []byte { return []byte(b) }
