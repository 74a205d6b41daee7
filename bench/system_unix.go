//go:build unix

package main

import (
	"errors"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// processorTime is what this process has had of all processors.
func processorTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err) // it has no reason to fail
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// ownedFolder makes a folder for a server that refuses to run as root, and says
// how to run it as the user with this name instead.
func ownedFolder(folder, name string) (*syscall.SysProcAttr, error) {
	if err := os.Mkdir(folder, 0o700); err != nil || os.Geteuid() != 0 {
		return nil, err
	}
	owner, err := user.Lookup(name)
	if err != nil {
		return nil, err
	}
	uid, err := strconv.Atoi(owner.Uid)
	if err != nil {
		return nil, err
	}
	as := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	return as, errors.Join(os.Chown(folder, uid, uid), os.Chmod(filepath.Dir(folder), 0o711))
}
