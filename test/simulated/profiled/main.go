// Command profiled is a server whose profiles can be read, in the place of `bramble server`: it takes the flags that
// test/bench gives it. BRAMBLE_PPROF says where (127.0.0.1:6060).
//
//	go build -o build/profiled ./test/simulated/profiled && scripts/bench scale --server build/profiled # or api
//	go tool pprof -top http://127.0.0.1:6060/debug/pprof/profile
package main

import (
	"context"
	"flag"
	"log/slog"
	"net/http"
	_ "net/http/pprof" //nolint // what this program is for
	"net/netip"
	"os"
	"os/signal"
	"syscall"

	"bramble.dev/cmd/footprint"
	"bramble.dev/server"
)

func main() {
	footprint.Thrifty()
	var level slog.LevelVar
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: &level}))
	c := server.Config{Domain: "cluster.local", Version: "profiled", Logger: log}
	flags := flag.NewFlagSet("server", flag.ExitOnError)
	flags.StringVar(&c.DataDir, "data-dir", "", "")
	flags.StringVar(&c.APIListen, "api-listen", "", "")
	flags.StringVar(&c.MQTTListen, "mqtt-listen", "", "")
	flags.TextVar(&c.PodCIDR, "pod-cidr", netip.MustParsePrefix("10.42.0.0/16"), "")
	flags.TextVar(&c.ServiceCIDR, "service-cidr", netip.MustParsePrefix("10.43.0.0/16"), "")
	flags.TextVar(&level, "log-level", &level, "")
	_ = flags.Parse(os.Args[2:]) // it exits
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if at := os.Getenv("BRAMBLE_PPROF"); at != "" {
		go func() { log.Error("profiles", "err", http.ListenAndServe(at, nil)) }()
	}
	c.Ready = func(server.Info) {
		go footprint.Keep(ctx, log)
		go footprint.Stretch(ctx)
	}
	if err := server.Run(ctx, c); err != nil {
		log.Error("server", "err", err)
		os.Exit(1)
	}
}
