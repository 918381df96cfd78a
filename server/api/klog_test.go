package api

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"k8s.io/klog/v2"
)

func TestUpstreamsLogIsQuietAboutClients(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(newUpstreamLog(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))).With("part", "api")
	log.Info("Adding GroupVersion apps v1 to ResourceManager")
	log.Error("Unable to authenticate the request", "err", "invalid bearer token")
	log.Error("Error - invalid timeout specified in the request URL")
	log.Error("Copying stdout failed", "err", errors.New("websocket: close 1006 (abnormal closure): unexpected EOF"))
	log.Error("Unhandled Error", "err", "apiserver was unable to write a JSON response: write tcp: i/o timeout")
	log.Warn("Stream rejected: websocket: close 1006 (abnormal closure)")
	log.Error("disk is gone")
	for n := range 3 { // what is tried again is said once
		log.Error("oidc authenticator: initializing plugin: connection refused")
		log.Error(fmt.Sprintf("Error in audit plugin 'buffered' affecting %d audit events: audit buffer queue blocked\nImpacted events:\nthis one\n", n))
		log.Error("Failed to watch", "err", "the server is currently unable to handle the request")
	}
	if got, want := out.String(), "level=ERROR msg=\"disk is gone\" part=api\nlevel=ERROR msg=\"oidc authenticator: initializing plugin: connection refused\" part=api\nlevel=ERROR msg=\"Error in audit plugin 'buffered' affecting 0 audit events: audit buffer queue blocked\" part=api\nlevel=ERROR msg=\"Failed to watch\" part=api err=\"the server is currently unable to handle the request\"\n"; got != want {
		t.Errorf("got %q", got)
	}
}

// Some of upstream's handlers end their process when they meet what they hold for impossible. Here that is an error of the one request.
func TestUpstreamDoesNotEndTheProcess(t *testing.T) {
	shared(t) // which prepares upstream's parts
	defer func() {
		if said := recover(); said == nil || !strings.Contains(fmt.Sprint(said), "255") {
			t.Errorf("recovered %v", said)
		}
	}()
	klog.Fatal("impossible")
}
