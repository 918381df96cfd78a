package state

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bramble.dev/test/emulated"
)

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func openAt(t *testing.T, path string) *DB {
	t.Helper()
	db, err := Open(path, quiet())
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func TestWriteIsThereAfterReopening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.db")
	db := openAt(t, path)
	ctx := context.Background()
	if err := db.Write(ctx, SetBucket("node"), []Change{{"a", []byte("1")}, {"b", []byte("2")}}); err != nil {
		t.Fatal(err)
	}
	if err := db.Write(ctx, SetBucket("node"), []Change{{"a", nil}}); err != nil {
		t.Fatal(err)
	}
	db.Queue(Pods, "uid", []byte("record"))
	if got, err := db.Load(Pods); err != nil || string(got["uid"]) != "record" {
		t.Fatalf("queued value is not seen: %q %v", got, err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = openAt(t, path)
	defer db.Close()
	set, err := db.Load(SetBucket("node"))
	if err != nil || len(set) != 1 || string(set["b"]) != "2" {
		t.Fatalf("set after reopening: %q %v", set, err)
	}
	pods, err := db.Load(Pods)
	if err != nil || string(pods["uid"]) != "record" {
		t.Fatalf("pods after reopening: %q %v", pods, err)
	}
}

func TestEqualValueWritesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.db")
	db := openAt(t, path)
	defer db.Close()
	ctx := context.Background()
	if err := db.Write(ctx, Pods, []Change{{"uid", []byte("same")}}); err != nil {
		t.Fatal(err)
	}
	before := sizes(t, path)
	for range 20 {
		if err := db.Write(ctx, Pods, []Change{{"uid", []byte("same")}}); err != nil {
			t.Fatal(err)
		}
	}
	if after := sizes(t, path); after != before {
		t.Fatalf("files changed from %s to %s", before, after)
	}
}

func sizes(t *testing.T, path string) string {
	var out []string
	for _, p := range []string{path, path + "-wal"} {
		info, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, fmt.Sprint(info.Size(), info.ModTime()))
	}
	return strings.Join(out, " ")
}

func TestDamagedDatabaseIsMovedAside(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "agent.db")
	if err := os.WriteFile(path, []byte(strings.Repeat("not a database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	db := openAt(t, path)
	defer db.Close()
	if err := db.Write(context.Background(), Meta, []Change{{"k", []byte("v")}}); err != nil {
		t.Fatal(err)
	}
	aside, _ := filepath.Glob(path + ".damaged-*")
	if len(aside) != 1 {
		t.Fatalf("moved aside: %v", aside)
	}
}

func TestWritersShareCommits(t *testing.T) {
	db := openAt(t, filepath.Join(t.TempDir(), "agent.db"))
	defer db.Close()
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			if err := db.Write(context.Background(), Pods, []Change{{strconv.Itoa(i), []byte("v")}}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	got, err := db.Load(Pods)
	if err != nil || len(got) != 50 {
		t.Fatalf("%d values, %v", len(got), err)
	}
}

// TestAcknowledgedSurvivesKill kills a process in the middle of writing, again and again: every
// value that it said was written is there.
func TestAcknowledgedSurvivesKill(t *testing.T) {
	if path := os.Getenv("STATE_WRITER"); path != "" {
		writeForever(path)
		return
	}
	path := filepath.Join(t.TempDir(), "agent.db")
	acknowledged := 0
	for round := range 5 {
		cmd := emulated.Self("-test.run=TestAcknowledgedSurvivesKill")
		cmd.Env = append(os.Environ(), "STATE_WRITER="+path, "STATE_FROM="+strconv.Itoa(acknowledged))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var kill *time.Timer
		for lines := bufio.NewReader(out); ; {
			line, err := lines.ReadString('\n')
			if err != nil { // the last one may be torn
				break
			}
			if kill == nil { // the time runs from the first write on
				kill = time.AfterFunc(time.Duration(50+round*40)*time.Millisecond, func() { cmd.Process.Kill() })
			}
			line = strings.TrimSpace(line)
			if n, err := strconv.Atoi(line); err == nil {
				acknowledged = n + 1
			}
		}
		cmd.Wait()
		db := openAt(t, path)
		got, err := db.Load(Pods)
		db.Close()
		if err != nil {
			t.Fatal(err)
		}
		for i := range acknowledged {
			if _, ok := got[strconv.Itoa(i)]; !ok {
				t.Fatalf("round %d: value %d of %d is lost", round, i, acknowledged)
			}
		}
	}
	if acknowledged == 0 {
		t.Fatal("nothing was written")
	}
}

func writeForever(path string) {
	db, err := Open(path, quiet())
	if err != nil {
		panic(err)
	}
	from, _ := strconv.Atoi(os.Getenv("STATE_FROM"))
	for i := from; ; i++ {
		if err := db.Write(context.Background(), Pods, []Change{{strconv.Itoa(i), []byte("v")}}); err != nil {
			panic(err)
		}
		fmt.Println(i)
	}
}

// TestOpensOnAFullDisk: only an agent that runs makes room, so it must not need any to begin.
func TestOpensOnAFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatalf("this test mounts a tmpfs and needs root: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	path := filepath.Join(dir, "agent.db")
	db, err := Open(path, quiet())
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Write(t.Context(), Meta, []Change{{Key: "k", Value: []byte("v")}}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "films"), make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	if db, err = Open(path, quiet()); err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if v, ok, err := db.Get(Meta, "k"); string(v) != "v" || !ok || err != nil {
		t.Errorf("what was written is %q %v %v", v, ok, err)
	}
}
