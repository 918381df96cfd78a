package openid

import (
	"context"
	"fmt"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/request/anonymous"
	"k8s.io/apiserver/pkg/authentication/token/union"
	"k8s.io/apiserver/plugin/pkg/authenticator/token/oidc"
)

// Tokens knows whose a token is that one of the issuers has signed. It asks the issuers for their keys, and goes on asking until ctx is
// done. The tokens are good for the API's audiences; those of a token itself say which program it was made for. Nil: there are none.
func (c *Config) Tokens(ctx context.Context, audiences authenticator.Audiences) (authenticator.Token, error) {
	if c == nil || len(c.upstream.JWT) == 0 {
		return nil, nil
	}
	var all []authenticator.Token
	for _, j := range c.upstream.JWT {
		o := oidc.Options{JWTAuthenticator: j, SupportedSigningAlgs: c.algorithms, Compiler: c.compiler, DisallowedIssuers: c.own}
		if ca := j.Issuer.CertificateAuthority; ca != "" {
			o.CAContentProvider = bundle(ca)
		}
		t, err := oidc.New(ctx, o)
		if err != nil {
			return nil, fmt.Errorf("issuer %s: %w", j.Issuer.URL, err)
		}
		all = append(all, t)
	}
	return authenticator.WrapAudienceAgnosticToken(audiences, union.NewFailOnError(all...)), nil
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
