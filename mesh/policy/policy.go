package policy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"

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
	kernel nft.Kernel

	mu       sync.Mutex
	config   Config
	planned  bool // config has been planned
	table    *table
	isolated map[netip.Addr]directions
	held     *table // what the kernel was left with
	handle   uint64 // of the table in the kernel; 0: unknown
}

// Open makes a Filter. It changes nothing: the table of an earlier process filters until the first Set.
func Open(kernel nft.Kernel, o Options) *Filter {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Filter{Options: o, kernel: kernel}
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
		return f.remove()
	}
	return f.commit()
}

// commit brings the kernel up to date: with the difference when it holds what we left there, with
// everything when it does not (another process's table after a restart, a `flush ruleset`).
func (f *Filter) commit() error {
	handle, ok, err := f.kernel.TableHandle(f.Table)
	if err != nil {
		return err
	}
	if ok && handle == f.handle && f.handle != 0 {
		made, ops := ops(f.Table, f.held, f.table)
		err := nft.Switch(f.kernel, made, ops)
		if err == nil {
			f.held = f.table
			return nil
		}
		f.Logger.Error("the policy rules in the kernel are not what they were, loading them anew", "table", f.Table, "err", err)
	} else if f.handle != 0 {
		f.Logger.Warn("somebody removed the policy rules, loading them anew", "table", f.Table)
	}
	f.handle = 0
	err = f.kernel.Apply(load(f.Table, f.table))
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) {
		err = fmt.Errorf("this kernel lacks a part of nftables (CONFIG_NF_TABLES_INET, CONFIG_NFT_CT): %w", err)
	}
	if err != nil {
		return fmt.Errorf("load policy rules into table %s: %w", f.Table, err)
	}
	if handle, ok, err = f.kernel.TableHandle(f.Table); err == nil && !ok {
		err = errors.New("it is gone again")
	}
	if err != nil {
		return fmt.Errorf("look at table %s: %w", f.Table, err)
	}
	f.held, f.handle = f.table, handle
	return nil
}

func (f *Filter) remove() error {
	_, ok, err := f.kernel.TableHandle(f.Table)
	if err != nil {
		return err
	}
	f.held, f.handle = nil, 0
	if !ok {
		return nil
	}
	if err := f.kernel.Apply([]nft.Op{nft.DeleteTable{Table: f.Table}}); err != nil {
		return fmt.Errorf("remove table %s: %w", f.Table, err)
	}
	return nil
}

// Teardown removes the table.
func (f *Filter) Teardown(ctx context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.planned, f.isolated = false, nil
	return f.remove()
}
