package filestore

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// maxFile bounds what is read and written: a session has about 2 KiB.
const maxFile = 1 << 20

// folder is the open folder of the sessions. All files are reached through its
// root, so that none can be led elsewhere once the folder was found fit. It is
// opened for each operation that does more than a stat: that costs two system
// calls, and a folder that was removed or moved aside is not read on.
type folder struct {
	path string
	root *os.Root
}

// resolveDir makes dir, or else the folder of app, an absolute path.
func resolveDir(dir, app string) (string, error) {
	if dir == "" {
		return appDir(app)
	}
	path, err := filepath.Abs(dir)
	if err != nil {
		return "", failed("resolve", dir, err, "set Store.Dir to an absolute path")
	}
	return path, nil
}

// appDir takes names that every system takes, so that a program which works on
// one works on all.
func appDir(app string) (string, error) {
	if app == "" {
		return "", noFolder()
	}
	odd := func(r rune) bool { return r < ' ' || r == 0x7f || strings.ContainsRune(`\:*?"<>|`, r) }
	if app == "." || !fs.ValidPath(app) || strings.ContainsFunc(app, odd) || !filepath.IsLocal(filepath.FromSlash(app)) {
		return "", notAnApp(app)
	}
	config, err := os.UserConfigDir()
	if err != nil {
		return "", noDefault(err)
	}
	return filepath.Join(config, filepath.FromSlash(app)), nil
}

// openFolder opens a folder that is there and private.
func openFolder(path string, allowNetwork bool) (*folder, error) {
	f, err := openRoot(path, allowNetwork)
	if err != nil {
		return nil, err
	}
	if err := f.checkPrivate(); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

// makeFolder is openFolder for who will write: a missing folder is made and an
// empty one made private.
func makeFolder(path string, allowNetwork bool) (*folder, error) {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		if err := mkdir(path); err != nil {
			return nil, failed("make", path, err, grant(filepath.Dir(path), 0o700))
		}
	}
	f, err := openRoot(path, allowNetwork)
	if err != nil {
		return nil, err
	}
	if err := f.makePrivate(); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

func mkdir(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	return os.Chmod(path, 0o700) // the umask may have taken from it
}

// openRoot opens path itself, not what it may link to.
func openRoot(path string, allowNetwork bool) (*folder, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, failed("open", path, err, grant(path, 0o700))
	}
	if err := checkIsFolder(path, info); err != nil {
		return nil, err
	}
	if err := checkLocal(path, allowNetwork); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, failed("open", path, err, grant(path, 0o700))
	}
	return &folder{path: path, root: root}, nil
}

func (f *folder) close() { _ = f.root.Close() } // it was only read

func (f *folder) file(name string) string { return filepath.Join(f.path, name) }

func (f *folder) checkPrivate() error {
	info, err := f.root.Stat(".")
	if err != nil {
		return failed("open", f.path, err, grant(f.path, 0o700))
	}
	return checkPrivate(f.path, info, 0o700)
}

// makePrivate takes others' access to a folder away if it is empty: nobody can
// have read anything then, and no other program can depend on it. A folder
// with something in it may be the user's home, or may have leaked already, and
// is refused. One with the sticky bit is meant for all, even while empty.
func (f *folder) makePrivate() error {
	refusal := f.checkPrivate()
	if refusal == nil {
		return nil
	}
	info, err := f.root.Stat(".")
	if err != nil || !mine(info) || info.Mode()&fs.ModeSticky != 0 {
		return refusal
	}
	if f.isEmpty() {
		if err := f.root.Chmod(".", 0o700); err != nil {
			return failed("chmod", f.path, err, grant(f.path, 0o700))
		}
	}
	return f.checkPrivate() // again: another process may have done it just now
}

func (f *folder) isEmpty() bool {
	d, err := f.root.Open(".")
	if err != nil {
		return false
	}
	defer func() { _ = d.Close() }()
	_, err = d.ReadDir(1)
	return errors.Is(err, io.EOF)
}

// read returns a session file's content and identity. The error is
// fs.ErrNotExist if there is none. A file that is refused counts as unreadable:
// a login may replace it, since the new file is this user's alone.
func (f *folder) read(name string) (data []byte, info fs.FileInfo, err error) {
	// A root follows links that stay inside it, hence the look before.
	if err := f.check(name, checkSession); err != nil {
		return nil, nil, err
	}
	err = retry(func() error {
		data, info, err = f.readOnce(name)
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fs.ErrNotExist
	}
	if err != nil {
		denied := isDenied(err)
		if err = failed("read", f.file(name), err, grant(f.file(name), 0o600)); denied {
			err = unreadableError{err}
		}
		return nil, nil, err
	}
	if len(data) > maxFile {
		return nil, nil, unreadable(f.file(name), errors.New("it is larger than any session"))
	}
	return data, info, checkSession(f.file(name), info)
}

// readOnce reads through one open file: should it be replaced meanwhile, then
// content and identity are still those of one and the same session.
func (f *folder) readOnce(name string) ([]byte, fs.FileInfo, error) {
	file, err := f.root.Open(name)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return nil, nil, err
	}
	data, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	return data, info, err
}

