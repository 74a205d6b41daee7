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
)

// maxCached bounds the sessions kept in memory, at about 2 KiB each. More keys
// than that work as well, only that a Load may have to read its file.
const maxCached = 1024

// Store is a [walletauth.TokenStore] in files. The zero value is ready to use.
// Fields are not changed after first use. A Store is safe for concurrent use,
// as are any number of Stores, in any number of processes, over one folder. It
// must not be copied after first use.
type Store struct {
	// Dir is the folder of the sessions. It is made with mode 0700 if it is
	// missing. One that exists must be a folder of this user that others
	// cannot open, and no symbolic link; an empty one is made so. A relative
	// path is resolved once, at first use. Default: the folder walletauth in
	// os.UserConfigDir.
	Dir string

	// Codec writes a session down. Default: walletauth.JSONCodec, which
	// writes the tokens in clear.
	Codec walletauth.Codec

	// AllowNetworkFS permits a Dir on a network file system (NFS, SMB, 9P,
	// FUSE and the like), which is refused otherwise: locks there may be
	// local to each machine, or be lost while they are held without anybody
	// being told, and two processes that refresh at once cost the user the
	// session. Set it where one machine alone uses the folder. Sessions of
	// several machines belong into Redis or PostgreSQL.
	AllowNetworkFS bool

	// updates lets one Update of each key through to the lock file, so that a
	// process polls it only once. It stays empty: a MemoryStore excludes the
	// Updates of a key from each other, and that is all it is for.
	updates walletauth.MemoryStore

	resolve    sync.Once // guards path and pathErr
	path       string
	pathErr    error
	cacheMutex sync.RWMutex // guards cache
	cache      map[string]cached
}

var _ walletauth.TokenStore = (*Store)(nil)

// cached is a session and the file it was read from.
type cached struct {
	file    fs.FileInfo
	session *walletauth.Session
}

// Load returns the session of key, which is shared. It costs one stat while the
// file is as it was, waits for nobody and ignores ctx.
//
// The errors: one wrapping [walletauth.ErrNoSession] if there is no session;
// else what is wrong with the folder or the file, naming it and saying how to
// mend it, and wrapping the system's error if there is one.
func (s *Store) Load(_ context.Context, key string) (*walletauth.Session, error) {
	dir, err := s.dir()
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, fileName(key))
	file, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		s.remember(key, cached{})
		return nil, fmt.Errorf("filestore: %s: %w", path, walletauth.ErrNoSession)
	}
	if session := s.recall(key, file); session != nil {
		return session, nil
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
// is tried to be stored, but it should spend no refresh token. What fn returns
// is stored even if ctx has ended by then.
//
// The errors: that of fn; that of ctx, if it ended while waiting for another
// Update of key; that the session cannot be encoded; else what is wrong with
// the folder or the file, as for Load. With any of them the stored session
// stays, except that after a failed sync of the folder the new one is in place
// and may not survive a power failure.
func (s *Store) Update(ctx context.Context, key string, fn func(context.Context, *walletauth.Session) (*walletauth.Session, error)) error {
	return s.updates.Update(ctx, key, func(ctx context.Context, _ *walletauth.Session) (*walletauth.Session, error) {
		return nil, s.update(ctx, key, fn)
	})
}

func (s *Store) update(ctx context.Context, key string, fn func(context.Context, *walletauth.Session) (*walletauth.Session, error)) (err error) {
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
		s.remember(key, cached{})
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
	s.remember(key, c)
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
	stored, err := s.parse(key, data)
	if err != nil {
		return fmt.Errorf("filestore: the codec cannot read what it wrote, so nothing was stored: %w", err)
	}
	file, err := f.replace(fileName(key), tempName(key), data, previous)
	if err != nil {
		return err
	}
	s.remember(key, cached{file, stored})
	return nil
}

func (s *Store) delete(f *folder, key string) error {
	s.remember(key, cached{})
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
	s.resolve.Do(func() { s.path, s.pathErr = resolveDir(s.Dir) })
	return s.path, s.pathErr
}

func (s *Store) makeFolder() (*folder, error) {
	dir, err := s.dir()
	if err != nil {
		return nil, err
	}
	return makeFolder(dir, s.AllowNetworkFS)
}

// recall returns the session of key if file is the one it was read from. That
// no other session ever has the same identity is folder.stamp's doing. The
// mode is compared so that a file opened to others is noticed at once.
func (s *Store) recall(key string, file fs.FileInfo) *walletauth.Session {
	if file == nil {
		return nil
	}
	s.cacheMutex.RLock()
	c, ok := s.cache[key]
	s.cacheMutex.RUnlock()
	if ok && file.ModTime().Equal(c.file.ModTime()) && file.Size() == c.file.Size() &&
		file.Mode() == c.file.Mode() && os.SameFile(file, c.file) {
		return c.session
	}
	return nil
}

// remember keeps c for key, or forgets key if c is empty. Which session makes
// room for a new one is left to chance: it is as good as any order for users
// in turn, and keeps no books.
func (s *Store) remember(key string, c cached) {
	s.cacheMutex.Lock()
	defer s.cacheMutex.Unlock()
	delete(s.cache, key)
	if c.session == nil {
		return
	}
	for victim := range s.cache {
		if len(s.cache) < maxCached {
			break
		}
		delete(s.cache, victim)
	}
	if s.cache == nil {
		s.cache = make(map[string]cached)
	}
	s.cache[key] = c
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
