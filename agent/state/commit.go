package state

import (
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/mattn/go-sqlite3"
)

// retryFull is how long the writer waits before it tries again on a full disk: whoever waits is
// told at once, but what was queued must not be lost when room is made.
const retryFull = 5 * time.Second

// run is the one writer. Whatever came while it committed shares the next fsync.
func (db *DB) run() {
	defer close(db.done)
	for {
		select {
		case <-db.wake:
			db.commit()
		case <-db.stop:
			db.commit()
			return
		}
	}
}

func (db *DB) commit() {
	db.mu.Lock()
	batch, waiters := db.pending, db.waiters
	db.pending, db.waiters = map[cell][]byte{}, nil
	db.writing = batch
	db.mu.Unlock()

	err := db.write(batch)
	if err != nil {
		db.restore(batch, err)
	}
	db.mu.Lock()
	db.writing = nil
	db.mu.Unlock()
	for _, w := range waiters {
		w <- err
	}
}

// restore puts a batch that could not be written back, behind anything newer.
func (db *DB) restore(batch map[cell][]byte, err error) {
	db.mu.Lock()
	defer db.mu.Unlock()
	for c, value := range batch {
		if _, newer := db.pending[c]; !newer {
			db.pending[c] = value
		}
	}
	var e sqlite3.Error
	if errors.As(err, &e) && (e.Code == sqlite3.ErrFull || e.Code == sqlite3.ErrBusy) {
		db.log.Error("the agent's database cannot be written; tried again soon", "err", err)
		time.AfterFunc(retryFull, db.poke)
		return
	}
	// After a failed fsync the page cache can no longer be trusted, so it is never retried.
	if db.failed == nil {
		close(db.broken)
	}
	db.failed = fmt.Errorf("%w: %w", ErrDamaged, err)
	db.log.Error("the agent's database failed: the agent must be started again", "err", err)
}

func (db *DB) write(batch map[cell][]byte) error {
	if len(batch) == 0 {
		return nil
	}
	tx, err := db.sql.Begin()
	if err != nil {
		return err
	}
	defer tx.Rollback()
	changed := false
	for c, value := range batch {
		did, err := put(tx, c, value)
		if err != nil {
			return err
		}
		changed = changed || did
	}
	if !changed {
		return nil
	}
	return tx.Commit()
}

// put writes one value and says whether that changed anything.
func put(tx *sql.Tx, c cell, value []byte) (bool, error) {
	var did sql.Result
	var err error
	if value == nil {
		did, err = tx.Exec("DELETE FROM items WHERE bucket = ? AND key = ?", c.bucket, c.key)
	} else {
		did, err = tx.Exec("INSERT INTO items (bucket, key, value) VALUES (?, ?, ?) ON CONFLICT (bucket, key) DO UPDATE SET value = excluded.value WHERE value <> excluded.value", c.bucket, c.key, value)
	}
	if err != nil {
		return false, err
	}
	rows, err := did.RowsAffected()
	return rows > 0, err
}

// Broken is closed when the database takes no more writes.
func (db *DB) Broken() <-chan struct{} { return db.broken }

// Failed returns the error after which the database takes no more writes, or nil.
func (db *DB) Failed() error {
	db.mu.Lock()
	defer db.mu.Unlock()
	return db.failed
}
