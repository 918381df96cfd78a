package openid

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/apis/apiserver/install"
	"k8s.io/apiserver/pkg/apis/apiserver/validation"
	"k8s.io/apiserver/pkg/authentication/cel"
	"k8s.io/apiserver/plugin/pkg/authenticator/token/oidc"
)

// Options are what an operator says, by the flags of upstream's server. The zero value stands for none.
type Options struct {
	File string // with an AuthenticationConfiguration; instead of all others

	IssuerURL      string
	ClientID       string // which a token must be for
	CAFile         string // of the issuer's certificate; empty: the machine's authorities
	UsernameClaim  string
	UsernamePrefix string // empty: the issuer and "#", but for the claim email; "-": none
	GroupsClaim    string // empty: a token says nothing about groups
	GroupsPrefix   string
	RequiredClaims map[string]string
	SigningAlgs    []string // empty: RS256
}

// Config is who is let in.
type Config struct {
	upstream   *apiserver.AuthenticationConfiguration
	algorithms []string
	compiler   cel.Compiler
	own        []string
	options    Options
	text       string // of the file
}

// Load reads and checks what is asked for; nil: nothing is. The cluster's own issuers cannot be somebody else's.
func (o Options) Load(own ...string) (*Config, error) {
	c, err := o.read()
	if c == nil || err != nil {
		return nil, err
	}
	c.options = o
	mistakes := c.check(own)
	if o.File != "" {
		return c, wrap("--authentication-config "+o.File, mistakes.ToAggregate())
	}
	for _, m := range mistakes {
		m.Field = flagOf(m.Field)
	}
	return c, wrap("OpenID Connect", mistakes.ToAggregate())
}

func (c *Config) check(own []string) field.ErrorList {
	c.own, c.compiler = own, cel.NewDefaultCompiler()
	return validation.ValidateAuthenticationConfiguration(c.compiler, c.upstream, own)
}

func wrap(what string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// flagOf is the flag that a field of the configuration comes from.
func flagOf(field string) string {
	for _, f := range []struct{ field, flag string }{
		{"issuer.url", "--oidc-issuer-url"}, {"issuer.audiences", "--oidc-client-id"}, {"issuer.certificateAuthority", "--oidc-ca-file"},
		{"claimMappings.username.prefix", "--oidc-username-prefix"}, {"claimMappings.username", "--oidc-username-claim"},
		{"claimMappings.groups.prefix", "--oidc-groups-prefix"}, {"claimMappings.groups", "--oidc-groups-claim"}, {"claimValidationRules", "--oidc-required-claim"},
	} {
		if strings.HasPrefix(field, "jwt[0]."+f.field) {
			return f.flag
		}
	}
	return field
}

// flags says whether one of those is given that a file stands for. The claim of names has a default.
func (o Options) flags() bool {
	return o.IssuerURL != "" || o.ClientID != "" || o.CAFile != "" || o.UsernamePrefix != "" || o.GroupsClaim != "" || o.GroupsPrefix != "" ||
		len(o.RequiredClaims) > 0 || len(o.SigningAlgs) > 0 || o.UsernameClaim != "" && o.UsernameClaim != DefaultUsernameClaim
}

// DefaultUsernameClaim is what of a token is its user's name.
const DefaultUsernameClaim = "sub"

func (o Options) read() (*Config, error) {
	switch {
	case o.File != "" && o.flags():
		return nil, errors.New("--authentication-config and --oidc-* exclude each other: the file says all that the flags can")
	case o.File != "":
		return o.readFile()
	case !o.flags():
		return nil, nil
	case o.IssuerURL == "":
		return nil, errors.New("--oidc-issuer-url is missing, of which other flags --oidc-* say more")
	case o.ClientID == "":
		return nil, errors.New("--oidc-client-id is missing: without it, tokens for any program would let in")
	}
	return o.readFlags()
}

func (o Options) readFile() (*Config, error) {
	text, err := os.ReadFile(o.File)
	if err != nil {
		return nil, fmt.Errorf("--authentication-config: %w", err)
	}
	c, err := parse(text)
	return c, wrap("--authentication-config "+o.File, err)
}

// parse takes versions as upstream does, and no field that it does not know.
func parse(text []byte) (*Config, error) {
	scheme := runtime.NewScheme()
	install.Install(scheme)
	decoded, err := runtime.Decode(serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDecoder(), text)
	if err != nil {
		return nil, err
	}
	c, ok := decoded.(*apiserver.AuthenticationConfiguration)
	if !ok {
		return nil, fmt.Errorf("want an AuthenticationConfiguration, not %s", decoded.GetObjectKind().GroupVersionKind().Kind)
	}
	return &Config{upstream: c, algorithms: oidc.AllValidSigningAlgorithms(), text: string(text)}, nil
}

func (o Options) readFlags() (*Config, error) {
	for _, a := range o.SigningAlgs {
		if !slices.Contains(oidc.AllValidSigningAlgorithms(), a) {
			return nil, fmt.Errorf("--oidc-signing-algs %q: want some of %v", a, oidc.AllValidSigningAlgorithms())
		}
	}
	prefix := o.UsernamePrefix
	switch {
	case prefix == "-":
		prefix = ""
	case prefix == "" && o.UsernameClaim != "email":
		prefix = o.IssuerURL + "#"
	}
	j := apiserver.JWTAuthenticator{
		Issuer:        apiserver.Issuer{URL: o.IssuerURL, Audiences: []string{o.ClientID}},
		ClaimMappings: apiserver.ClaimMappings{Username: apiserver.PrefixedClaimOrExpression{Claim: o.UsernameClaim, Prefix: &prefix}},
	}
	if o.GroupsClaim != "" {
		j.ClaimMappings.Groups = apiserver.PrefixedClaimOrExpression{Claim: o.GroupsClaim, Prefix: &o.GroupsPrefix}
	}
	if o.CAFile != "" {
		ca, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("--oidc-ca-file: %w", err)
		}
		j.Issuer.CertificateAuthority = string(ca)
	}
	for _, claim := range slices.Sorted(maps.Keys(o.RequiredClaims)) {
		j.ClaimValidationRules = append(j.ClaimValidationRules, apiserver.ClaimValidationRule{Claim: claim, RequiredValue: o.RequiredClaims[claim]})
	}
	return &Config{upstream: &apiserver.AuthenticationConfiguration{JWT: []apiserver.JWTAuthenticator{j}}, algorithms: o.SigningAlgs}, nil
}
