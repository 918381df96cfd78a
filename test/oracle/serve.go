package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"bramble.dev/server/api"
	"bramble.dev/server/auth"
	"bramble.dev/server/store"
)

// serve starts Bramble's API in this process, with an empty store and nobody's controllers.
func serve(ctx context.Context) (*side, func(), error) {
	dir, err := os.MkdirTemp("", "bramble-oracle-")
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	s, err := open(ctx, dir, ended)
	if err != nil {
		ended <- nil
	}
	stop := func() {
		cancel()
		if err := <-ended; err != nil {
			fmt.Fprintln(os.Stderr, "oracle: Bramble's API ended with:", err)
		}
		os.RemoveAll(dir)
	}
	if err != nil {
		stop()
		return nil, nil, err
	}
	return s, stop, nil
}

// open tells in ended how the server ended, when its store is closed.
func open(ctx context.Context, dir string, ended chan<- error) (*side, error) {
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError + 1}))
	pki, err := auth.OpenPKI(filepath.Join(dir, "pki"), auth.PKIOptions{})
	if err != nil {
		return nil, err
	}
	db, err := store.Open(ctx, store.Options{Path: filepath.Join(dir, "state.db"), Logger: log})
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s, err := api.New(ctx, api.Config{Store: db, PKI: pki, Listener: l, AdvertiseAddress: netip.MustParseAddr("192.0.2.10"), ServiceCIDR: netip.MustParsePrefix("10.96.0.0/16"), Logger: log})
	if err != nil {
		return nil, err
	}
	certificate, key, err := pki.ClientCertificate("admin", "system:masters")
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return nil, err
	}
	go func() { ended <- errors.Join(s.Run(ctx), db.Close()) }()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pki.CACertPEM())
	return newSide("https://"+l.Addr().String(), "", &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}), nil
}
