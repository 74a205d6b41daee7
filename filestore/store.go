package filestore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/internal/keylock"
)

// Store is a [walletauth.TokenStore] in files. App or Dir is required. Fields are
// not changed after first use. A Store is safe for concurrent use, as are any
// number of Stores, in any number of processes, over one folder. It must not be
// copied after first use.
//
// Sessions that were read are kept in memory, up to 32 MiB of them. More work as
// well, only that a Load may have to read its file.
type Store struct {
	// App names the program: the sessions are in the folder of that name in
	// os.UserConfigDir, so that programs do not share their sessions. It may be
	// a path with slashes, "my-tool/sessions", and should be if the program
	// keeps other files in "my-tool": others must not be able to open the folder
	// of the sessions. Default: none; it is not used if Dir is set.
	App string

	// Dir is the folder of the sessions. It is made with mode 0700 if it is
	// missing. One that exists must be a folder of this user that others
	// cannot open, and no symbolic link; an empty one is made so. A relative
	// path is resolved once, at first use. Default: as App says. If both are
	// set, Dir is the folder, so that a program with an App may let its user
	// choose another place.
	Dir string

	// Codec writes a session down. Default: walletauth.JSONCodec, which
	// writes the tokens in clear.
	Codec walletauth.Codec

	// AllowNetworkFS permits a folder on a network file system (NFS, SMB, 9P,
	// FUSE and the like), which is refused otherwise: locks there may be
	// local to each machine, or be lost while they are held without anybody
	// being told, and two processes that refresh at once cost the user the
	// session. Set it where one machine alone uses the folder. Sessions of
	// several machines belong into Redis or PostgreSQL.
	AllowNetworkFS bool

	// keys lets one Update of each key through to the lock file, so that a
	// process polls it only once.
	keys keylock.Mutex

	resolve sync.Once // guards path and pathErr
	path    string
	pathErr error
	cache   cache
}

var (
	_ walletauth.TokenStore = (*Store)(nil)
	_ walletauth.Replacer   = (*Store)(nil)
)

// Load returns the session of key, which is shared. It costs one stat while the
// file is as it was, waits for nobody and ignores ctx.
//
// The errors: one wrapping [walletauth.ErrNoSession] if there is no session; one
// wrapping [walletauth.ErrUnreadable] if its file is damaged, larger than 1 MiB,
// of another format, sealed by a key that the Codec lacks, or open to others;
// that Dir and App are missing; else what is wrong with the folder or the file.
// Each names the path, says how to mend it, and wraps the system's error if there
// is one.
func (s *Store) Load(_ context.Context, key string) (*walletauth.Session, error) {
	dir, err := s.dir()
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, fileName(key))
	file, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		s.cache.forget(key)
		return nil, fmt.Errorf("filestore: %s: %w", path, walletauth.ErrNoSession)
	}
	if err == nil {
		if session := s.cache.get(key, file); session != nil {
			return session, nil
		}
	}
	f, err := openFolder(dir, s.AllowNetworkFS)
	if err != nil {
		return nil, err
	}
	defer f.close()
	c, err := s.read(f, key)
	return c.session, err
}

// Update is [walletauth.TokenStore.Update]. The ctx given to fn ends when ctx
// does. If the disk has no room for another session, it has ended before fn is
// called, with the reason as its cause: fn can still delete, and what it returns
// is tried to be stored, but it should use up no refresh token. What fn returns
// is stored even if ctx has ended by then.
//
// It returns fn's error; ctx's error, if ctx ended while waiting for another
// Update of key; an error if the session cannot be encoded or takes more than
// 1 MiB; or what is wrong with the folder or the file, as Load does. After any
// of them the stored session stays, except that after a failed sync of the
// folder the new one is in place and may not survive a power failure.
func (s *Store) Update(ctx context.Context, key string, fn func(context.Context, *walletauth.Session) (*walletauth.Session, error)) error {
	return s.exclusively(ctx, key, func(f *folder) error { return s.update(ctx, f, key, fn) })
}

