// Package durable writes what a pulled plug must not take back. WriteFile replaces a file whole: whoever reads it, then
// or after a crash, finds the old content or the new one, and when WriteFile has returned without an error, the new one.
//
//	err := durable.WriteFile(filepath.Join(dir, "node.key"), key, 0o600)
//
// Whoever moves files itself calls SyncFile before the rename and SyncDir after it. Every package may import this one; it
// imports only the standard library.
package durable

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// WriteFile makes or replaces a file. A symbolic link in its place is replaced, not followed. A crash may leave a file
// beside it whose name begins with a dot.
func WriteFile(path string, data []byte, mode os.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := SyncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// Overwrite replaces the beginning of a file that is there, in its place. It needs no room: for when WriteFile finds the disk full
// (ENOSPC). The data must be within one sector (512 bytes), which a disk writes whole or not at all.
func Overwrite(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, 0)
	return errors.Join(err, f.Sync(), f.Close())
}

// SyncFile makes the content of a file durable that something else has written (fsync(2) is of the file, whichever
// descriptor it is called on).
func SyncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// SyncDir makes the names in a folder durable: a rename is not on the disk before that. A file system that has no such
// thing for folders (EINVAL; CIFS and some of FUSE's, where backups go) has done what it can.
func SyncDir(dir string) error {
	err := SyncFile(dir)
	if errors.Is(err, syscall.EINVAL) {
		return nil
	}
	return err
}
