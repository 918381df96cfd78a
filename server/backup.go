package server

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"bramble.dev/internal/durable"
	"bramble.dev/server/auth"
	"bramble.dev/server/store"
	"bramble.dev/server/store/etcd"
)

// A backup is one gzip'ed tar file: the database and the keys, which are worth nothing without each other. It holds the
// private key of the cluster's authority, so only its owner may read it.
const (
	databaseEntry = "state.db"
	pkiEntry      = "pki"
)

// ErrInUse says that a restore would lose what a data folder holds.
var ErrInUse = errors.New("the data folder holds a cluster already")

// Backup writes a verified copy of the cluster in dataDir to a new file, while its server runs or not. Its objects are in etcd, or,
// where that is nil, in the folder.
func Backup(ctx context.Context, dataDir string, objects *etcd.Options, file string) (err error) {
	if _, err := os.Lstat(file); err == nil {
		return fmt.Errorf("%s exists: name a new file", file)
	}
	of := databasePath(dataDir)
	if objects != nil {
		of = pkiDir(dataDir)
	}
	if _, err := os.Stat(of); errors.Is(err, fs.ErrNotExist) {
		if objects == nil && checkNotShared(dataDir) != nil {
			return fmt.Errorf("backup: the objects of %s are in etcd: name it with --store etcd and --etcd-servers", dataDir)
		}
		return fmt.Errorf("backup: no server has been in %s: name the --data-dir of one", dataDir)
	}
	if file, err = filepath.Abs(file); err != nil { // the database's library takes a relative name for a host's
		return fmt.Errorf("backup: %w", err)
	}
	work, err := os.MkdirTemp(filepath.Dir(file), ".bramble-backup-")
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	defer os.RemoveAll(work)
	copied, keys := filepath.Join(work, databaseEntry), filepath.Join(work, pkiEntry)
	if err := os.CopyFS(keys, os.DirFS(pkiDir(dataDir))); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	if objects != nil {
		err = backupShared(ctx, *objects, keys, copied)
	} else {
		err = store.BackupFile(ctx, databasePath(dataDir), copied)
	}
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	// A key of Secrets may have come, or gone, while the database was copied: that one needs those of both times.
	if err := auth.JoinSecretsKeys(keys, pkiDir(dataDir)); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	packed := filepath.Join(work, "backup")
	if err := pack(packed, copied, keys); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	if err := os.Rename(packed, file); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	return durable.SyncDir(filepath.Dir(file))
}

func pack(to, database, pki string) (err error) {
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	z := gzip.NewWriter(out)
	w := tar.NewWriter(z)
	if err := addFile(w, databaseEntry, database); err != nil {
		return err
	}
	err = filepath.WalkDir(pki, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		return addFile(w, pkiEntry+"/"+filepath.Base(path), path)
	})
	if err := errors.Join(err, w.Close(), z.Close()); err != nil {
		return err
	}
	return out.Sync()
}

func addFile(w *tar.Writer, name, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: info.Size(), ModTime: info.ModTime()}); err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return err
}

// Restore makes dataDir the cluster of a backup, under a new incarnation, so that agents and clients notice and list
// again. Its objects go to etcd, or, where that is nil, into the folder. It refuses a folder and an etcd that hold a cluster, and touches
// them only when the whole backup has been read.
func Restore(ctx context.Context, file, dataDir string, objects *etcd.Options) (err error) {
	if err := checkUnused(dataDir); err != nil {
		return err
	}
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("restore: the file %s does not exist: name one that `bramble backup` wrote", file)
	}
	dir := serverDir(dataDir)
	work, err := os.MkdirTemp(existing(dir), ".bramble-restore-")
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	defer os.RemoveAll(work)
	if err := unpack(file, work); err != nil {
		return fmt.Errorf("restore: %s is no whole backup of `bramble backup`: %w", file, err)
	}
	if err := store.Verify(ctx, filepath.Join(work, databaseEntry)); err != nil {
		return fmt.Errorf("restore: %s is no whole backup of `bramble backup`: %w", file, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	held, err := lock(dir)
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	defer held.Release()
	if err := checkUnused(dataDir); err != nil { // once more: nobody else can begin now
		return err
	}
	// The keys first: a folder with keys and no database is one that a server has not used yet, and can be restored again.
	// But not long before: a server that starts with these keys and no database (the plug was pulled, systemd starts it) is
	// believed by all boards of the cluster, and tells them that nothing is to run.
	keys := func() error {
		if err := os.RemoveAll(pkiDir(dataDir)); err != nil {
			return err
		}
		if err := os.Rename(filepath.Join(work, pkiEntry), pkiDir(dataDir)); err != nil {
			return err
		}
		return durable.SyncDir(dir)
	}
	if objects != nil {
		err = restoreShared(ctx, *objects, dataDir, work, keys)
	} else {
		err = store.Restore(ctx, filepath.Join(work, databaseEntry), databasePath(dataDir), keys)
	}
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	return nil
}

func checkUnused(dataDir string) error {
	if _, err := os.Stat(databasePath(dataDir)); err == nil {
		return fmt.Errorf("restore: %w: %s: move the folder away first", ErrInUse, databasePath(dataDir))
	}
	if err := checkNotShared(dataDir); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	return nil
}

// existing is the nearest folder above that is there: what lies in it can be renamed into what will be made below it.
func existing(dir string) string {
	for {
		if _, err := os.Stat(dir); err == nil || dir == filepath.Dir(dir) {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}

func unpack(file, dir string) error {
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	z, err := gzip.NewReader(in)
	if err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(dir, pkiEntry), 0o700); err != nil {
		return err
	}
	seen := map[string]bool{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if !wanted(h.Name) || seen[h.Name] {
			return fmt.Errorf("it has an entry %q", h.Name)
		}
		seen[h.Name] = true
		if err := extract(filepath.Join(dir, h.Name), r); err != nil {
			return err
		}
	}
	if !seen[databaseEntry] {
		return fmt.Errorf("it has no %s", databaseEntry)
	}
	return durable.SyncDir(filepath.Join(dir, pkiEntry))
}

// wanted is what a backup may hold, and nothing that leads out of the folder.
func wanted(name string) bool {
	rest, inPKI := strings.CutPrefix(name, pkiEntry+"/")
	return name == databaseEntry || inPKI && rest != "" && rest != "." && rest != ".." && !strings.ContainsAny(rest, "/\\")
}

func extract(path string, r io.Reader) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Sync(), f.Close())
}