// check says whether name may be opened. The error is fs.ErrNotExist if there
// is nothing.
func (f *folder) check(name string, checkFile func(path string, info fs.FileInfo) error) error {
	info, err := f.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return fs.ErrNotExist
	}
	if err != nil {
		return failed("read", f.file(name), err, grant(f.file(name), 0o600))
	}
	return checkFile(f.file(name), info)
}

// replace puts data in the place of name, whole or not at all, and returns the
// new file's identity.
//
// The temporary file has a fixed name: the lock on the key admits one writer,
// and what a crashed one left is found without a search. Its data is synced
// before the rename, since a file system may carry out the rename first and a
// power failure would then leave an empty file. The folder is synced after it,
// since a lost rename is a logout: the old refresh token has been used.
func (f *folder) replace(name, temp string, data []byte, previous fs.FileInfo) (fs.FileInfo, error) {
	if err := f.fill(temp, data); err != nil {
		_ = f.root.Remove(temp)
		return nil, failed("write", f.file(temp), err, grant(f.path, 0o700))
	}
	info, err := f.stamp(temp, previous)
	if err == nil {
		err = retry(func() error { return f.root.Rename(temp, name) })
	}
	if err != nil {
		_ = f.root.Remove(temp)
		return nil, failed("replace", f.file(name), err, grant(f.path, 0o700))
	}
	return info, f.sync()
}

func (f *folder) fill(temp string, data []byte) error {
	file, err := f.openTemp(temp)
	if err != nil {
		return err
	}
	if _, err = file.Write(data); err == nil {
		err = file.Truncate(int64(len(data))) // of what was reserved
	}
	if err == nil {
		err = file.Sync()
	}
	return firstError(err, file.Close())
}

// openTemp opens the temporary file, and makes it if nothing could be reserved.
// Whatever another writer left under its name was removed before.
func (f *folder) openTemp(temp string) (file *os.File, err error) {
	err = retry(func() (err error) {
		file, err = f.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE, 0o600)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := file.Chmod(0o600); err != nil { // the umask may have taken from it
		return nil, firstError(err, file.Close())
	}
	return file, nil
}

// reserve fills the temporary file with zeros, so that there is room for what
// comes in the place of previous: twice its size, and no less than most disks
// give out at once.
//
// A refresh exchanges a token for one that must be stored, and on a full disk it
// cannot be: this process could use it on from memory, but the next one would
// find the used token, send it again, and end the session. So that there is
// room has to be known before. Where a file system writes in another place what
// it overwrites (btrfs, ZFS, APFS) this is nearly so: it was there a moment ago.
func (f *folder) reserve(temp string, previous fs.FileInfo) error {
	size := int64(4 << 10)
	if previous != nil {
		size = max(size, 2*previous.Size())
	}
	file, err := f.openTemp(temp)
	if err == nil {
		_, err = file.Write(make([]byte, size))
		err = firstError(err, file.Close())
	}
	if err != nil {
		_ = f.root.Remove(temp)
		return failed("write", f.file(temp), err, grant(f.path, 0o700))
	}
	return nil
}

// stamp sets a modification time later than the session before has, and
// returns the file's identity.
//
// Load tells sessions apart by inode, time and size. None of these suffices as
// the file system gives them: an inode is given out again right after the
// rename freed it, two sessions mostly have one size, and the kernel's time
// stands still for some milliseconds. A time of our own that only grows does,
// and it can, because writers of one key exclude each other. It comes from the
// precise clock, by microseconds, which common file systems keep; if this one
// did not, then by two seconds, which all do. After a deletion there is nothing
// to be later than: there the clock alone has to have moved on.
//
// It is set after the file was closed, since Windows sets it upon close.
func (f *folder) stamp(temp string, previous fs.FileInfo) (info fs.FileInfo, err error) {
	at := time.Now()
	for _, step := range []time.Duration{time.Microsecond, 2 * time.Second} {
		if previous != nil && !at.After(previous.ModTime().Add(step)) {
			at = previous.ModTime().Add(step)
		}
		if err = f.root.Chtimes(temp, at, at); err != nil {
			return nil, err
		}
		if info, err = f.root.Lstat(temp); err != nil {
			return nil, err
		}
		if previous == nil || info.ModTime().After(previous.ModTime()) {
			break
		}
	}
	return info, nil
}

// remove removes a file. A missing file is not an error.
func (f *folder) remove(name string) error {
	err := retry(func() error { return f.root.Remove(name) })
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return failed("remove", f.file(name), err, grant(f.path, 0o700))
	}
	return nil
}

func (f *folder) sync() error {
	if err := syncFolder(f.root); err != nil {
		return failed("sync", f.path, err, grant(f.path, 0o700))
	}
	return nil
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
