// Package openid lets in who has a token of an issuer outside of the cluster (OpenID Connect, KEP-3331), by upstream's authenticator.
//
// What is asked for is an AuthenticationConfiguration of upstream's form in a file, or the same in flags for one issuer. Without either
// the package does nothing and holds nothing. A file is read again when it changes.
//
// Invariants: a mistake in the configuration stops the server before it serves, with the flag or the field named; an issuer that cannot
// be reached stops nothing: its tokens are refused until it is there, and its keys are fetched anew when a token names one that is not known;
// a file that is changed to what is no good changes nothing.
//
//	c, err := openid.Options{IssuerURL: "https://id.example.com", ClientID: "bramble", UsernameClaim: "sub"}.Load(own...)
//	issuers, err := c.Issuers(ctx, audiences, "server-1", log)
//	go issuers.Follow(ctx)
package openid
