package nft

import (
	"errors"
	"fmt"
	"log/slog"

	"golang.org/x/sys/unix"
)

// Kept is a table in the kernel that is ours alone. What a commit has left there is known by the table's handle: after a
// restart, a `flush ruleset` or a failure it is loaded anew.
type Kept struct {
	Kernel Kernel
	Table  string
	What   string // it holds, in messages: "policy rules"
	Needs  string // parts of the kernel, by their names in its configuration
	Logger *slog.Logger

	handle uint64 // of what the last commit left; 0: unknown
}

// Commit brings the kernel up to date: with the difference (see Switch) when it holds what the last commit left there, with
// everything when it does not. What load makes takes the place of a table that is there.
func (k *Kept) Commit(difference func() (made, ops []Op), load func(there bool) []Op) error {
	handle, there, err := k.Kernel.TableHandle(k.Table)
	if err != nil {
		k.handle = 0 // the difference is not kept for another time
		return err
	}
	if there && handle == k.handle && k.handle != 0 {
		made, ops := difference()
		err := Switch(k.Kernel, made, ops)
		if err == nil {
			return nil
		}
		k.Logger.Error("the "+k.What+" in the kernel are not what they were, loading them anew", "table", k.Table, "err", err)
	} else if k.handle != 0 {
		k.Logger.Warn("somebody removed the "+k.What+", loading them anew", "table", k.Table)
	}
	k.handle = 0
	err = k.Kernel.Apply(load(there))
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) {
		err = fmt.Errorf("this kernel lacks a part of nftables (%s): %w", k.Needs, err)
	}
	if err != nil {
		return fmt.Errorf("load %s into table %s: %w", k.What, k.Table, err)
	}
	if handle, there, err = k.Kernel.TableHandle(k.Table); err == nil && !there {
		err = errors.New("it is gone again")
	}
	if err != nil {
		return fmt.Errorf("look at table %s: %w", k.Table, err)
	}
	k.handle = handle
	return nil
}

// Remove removes the table, if it is there.
func (k *Kept) Remove() error {
	k.handle = 0
	_, there, err := k.Kernel.TableHandle(k.Table)
	if err != nil || !there {
		return err
	}
	if err := k.Kernel.Apply([]Op{DeleteTable{Table: k.Table}}); err != nil {
		return fmt.Errorf("remove table %s: %w", k.Table, err)
	}
	return nil
}
