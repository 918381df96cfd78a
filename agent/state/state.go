// Package state is the agent's own database: what the server last wanted of this node, what the
// agent has not yet been able to say, and what it must remember about its pods.
//
// Invariant: what Write has returned from is on the disk, and a value is either wholly there or
// wholly absent, whenever the plug is pulled. Nothing is written while nothing changes: a value
// equal to the stored one is dropped before it reaches SQLite.
//
//	db, err := state.Open(path, logger)
//	err = db.Write(ctx, "set/node", []state.Change{{Key: "pods/default/web", Value: encoded}})
//	db.Queue("pods", uid, record) // soon; with the next commit
//	err = db.Flush(ctx)           // everything queued so far is on the disk
package state

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/mattn/go-sqlite3"
)

// Buckets of the database. The sets of the server are in SetBucket(name).
const (
	Pods        = "pods"   // by UID: what a pod worker must remember
	Status      = "status" // by key of the status set: what the server has not acknowledged
	Credentials = "tokens" // of pods: tokens of their service accounts, and certificates with their keys
	Meta        = "meta"
)

// SetBucket is the bucket of a desired set.
func SetBucket(set string) string { return "set/" + set }

// Change is one write. A nil value deletes the key.
type Change struct {
	Key   string
	Value []byte
}

type cell struct{ bucket, key string }

// DB is the database. All its methods may be called from several goroutines.
type DB struct {
	sql *sql.DB
	log *slog.Logger

	mu      sync.Mutex
	pending map[cell][]byte // not yet committed; bounded by the number of keys, the newest wins
	writing map[cell][]byte // what the writer is committing
	waiters []chan error
	failed  error

	wake   chan struct{}
	done   chan struct{}
	stop   chan struct{}
	broken chan struct{}
}

// ErrDamaged says that the database can no longer be trusted: the process must end.
var ErrDamaged = errors.New("the agent's database is damaged")

const schema = `
CREATE TABLE IF NOT EXISTS items (bucket TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, UNIQUE (bucket, key));
PRAGMA user_version = 1;`

// Open opens the database, or creates it. A database that SQLite finds damaged is moved aside,
// with one line in the log, and an empty one takes its place: the server then sends everything
// again, and the runtime is asked what runs.
func Open(path string, log *slog.Logger) (*DB, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("create the folder of the agent's database: %w", err)
	}
	conn, err := open(path)
	if err != nil && damaged(err) {
		aside := fmt.Sprintf("%s.damaged-%s", path, time.Now().UTC().Format("20060102T150405"))
		if err := moveAside(path, aside); err != nil {
			return nil, err
		}
		log.Error("the agent's database is damaged: moved aside; everything is asked for again", "path", path, "aside", aside, "err", err)
		conn, err = open(path)
	}
	if err != nil {
		return nil, fmt.Errorf("open the agent's database %s: %w", path, err)
	}
	db := &DB{
		sql: conn, log: log, pending: map[cell][]byte{},
		wake: make(chan struct{}, 1), done: make(chan struct{}), stop: make(chan struct{}), broken: make(chan struct{}),
	}
	go db.run()
	return db, nil
}

func open(path string) (*sql.DB, error) {
	// One connection: there is one writer, and a page cache for each reader is memory that a small
	// board needs for something else.
	// unix-excl: the index of the log stays in memory. Another process has no business here, and a file of it would be
	// written to the card after each commit, 32 KiB for a change of one.
	// Statements are kept: a first set of a thousand peers is a thousand times the same one.
	dsn := "file:" + path + "?vfs=unix-excl&_journal_mode=WAL&_synchronous=FULL&_busy_timeout=5000&_cache_size=-256&_stmt_cache_size=8&_txlock=immediate"
	conn, err := sql.Open("sqlite3", dsn)
	if err != nil {
		return nil, err
	}
	conn.SetMaxOpenConns(1)
	conn.SetMaxIdleConns(1)
	var verdict string
	if err := conn.QueryRow("PRAGMA quick_check(1)").Scan(&verdict); err != nil {
		conn.Close()
		return nil, err
	}
	if verdict != "ok" {
		conn.Close()
		return nil, fmt.Errorf("%w: %s", ErrDamaged, verdict)
	}
	if err := prepare(conn); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// prepare makes the table of a new database. One that has it is not written to: the disk may be full, and only an agent that runs
// makes room.
func prepare(conn *sql.DB) error {
	var version int
	if err := conn.QueryRow("PRAGMA user_version").Scan(&version); err != nil || version > 0 {
		return err
	}
	_, err := conn.Exec(schema)
	return err
}

func damaged(err error) bool {
	var e sqlite3.Error
	if errors.As(err, &e) {
		return e.Code == sqlite3.ErrCorrupt || e.Code == sqlite3.ErrNotADB
	}
	return errors.Is(err, ErrDamaged)
}

func moveAside(path, aside string) error {
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Rename(path+suffix, aside+suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("move the damaged database aside: %w", err)
		}
	}
	return nil
}

