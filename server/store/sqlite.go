package store

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/mattn/go-sqlite3"
)

// conn is one SQLite connection, used by one goroutine at a time. It is the driver's own and not database/sql's: one
// writer and one reader need no pool, and a point read costs a third.
type conn struct {
	raw *sqlite3.SQLiteConn
}

// row is what a query yields: int64, string, []byte or nil.
type row = []driver.Value

func openConn(path string) (*conn, error) {
	u := url.URL{Scheme: "file", Path: path} // a name may hold what means something to SQLite
	c, err := (&sqlite3.SQLiteDriver{}).Open(u.String())
	if err != nil {
		return nil, err
	}
	return &conn{raw: c.(*sqlite3.SQLiteConn)}, nil
}

func (c *conn) close() error { return c.raw.Close() }

func (c *conn) exec(query string, args ...driver.Value) error {
	_, err := c.raw.Exec(query, args)
	if err != nil {
		return fmt.Errorf("%s: %w", firstLine(query), err)
	}
	return nil
}

func (c *conn) query(query string, visit func(row) error, args ...driver.Value) error {
	rows, err := c.raw.Query(query, args)
	if err != nil {
		return fmt.Errorf("%s: %w", firstLine(query), err)
	}
	return drain(rows, visit)
}

// value runs a query for one value; nil when there is no row.
func (c *conn) value(query string, args ...driver.Value) (driver.Value, error) {
	var out driver.Value
	err := c.query(query, func(r row) error {
		out = r[0]
		return nil
	}, args...)
	return out, err
}

func (c *conn) prepare(query string) (*stmt, error) {
	s, err := c.raw.Prepare(query)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", firstLine(query), err)
	}
	return &stmt{raw: s.(*sqlite3.SQLiteStmt)}, nil
}

// stmt is nil inside once it is closed: SQLite would follow the statement that is no more.
type stmt struct {
	raw *sqlite3.SQLiteStmt
}

func (s *stmt) exec(args ...driver.Value) error {
	if s.raw == nil {
		return ErrClosed
	}
	_, err := s.raw.Exec(args)
	return err
}

func (s *stmt) query(visit func(row) error, args ...driver.Value) error {
	if s.raw == nil {
		return ErrClosed
	}
	rows, err := s.raw.Query(args)
	if err != nil {
		return err
	}
	return drain(rows, visit)
}

func (s *stmt) close() error {
	if s.raw == nil {
		return nil
	}
	err := s.raw.Close()
	s.raw = nil
	return err
}

func drain(rows driver.Rows, visit func(row) error) error {
	defer rows.Close()
	r := make(row, len(rows.Columns()))
	for {
		if err := rows.Next(r); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := visit(r); err != nil {
			return err
		}
	}
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(strings.TrimSpace(s), "\n")
	return s
}

// diskFull tells the one failure of a commit after which the process may go on: nothing was synced, SQLite has rolled
// back, and the next commit starts afresh.
func diskFull(err error) bool {
	var e sqlite3.Error
	return errors.As(err, &e) && e.Code == sqlite3.ErrFull
}

func corrupt(err error) bool {
	var e sqlite3.Error
	return errors.As(err, &e) && (e.Code == sqlite3.ErrCorrupt || e.Code == sqlite3.ErrNotADB)
}

func named(args ...driver.Value) []driver.NamedValue {
	out := make([]driver.NamedValue, len(args))
	for i, a := range args {
		out[i] = driver.NamedValue{Ordinal: i + 1, Value: a}
	}
	return out
}
