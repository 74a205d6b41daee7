//go:build linux

package chaos_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/walletauth/walletauth/internal/need"
	"github.com/walletauth/walletauth/internal/remote/remotetest"
)

const howToMount = "run as root, or where unprivileged user namespaces are allowed (on Ubuntu: sysctl kernel.apparmor_restrict_unprivileged_userns=0), and not in a container without CAP_SYS_ADMIN"

// disk is a small file system of its own.
type disk struct{ path string }

func newDisk(t *testing.T, size string) *disk {
	t.Helper()
	if noNamespace != nil {
		need.Skip(t, fmt.Errorf("no mount namespace for small disks: %w", noNamespace), howToMount)
	}
	path, err := remotetest.Folder()
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("none", path, "tmpfs", 0, "mode=0700,size="+size); err != nil {
		need.Skip(t, fmt.Errorf("no small disk can be mounted: %w", err), howToMount)
	}
	t.Cleanup(func() { _ = syscall.Unmount(path, syscall.MNT_DETACH) }) // it ends with the namespace anyway
	return &disk{path}
}

// full keeps the disk full for some time, and until filled has returned, which
// is called when it is.
func (d *disk) full(forTime time.Duration, filled func()) error {
	ctx, free := context.WithCancel(context.Background())
	defer free()
	return d.fill(ctx, func() {
		defer free()
		enough := time.After(forTime)
		filled()
		<-enough
	})
}

// fill fills the disk and takes what is freed until ctx ends.
func (d *disk) fill(ctx context.Context, filled func()) error {
	path := filepath.Join(d.path, "filler")
	filler, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(path)
	defer filler.Close()
	zeros := make([]byte, 1<<20)
	for first := true; ; first = false {
		for err = nil; err == nil; {
			_, err = filler.Write(zeros)
		}
		if !errors.Is(err, syscall.ENOSPC) {
			return err
		}
		if first {
			go filled()
		}
		if !pause(ctx, 5*time.Millisecond) {
			return nil
		}
	}
}
