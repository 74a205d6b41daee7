package filestore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/walletauth/walletauth"
)

// Every error names the path at fault and ends in what to do about it.

// refused is an error about what was found at path.
func refused(path, what, mend string) error {
	return fmt.Errorf("filestore: %s: %s: %s", path, what, mend)
}

// unreadableError is an error that is walletauth.ErrUnreadable too.
type unreadableError struct{ error }

func (e unreadableError) Is(target error) bool { return target == walletauth.ErrUnreadable }

func (e unreadableError) Unwrap() error { return e.error }

// unreadable is an error about the content of a session file.
func unreadable(path string, err error) error {
	return unreadableError{fmt.Errorf("filestore: %s: %w: log in again, which replaces the file, or restore it", path, withoutPrefix{err})}
}

// withoutPrefix is an error whose text does not name the package once more.
type withoutPrefix struct{ error }

func (e withoutPrefix) Error() string { return strings.TrimPrefix(e.error.Error(), "walletauth: ") }

func (e withoutPrefix) Unwrap() error { return e.error }

func tooLarge(path string, size int) error {
	return fmt.Errorf("filestore: %s: the session takes %d bytes, and more than %d could not be read back: nothing was stored; shorten what makes it so large", path, size, maxFile)
}

func noFolder() error {
	return errors.New("filestore: neither Store.App nor Store.Dir is set: set App to the name of your program, so that no other program shares its sessions, or Dir to a folder")
}

func notAnApp(app string) error {
	return fmt.Errorf("filestore: Store.App is %q and must be a name or a path with slashes inside the user's configuration folder: use letters, digits, dots, dashes and underscores, \"my-tool\" or \"my-tool/sessions\" for example", app)
}

// failed is an error of the system, the path in it replaced by the whole one.
// access is the command that helps if it was a matter of permission.
func failed(doing, path string, err error, access string) error {
	var onPath *fs.PathError
	var onLink *os.LinkError
	if errors.As(err, &onPath) {
		err = onPath.Err
	} else if errors.As(err, &onLink) {
		err = onLink.Err
	}
	return fmt.Errorf("filestore: %s %s: %w: %s", doing, path, err, advice(err, access))
}

func noDefault(err error) error {
	return fmt.Errorf("filestore: there is no configuration folder: %w: set Store.Dir", err)
}

func advice(err error, access string) string {
	switch {
	case isDiskFull(err):
		return "free some space; the session that was stored is as it was"
	case isReadOnly(err):
		return "make the file system writable, or set Store.Dir to a folder on one that is"
	case errors.Is(err, fs.ErrPermission):
		return "let this user in: " + access
	case errors.Is(err, fs.ErrNotExist):
		return "the folder was removed meanwhile; try again if that was meant"
	}
	return "see that the disk is healthy and its file system supports locks, or set Store.Dir to a folder where both holds"
}

func checkIsFolder(path string, info fs.FileInfo) error {
	if info.Mode()&fs.ModeSymlink != 0 {
		return refused(path, "it is a symbolic link, which others may turn elsewhere", "set Store.Dir to the folder itself, or remove the link: "+removal(path))
	}
	if !info.IsDir() {
		return refused(path, "it is not a folder", "move it away, or set Store.Dir to a folder")
	}
	return nil
}

// checkSession is checkFile for a file whose place a login may take.
func checkSession(path string, info fs.FileInfo) error {
	if err := checkFile(path, info); err != nil {
		return unreadableError{err}
	}
	return nil
}

func checkFile(path string, info fs.FileInfo) error {
	if info.Mode()&fs.ModeSymlink != 0 {
		return refused(path, "it is a symbolic link, which others may turn elsewhere", "remove the link: "+removal(path))
	}
	if !info.Mode().IsRegular() {
		return refused(path, "it is not a regular file", "move it away")
	}
	return checkPrivate(path, info, 0o600)
}

// checkPrivate refuses what others own or may open. It is an error and not
// mended in silence: others may have read the tokens already, and only the
// user can tell.
func checkPrivate(path string, info fs.FileInfo, mode fs.FileMode) error {
	if !mine(info) {
		return refused(path, "it belongs to another user", own(path))
	}
	if exposed(info) {
		return refused(path, fmt.Sprintf("other users may open it (mode %04o)", info.Mode().Perm()),
			fmt.Sprintf("run %s, and log in again if one may have", grant(path, mode)))
	}
	return nil
}

func checkLocal(path string, allowNetwork bool) error {
	if allowNetwork {
		return nil
	}
	kind, err := networkFS(path)
	if err != nil {
		return failed("examine", path, err, grant(path, 0o700))
	}
	if kind == "" {
		return nil
	}
	return refuseNetwork(path, kind)
}

func refuseNetwork(path, kind string) error {
	return refused(path, "it is on a network file system ("+kind+"), where locks may not exclude other machines and may be lost unnoticed, which costs the session",
		"set Store.Dir to a local folder, or Store.AllowNetworkFS if no other machine uses this one")
}