// Load returns a bucket, with what is queued for it.
func (db *DB) Load(bucket string) (map[string][]byte, error) {
	// Taken before the query: what is committed in between is then seen twice, never not at all.
	queued := db.queued(bucket)
	rows, err := db.sql.Query("SELECT key, value FROM items WHERE bucket = ?", bucket)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", bucket, err)
	}
	defer rows.Close()
	out := map[string][]byte{}
	for rows.Next() {
		var key string
		var value []byte
		if err := rows.Scan(&key, &value); err != nil {
			return nil, fmt.Errorf("load %s: %w", bucket, err)
		}
		out[key] = value
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("load %s: %w", bucket, err)
	}
	for key, value := range queued {
		if value == nil {
			delete(out, key)
		} else {
			out[key] = value
		}
	}
	return out, nil
}

// Get returns one value, also if it is only queued.
func (db *DB) Get(bucket, key string) ([]byte, bool, error) {
	if value, ok := db.queuedValue(cell{bucket, key}); ok {
		return value, value != nil, nil
	}
	var value []byte
	err := db.sql.QueryRow("SELECT value FROM items WHERE bucket = ? AND key = ?", bucket, key).Scan(&value)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("get %s of %s: %w", key, bucket, err)
	}
	return value, true, nil
}

func (db *DB) queuedValue(c cell) ([]byte, bool) {
	db.mu.Lock()
	defer db.mu.Unlock()
	for _, batch := range []map[cell][]byte{db.pending, db.writing} {
		if value, ok := batch[c]; ok {
			return value, true
		}
	}
	return nil, false
}

func (db *DB) queued(bucket string) map[string][]byte {
	db.mu.Lock()
	defer db.mu.Unlock()
	out := map[string][]byte{}
	for _, batch := range []map[cell][]byte{db.writing, db.pending} {
		for c, value := range batch {
			if c.bucket == bucket {
				out[c.key] = value
			}
		}
	}
	return out
}

// Queue writes a value with the next commit. A nil value deletes.
func (db *DB) Queue(bucket, key string, value []byte) {
	db.mu.Lock()
	db.pending[cell{bucket, key}] = value
	db.mu.Unlock()
	db.poke()
}

// Write writes the changes in one transaction and returns when they are on the disk.
func (db *DB) Write(ctx context.Context, bucket string, changes []Change) error {
	db.mu.Lock()
	for _, c := range changes {
		db.pending[cell{bucket, c.Key}] = c.Value
	}
	db.mu.Unlock()
	if err := db.Flush(ctx); err != nil {
		return fmt.Errorf("write %s: %w", bucket, err)
	}
	return nil
}

// Flush returns when everything that was queued before is on the disk.
func (db *DB) Flush(ctx context.Context) error {
	wait := make(chan error, 1)
	db.mu.Lock()
	if db.failed != nil {
		defer db.mu.Unlock()
		return db.failed
	}
	db.waiters = append(db.waiters, wait)
	db.mu.Unlock()
	db.poke()
	select {
	case err := <-wait:
		return err
	case <-db.done:
		return errors.New("the agent's database is closed")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close commits what is queued and closes the database.
func (db *DB) Close() error {
	select {
	case <-db.stop:
	default:
		close(db.stop)
	}
	<-db.done
	return db.sql.Close()
}

func (db *DB) poke() {
	select {
	case db.wake <- struct{}{}:
	default:
	}
}
