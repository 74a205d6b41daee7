//go:build unix

package filestore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
)

// mine reports whether this user owns the file. An owner may read it and
// change its mode at will, whatever the mode says now.
func mine(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Geteuid()
}

// exposed reports whether the mode lets in anybody but the owner.
func exposed(info fs.FileInfo) bool { return info.Mode().Perm()&0o077 != 0 }

// syncFolder makes a rename or a removal in it durable. Some network file
// systems know no such thing and say so: an error would have the caller store
// what is stored already, for ever.
func syncFolder(root *os.Root) error {
	d, err := root.Open(".")
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		err = nil
	}
	return firstError(err, d.Close())
}

// retry calls fn once: an open file is in nobody's way on Unix.
func retry(fn func() error) error { return fn() }

func isDiskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// isDenied reports whether the file's own mode keeps this user out.
func isDenied(err error) bool { return errors.Is(err, fs.ErrPermission) }

func isReadOnly(err error) bool { return errors.Is(err, syscall.EROFS) }

func grant(path string, mode fs.FileMode) string {
	return fmt.Sprintf("chmod %o %s", mode, quoted(path))
}

func own(path string) string {
	return fmt.Sprintf("as an administrator, run chown %d %s", os.Geteuid(), quoted(path))
}

func removal(path string) string { return "rm " + quoted(path) }

// quoted is path as a shell takes it.
func quoted(path string) string {
	plain := func(r rune) bool {
		return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("/._-+:,@", r)
	}
	if strings.ContainsFunc(path, func(r rune) bool { return !plain(r) }) {
		return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
	}
	return path
}