// Replace is [walletauth.Replacer.Replace]. What the file holds does not matter,
// nor whose it is. The errors are those of Update without fn.
func (s *Store) Replace(ctx context.Context, key string, session *walletauth.Session) error {
	return s.exclusively(ctx, key, func(f *folder) error {
		if session == nil {
			return s.delete(f, key)
		}
		previous, err := f.root.Lstat(fileName(key))
		if err != nil {
			previous = nil // there is none, or the write will say what is wrong
		}
		return s.write(f, key, session, previous)
	})
}

// exclusively calls fn under the lock of key.
func (s *Store) exclusively(ctx context.Context, key string, fn func(*folder) error) (err error) {
	leave, err := s.keys.Lock(ctx, key)
	if err != nil {
		return err
	}
	defer leave()
	f, err := s.makeFolder()
	if err != nil {
		return err
	}
	defer f.close()
	unlock, err := f.lock(ctx, lockName(key))
	if err != nil {
		return err
	}
	defer func() { err = firstError(err, unlock()) }()
	if err := f.remove(tempName(key)); err != nil { // a crashed writer's
		return err
	}
	return fn(f)
}

func (s *Store) update(ctx context.Context, f *folder, key string, fn func(context.Context, *walletauth.Session) (*walletauth.Session, error)) (err error) {
	current, err := s.read(f, key)
	if err != nil && !errors.Is(err, walletauth.ErrNoSession) {
		return err
	}
	roomy, noRoom := context.WithCancelCause(ctx)
	defer noRoom(nil)
	if err := f.reserve(tempName(key), current.file); err != nil {
		noRoom(err)
	}
	defer func() { err = firstError(err, f.remove(tempName(key))) }() // unless it has become the session
	next, err := fn(roomy, current.session)
	if err != nil || next == current.session {
		return err
	}
	if next == nil {
		return s.delete(f, key)
	}
	return s.write(f, key, next, current.file)
}

// read reads what the file holds, and remembers it. The error wraps
// ErrNoSession if there is no file.
func (s *Store) read(f *folder, key string) (cached, error) {
	name := fileName(key)
	data, file, err := f.read(name)
	if errors.Is(err, fs.ErrNotExist) {
		s.cache.forget(key)
		return cached{}, fmt.Errorf("filestore: %s: %w", f.file(name), walletauth.ErrNoSession)
	}
	if err != nil {
		return cached{}, err
	}
	session, err := s.parse(key, data)
	if err != nil {
		return cached{}, unreadable(f.file(name), err)
	}
	c := cached{file, session}
	s.cache.put(key, c)
	return c, nil
}

// write replaces the file. What was encoded is decoded again before: a codec
// that cannot read what it wrote must not cost the session that is there, and
// this process then loads what all the others do.
func (s *Store) write(f *folder, key string, next *walletauth.Session, previous fs.FileInfo) error {
	data, err := s.format(key, next)
	if err != nil {
		return err
	}
	if len(data) > maxFile {
		return tooLarge(f.file(fileName(key)), len(data))
	}
	stored, err := s.parse(key, data)
	if err != nil {
		return fmt.Errorf("filestore: the codec cannot read what it wrote, so nothing was stored: %w", err)
	}
	file, err := f.replace(fileName(key), tempName(key), data, previous)
	if err != nil {
		return err
	}
	s.cache.put(key, cached{file, stored})
	return nil
}

func (s *Store) delete(f *folder, key string) error {
	s.cache.forget(key)
	if err := f.remove(fileName(key)); err != nil {
		return err
	}
	return f.sync()
}

func (s *Store) codec() walletauth.Codec {
	if s.Codec == nil {
		return walletauth.JSONCodec{}
	}
	return s.Codec
}

func (s *Store) dir() (string, error) {
	s.resolve.Do(func() { s.path, s.pathErr = resolveDir(s.Dir, s.App) })
	return s.path, s.pathErr
}

func (s *Store) makeFolder() (*folder, error) {
	dir, err := s.dir()
	if err != nil {
		return nil, err
	}
	return makeFolder(dir, s.AllowNetworkFS)
}

func fileName(key string) string { return hash(key) + ".session" }
func lockName(key string) string { return hash(key) + ".lock" }
func tempName(key string) string { return hash(key) + ".tmp" }

// hash makes a file name of any key: of one length, without the dots, slashes,
// case and reserved words that file systems differ in.
func hash(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:])
}
