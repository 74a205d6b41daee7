//go:build darwin || dragonfly || freebsd

package filestore

import (
	"golang.org/x/sys/unix"
)

// networkFS names the network file system that holds path, "" if it is local,
// which these kernels say themselves.
func networkFS(path string) (string, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(path, &stat); err != nil {
		return "", err
	}
	if uint64(stat.Flags)&unix.MNT_LOCAL != 0 {
		return "", nil
	}
	return unix.ByteSliceToString(stat.Fstypename[:]), nil
}
