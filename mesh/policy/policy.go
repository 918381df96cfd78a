package policy

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"

	"bramble.dev/mesh/nft"
)

// Options are fixed for a Filter's life.
type Options struct {
	Table  string // the nftables table, of the family inet
	Logger *slog.Logger
}

// Filter keeps the table.
type Filter struct {
	Options
	mu       sync.Mutex
	kept     nft.Kept
	config   Config
	planned  bool // config has been planned
	table    *table
	isolated map[netip.Addr]directions
	held     *table // what the kernel was left with
}

// Open makes a Filter. It changes nothing: the table of an earlier process filters until the first Set.
func Open(kernel nft.Kernel, o Options) *Filter {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Filter{Options: o, kept: nft.Kept{
		Kernel: kernel, Table: o.Table, What: "policy rules", Needs: "CONFIG_NF_TABLES_INET, CONFIG_NFT_CT", Logger: o.Logger,
	}}
}

// Set makes the table what the configuration says. A node without isolated pods has none.
func (f *Filter) Set(ctx context.Context, c Config) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if !f.planned || !f.config.equal(c) {
		f.table, f.isolated = plan(c, f.isolated)
		f.config, f.planned = c.clone(), true
	}
	if len(f.isolated) == 0 {
		f.held = nil
		return f.kept.Remove()
	}
	err := f.kept.Commit(
		func() (made, ops []nft.Op) { return difference(f.Table, f.held, f.table) },
		func(bool) []nft.Op { return load(f.Table, f.table) },
	)
	if err == nil {
		f.held = f.table
	}
	return err
}

// Teardown removes the table.
func (f *Filter) Teardown(ctx context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.planned, f.isolated, f.held = false, nil, nil
	return f.kept.Remove()
}
