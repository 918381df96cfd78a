package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"bramble.dev/internal/durable"
)

// revisionJump is added by a restore: more than what can have been handed out since the backup was made.
const revisionJump = 1 << 32

// BackupFile writes a verified copy of a database to a new file, while another process has it open and when none has.
// What the volatile class holds in memory is not in the copy. (Inside that process it must not be called: closing a file of one's
// own gives up the locks that SQLite holds on it.)
func BackupFile(ctx context.Context, from, to string) error {
	if err := checkPresent(from); err != nil {
		return fmt.Errorf("back up %s: %w", from, err)
	}
	if err := copyDatabase(ctx, from, to); err != nil {
		return fmt.Errorf("back up %s: %w", from, err)
	}
	return nil
}

// copyDatabase makes a compact copy at one point in time, reads all of it back, and only then gives it its name.
func copyDatabase(ctx context.Context, from, to string) (err error) {
	if _, err := os.Lstat(to); err == nil {
		return fmt.Errorf("%s exists already", to)
	}
	tmp := fmt.Sprintf("%s.tmp%d", to, os.Getpid())
	os.Remove(tmp)
	defer func() {
		if err != nil {
			os.Remove(tmp)
		}
	}()
	c, err := openConn(from)
	if err != nil {
		return err
	}
	_, err = c.raw.ExecContext(ctx, "vacuum into ?", named(tmp))
	if e := c.close(); err == nil {
		err = e
	}
	if err != nil {
		return damaged(err)
	}
	if err := verify(ctx, tmp); err != nil {
		return fmt.Errorf("verify the copy: %w", err)
	}
	if err := durable.SyncFile(tmp); err != nil {
		return err
	}
	if err := renameNew(tmp, to); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(to))
}

// renameNew refuses a name that has come up meanwhile, where the file system can tell (NFS cannot). A hard link would tell
// everywhere but on the FAT of a USB stick, where backups go.
func renameNew(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if err == unix.EINVAL || err == unix.ENOSYS {
		return os.Rename(from, to)
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

func checkPresent(path string) error {
	if _, err := os.Stat(path); err != nil {
		return err
	}
	return checkMagic(path)
}

// Verify reads a whole backup: its structure, and every value against its checksum.
func Verify(ctx context.Context, path string) error {
	if err := verify(ctx, path); err != nil {
		return fmt.Errorf("verify %s: %w", filepath.Base(path), err)
	}
	return nil
}

// verify reads a whole database: its structure, and every value against its checksum.
func verify(ctx context.Context, path string) error {
	if err := checkPresent(path); err != nil {
		return err
	}
	c, err := openConn(path)
	if err != nil {
		return err
	}
	defer c.close()
	if err := checkHeader(c); err != nil {
		return damaged(err)
	}
	var said any
	if said, err = c.value("pragma integrity_check(1)"); err == nil && said != "ok" {
		err = fmt.Errorf("%w: %v", ErrCorrupt, said)
	}
	if err != nil {
		return damaged(err)
	}
	return damaged(c.query("select key, value from objects", func(r row) error {
		if _, err := unpack(r[1].([]byte)); err != nil {
			return fmt.Errorf("%w: %v: %w", ErrCorrupt, r[0], err)
		}
		return ctx.Err()
	}))
}

func damaged(err error) error {
	if corrupt(err) {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return err
}

// Restore puts a backup in the place of a database that no server uses. It gets a new incarnation, and revisions above
// all that were handed out: agents and watches notice, and list again. What was there before is kept beside it, named
// after the time. Just before the database takes its place, with all that takes long done, ready is called: what belongs
// to the database is put in place there.
func Restore(ctx context.Context, backup, path string, ready func() error) error {
	if err := restore(ctx, backup, path, ready); err != nil {
		return fmt.Errorf("restore %s from %s: %w", path, backup, err)
	}
	return nil
}

func restore(ctx context.Context, backup, path string, ready func() error) error {
	held, err := lock(path)
	if err != nil {
		return err
	}
	defer held.Release()
	if err := verify(ctx, backup); err != nil {
		return err
	}
	fresh := path + ".restoring"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := copyDatabase(ctx, backup, fresh); err != nil {
		return err
	}
	err = renew(fresh, path)
	if err == nil {
		err = ready()
	}
	if err != nil {
		os.Remove(fresh)
		return err
	}
	if err := moveAside(path, time.Now()); err != nil {
		return err
	}
	if err := os.Rename(fresh, path); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(path))
}

// renew makes a copy a database of its own.
func renew(path, replaced string) error {
	reserved := max(reservedIn(path), reservedIn(replaced)) + revisionJump
	c, err := openConn(path)
	if err != nil {
		return err
	}
	err = c.exec("update meta set incarnation = ?, reserved = ?", NewIncarnation(), reserved)
	if e := c.close(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	return durable.SyncFile(path)
}

// reservedIn reads what a database has reserved; 0 when it is not there or cannot be read, for then the jump must do.
func reservedIn(path string) int64 {
	if checkPresent(path) != nil {
		return 0
	}
	c, err := openConn(path)
	if err != nil {
		return 0
	}
	defer c.close()
	v, err := c.value("select reserved from meta")
	if err != nil {
		return 0
	}
	n, _ := v.(int64)
	return n
}

// moveAside takes a database out of the way. Its log is emptied first: a log that stayed behind would be played into
// the database that comes in its place.
func moveAside(path string, now time.Time) error {
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return removeLog(path)
	}
	emptyLog(path)
	aside := path + ".replaced-" + now.UTC().Format("20060102T150405")
	for _, suffix := range []string{"-wal", "-shm", ""} {
		if err := os.Rename(path+suffix, aside+suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return durable.SyncDir(filepath.Dir(path))
}

// emptyLog is best effort: a damaged database is moved with its log.
func emptyLog(path string) {
	c, err := openConn(path)
	if err != nil {
		return
	}
	defer c.close()
	c.exec("pragma wal_checkpoint(truncate)")
}

func removeLog(path string) error {
	for _, suffix := range []string{"-wal", "-shm"} {
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}
