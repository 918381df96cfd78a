package store

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"bramble.dev/internal/durable"
)

const (
	applicationID = 0x42524d42 // "BRMB" in the file's header
	schemaVersion = 1

	// A commit writes whole pages to the log, and the kernel whole 4 KB blocks of the log to the card: what counts is
	// how few bytes a commit touches. Measured, bytes to disk for the create of a 1.5 KB ConfigMap by one writer:
	// 512-byte pages 8,500; 1,024: 9,100; 2,048: 12,600; 4,096: 12,400 (BenchmarkCreate).
	pageSize = 512
)

// There is no index: the writer finds a key's row in memory, and an index would double what a create writes.
// meta.reserved is the promise that no revision above it was ever handed out.
const schema = `
create table meta(id integer primary key check(id = 1), incarnation text not null, reserved integer not null);
create table resources(id integer primary key, prefix text not null unique);
create table objects(id integer primary key, resource integer not null, key text not null, revision integer not null, expires integer not null, size integer not null, value blob not null);
`

// ErrForeign is wrapped by the error of Open when the file is not a database of Bramble's.
var ErrForeign = errors.New("not a Bramble database")

// ErrCorrupt is wrapped by the error of Open when the file is damaged.
var ErrCorrupt = errors.New("the database is damaged")

const remedy = `; move the file away and restore a backup with "bramble restore"`

// openWriter opens or creates the file at path and leaves it in WAL mode.
func openWriter(path string, first int64) (*conn, error) {
	if err := checkMagic(path); err != nil {
		return nil, err
	}
	c, err := openConn(path)
	if err != nil {
		return nil, err
	}
	if err := prepareFile(c, path, first); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func prepareFile(c *conn, path string, first int64) error {
	for _, q := range []string{
		fmt.Sprintf("pragma page_size = %d", pageSize),
		"pragma cache_size = -256",
		"pragma journal_mode = wal",
		// Acknowledged means on disk. FULL syncs the log at every commit.
		"pragma synchronous = full",
		// Checkpoints are run by who commits: SQLite's own would hide a failed sync.
		"pragma wal_autocheckpoint = 0",
	} {
		if err := c.exec(q); err != nil {
			return err
		}
	}
	tables, err := c.value("select count(*) from sqlite_master")
	if err != nil {
		return err
	}
	if tables.(int64) == 0 {
		return create(c, path, first)
	}
	if err := checkHeader(c); err != nil {
		return err
	}
	return quickCheck(c)
}

// checkHeader tells another program's database, and a newer version's, from ours.
func checkHeader(c *conn) error {
	id, err := c.value("pragma application_id")
	if err != nil {
		return err
	}
	if id.(int64) != applicationID {
		return fmt.Errorf("%w (its application id is %#x)%s", ErrForeign, id, remedy)
	}
	v, err := c.value("pragma user_version")
	if err != nil {
		return err
	}
	if v.(int64) > schemaVersion {
		return fmt.Errorf("%w of this version: it was written by a newer one (schema %d, this program knows %d); install that version again", ErrForeign, v, schemaVersion)
	}
	return nil
}

func create(c *conn, path string, first int64) error {
	if err := c.exec(fmt.Sprintf("begin immediate; %s pragma application_id = %d; pragma user_version = %d;", schema, applicationID, schemaVersion)); err != nil {
		return err
	}
	if err := c.exec("insert into meta values(1, ?, ?)", NewIncarnation(), first); err != nil {
		return err
	}
	if err := c.exec("commit"); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(path))
}

// checkMagic keeps SQLite away from a file that it would call "not a database" only at the first read.
func checkMagic(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	want := []byte("SQLite format 3\x00")
	got := make([]byte, len(want))
	if n, err := io.ReadFull(f, got); err == io.EOF && n == 0 {
		return nil // empty: a creation that was cut short
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%w%s", ErrForeign, remedy)
	}
	return nil
}

func quickCheck(c *conn) error {
	var said string
	err := c.query("pragma quick_check(1)", func(r row) error {
		said = fmt.Sprint(r[0])
		return nil
	})
	if err != nil {
		return err
	}
	if said != "ok" {
		return fmt.Errorf("%w: %s%s", ErrCorrupt, said, remedy)
	}
	return nil
}

// NewIncarnation makes a name that no other set of objects has.
func NewIncarnation() string {
	b := make([]byte, 16)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// firstRevision starts a new database above whatever an earlier one of the same name has handed out, so that its
// clients are told 410 and list again. A board in 1970 starts at 1.
func firstRevision(now time.Time) int64 {
	since := now.Sub(time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)).Milliseconds()
	return max(since, 1)
}
