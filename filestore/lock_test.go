package filestore

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gofrs/flock"
)

func openTest(t *testing.T) (f *folder, dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "sessions")
	f, err := makeFolder(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.close)
	return f, dir
}

// Two files under one name, one after the other, can be locked at once.
func TestLockOfARemovedFileDoesNotCount(t *testing.T) {
	f, dir := openTest(t)
	path := filepath.Join(dir, "x.lock")
	l := flock.New(path)
	if held, err := l.TryLock(); err != nil || !held {
		t.Fatal(held, err)
	}
	if err := f.confirm(l, "x.lock"); err != nil {
		t.Errorf("the file is there: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := f.confirm(l, "x.lock"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file is gone: %v", err)
	}
	unlock, err := f.lock(t.Context(), "x.lock") // makes another of that name
	if err != nil {
		t.Fatal(err)
	}
	if err := f.confirm(l, "x.lock"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("another file is there: %v", err)
	}
	if err := errors.Join(unlock(), l.Unlock()); err != nil {
		t.Error(err)
	}
}

// A lock in the new folder would not protect a write into the old one.
func TestFolderReplacedBeforeTheLockIsAnError(t *testing.T) {
	f, dir := openTest(t)
	if err := os.Rename(dir, dir+".old"); err != nil {
		t.Fatal(err)
	}
	for _, make := range []func() error{
		func() error { return nil },
		func() error { return os.Mkdir(dir, 0o700) },
	} {
		if err := make(); err != nil {
			t.Fatal(err)
		}
		unlock, err := f.lock(t.Context(), "x.lock")
		if err == nil {
			t.Fatal("it was locked", unlock())
		}
		if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "the folder was removed meanwhile") {
			t.Errorf("error %v", err)
		}
	}
}
