package store

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"bramble.dev/internal/lockfile"
)

// Options says where the database is and how much memory it may use. Zero values are replaced by the defaults.
type Options struct {
	Path   string // the SQLite file; it is created when missing, its folder is not
	Logger *slog.Logger

	// CacheBytes bounds the present values kept in memory; the others are read from disk (4 MiB).
	CacheBytes int64
	// RingBytes bounds the changes remembered for each resource, RingAge their age (512 KiB, 10 minutes).
	RingBytes int
	RingAge   time.Duration
	// SnapshotBytes bounds what continue tokens keep alive, SnapshotAge for how long a token or an exact revision
	// can be listed (4 MiB, 5 minutes).
	SnapshotBytes int64
	SnapshotAge   time.Duration
	// VolatileBytes bounds what the volatile class holds in memory only; above it a commit is forced (2 MiB).
	// FlushInterval is how often, at most, it joins a commit that happens anyway (10 minutes).
	VolatileBytes int64
	FlushInterval time.Duration
	// Reserve is how many revisions are reserved on disk at a time (1,000,000: ten leader elections use up half of
	// that in a day, and only then an idle cluster writes a page).
	Reserve int64
	// BookmarkInterval is how often an idle watch that asked for bookmarks gets one (1 minute).
	BookmarkInterval time.Duration
	// FirstRevision is where a new database starts (derived from the clock).
	FirstRevision int64
	// Fatal is called, once, when the log cannot be trusted any more: a commit or a sync failed. It should not
	// return; the default logs and ends the process.
	Fatal func(error)

	now    func() time.Time // for tests
	failed func(step string) error
}

func (o Options) withDefaults() Options {
	def := func(p *int64, v int64) {
		if *p == 0 {
			*p = v
		}
	}
	age := func(p *time.Duration, v time.Duration) {
		if *p == 0 {
			*p = v
		}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.now == nil {
		o.now = time.Now
	}
	if o.RingBytes == 0 {
		o.RingBytes = 512 << 10
	}
	def(&o.CacheBytes, 4<<20)
	def(&o.SnapshotBytes, 4<<20)
	def(&o.VolatileBytes, 2<<20)
	def(&o.Reserve, 1_000_000)
	def(&o.FirstRevision, firstRevision(o.now()))
	age(&o.RingAge, 10*time.Minute)
	age(&o.SnapshotAge, 5*time.Minute)
	age(&o.FlushInterval, 10*time.Minute)
	age(&o.BookmarkInterval, time.Minute)
	if o.Fatal == nil {
		o.Fatal = func(err error) {
			o.Logger.Error("the store cannot go on", "err", err)
			os.Exit(70)
		}
	}
	return o
}

// DB is an open database. It is safe for use by many goroutines.
type DB struct {
	opts        Options
	log         *slog.Logger
	incarnation string
	opened      int64 // the revision at Open: history starts here

	held     *lockfile.Lock
	reader   *reader
	cache    cache
	stage    stage
	disk     disk
	volatile volatile
	expiry   expiry

	mu        sync.RWMutex // guards what follows, and all of every resource
	rev       int64        // the latest that is visible
	compacted int64        // lists at an older revision have expired
	resources map[string]*resource
	pinned    map[*resource]struct{}
	unclaimed *resource // in a Mirror: what lies under no prefix that anybody has asked for; else nil

	closing <-chan struct{} // watches and the janitor end
	stop    func()          // closes it
	ending  sync.WaitGroup  // of them; a watch joins with mu held, unless closing is closed
}

// Open opens or creates the database.
func Open(ctx context.Context, o Options) (*DB, error) {
	o = o.withDefaults()
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	d := &DB{
		opts:      o,
		log:       o.Logger,
		resources: map[string]*resource{},
		pinned:    map[*resource]struct{}{},
		closing:   life.Done(),
		stop:      stop,
	}
	d.cache.limit = o.CacheBytes
	d.expiry = newExpiry()
	d.disk.failed = o.failed
	if err := d.open(ctx); err != nil {
		stop()
		if corrupt(err) {
			err = fmt.Errorf("%w: %w%s", ErrCorrupt, err, remedy)
		}
		return nil, fmt.Errorf("open store %s: %w", o.Path, err)
	}
	d.stage.start(d.rev)
	d.ending.Go(func() { d.runJanitor(life) })
	return d, nil
}

func (d *DB) open(ctx context.Context) (err error) {
	path, err := filepath.Abs(d.opts.Path)
	if err != nil {
		return err
	}
	if d.held, err = lock(path); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			d.release()
		}
	}()
	if d.disk.conn, err = openWriter(path, d.opts.FirstRevision); err != nil {
		return err
	}
	if err = d.disk.prepare(); err != nil {
		return err
	}
	if d.reader, err = openReader(path); err != nil {
		return err
	}
	return d.load(ctx)
}

// release frees what open has taken.
func (d *DB) release() error {
	var first error
	note := func(err error) {
		if err != nil && first == nil {
			first = err
		}
	}
	if d.reader != nil {
		note(d.reader.close())
	}
	if d.disk.conn != nil {
		note(d.disk.close())
	}
	if d.held != nil {
		note(d.held.Release())
	}
	return first
}

// Close writes what the volatile class holds, empties the log into the database and closes it. Watches end.
func (d *DB) Close() error {
	if !d.stage.close() {
		return nil
	}
	d.mu.Lock() // no watch begins any more
	d.stop()
	d.mu.Unlock()
	d.ending.Wait()
	d.stage.turn <- struct{}{} // what is being committed is finished, and the turn is nobody's any more
	d.commitOpen()
	err := d.disk.failure
	if err == nil {
		err = d.settle()
	}
	if e := d.release(); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("close store %s: %w", d.opts.Path, err)
	}
	return nil
}

// untilClose runs a watch, for which Close waits; false if it is too late for that.
func (d *DB) untilClose(watch func()) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	select {
	case <-d.closing:
		return false
	default:
		d.ending.Go(watch)
		return true
	}
}

// Incarnation tells this database from any other, and from itself after a restore.
func (d *DB) Incarnation() string { return d.incarnation }

// Revision is the latest that readers see.
func (d *DB) Revision() int64 {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.rev
}

func (d *DB) now() time.Time { return d.opts.now() }
