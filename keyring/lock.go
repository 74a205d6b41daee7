package keyring

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
)

// pollEvery is how often the lock is tried. It is contended once in a
// program's life.
const pollEvery = 25 * time.Millisecond

// lockFile takes the lock of a file under which the key of service is made. The
// file is in the user's cache folder, since it holds nothing and matters only
// while it is locked. It is never deleted: who locks a deleted file excludes
// nobody.
func lockFile(ctx context.Context, service string) (unlock func(), err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, fmt.Errorf("keyring: no place for a lock file: %w", err)
	}
	dir := filepath.Join(cache, "walletauth")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("keyring: no place for a lock file: %w: make the folder writable", err)
	}
	sum := sha256.Sum256([]byte(service)) // a service may not do as a file name
	path := filepath.Join(dir, "keyring-"+hex.EncodeToString(sum[:8])+".lock")
	l := flock.New(path)
	if _, err := l.TryLockContext(ctx, pollEvery); err != nil {
		return nil, lockError(ctx, path, err)
	}
	return func() { _ = l.Unlock() }, nil // closing the file, as the process's end does, unlocks too
}

func lockError(ctx context.Context, path string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("keyring: another process has been making the key for %v and holds %s: answer the keyring's prompt there, or end it", lockTimeout(), path)
	}
	return fmt.Errorf("keyring: lock %s: %w: make the folder writable", path, err)
}
