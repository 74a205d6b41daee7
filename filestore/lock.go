package filestore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"time"

	"github.com/gofrs/flock"
)

// pollEvery is how often a lock that another process holds is tried. To sleep
// in the kernel until it is free would be cheaper, but no context can end
// that.
const pollEvery = 25 * time.Millisecond

// lock waits for the exclusive lock on the lock file name. The session file
// itself would not do: a rename puts another file in its place, and each of
// the two would have a holder.
func (f *folder) lock(ctx context.Context, name string) (unlock func() error, err error) {
	path := f.file(name)
	// Open for writing, since NFS refuses an exclusive lock otherwise.
	l := flock.New(path, flock.SetFlag(os.O_CREATE|os.O_RDWR), flock.SetPermissions(0o600))
	for {
		held, err := f.tryLock(l, name)
		if err != nil {
			return nil, err
		}
		if held {
			return func() error { return unlocked(path, l.Unlock()) }, nil
		}
		if err := pause(ctx); err != nil {
			return nil, fmt.Errorf("filestore: waiting for another process to unlock %s: %w", path, err)
		}
	}
}

// tryLock takes the lock if it is free. A lock counts only if its file is
// still the one that others will find: if somebody removed it between our
// opening and locking it, they would lock another.
func (f *folder) tryLock(l *flock.Flock, name string) (bool, error) {
	if err := f.check(name, checkFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	var held bool
	err := retry(func() (err error) {
		held, err = l.TryLock()
		return err
	})
	if err != nil {
		return false, failed("lock", l.Path(), err, grant(f.path, 0o700)+" and "+grant(l.Path(), 0o600))
	}
	if !held {
		return false, nil
	}
	err = f.confirm(l, name)
	if err == nil {
		return true, nil
	}
	_ = l.Unlock() // it is nobody's file, or the error tells
	if errors.Is(err, fs.ErrNotExist) && f.inPlace() {
		return false, nil
	}
	return false, failed("lock", l.Path(), err, grant(l.Path(), 0o600))
}

// inPlace reports whether the folder is still the one of its path.
func (f *folder) inPlace() bool {
	opened, err := f.root.Stat(".")
	if err != nil {
		return false
	}
	found, err := os.Lstat(f.path)
	return err == nil && os.SameFile(opened, found)
}

// confirm returns fs.ErrNotExist if the file that l locked is not the one of
// that name, and forces its mode, from which the umask may have taken.
func (f *folder) confirm(l *flock.Flock, name string) error {
	locked, err := l.Stat()
	if err != nil {
		return err
	}
	found, err := f.root.Lstat(name)
	if err != nil {
		return err
	}
	if !os.SameFile(locked, found) {
		return fs.ErrNotExist
	}
	if found.Mode().Perm()&0o600 != 0o600 {
		return f.root.Chmod(name, 0o600)
	}
	return nil
}

func unlocked(path string, err error) error {
	if err == nil {
		return nil
	}
	return failed("unlock", path, err, grant(path, 0o600))
}

// pause waits a while, longer or shorter by chance, so that processes that
// began to wait together do not try together for ever.
func pause(ctx context.Context) error {
	timer := time.NewTimer(pollEvery/2 + rand.N(pollEvery))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
