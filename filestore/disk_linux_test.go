package filestore_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/walletauth/walletauth"
)

func init() {
	workers["full disk"] = fullDiskWorker
	workers["read-only disk"] = readOnlyWorker
}

// startOnDisk runs a worker whose folder is a file system of its own, 64 KiB
// large, that nobody else sees and that ends with it. To mount it takes an
// administrator, which an ordinary user is in a user namespace.
func startOnDisk(t *testing.T, name string) *process {
	t.Helper()
	dir := private(t)
	cmd := exec.Command(os.Args[0], dir)
	cmd.Env = workerEnviron(name)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	return startCommand(t, cmd)
}

func mountSmallDisk(dir string) error {
	if err := syscall.Mount("", "/", "", syscall.MS_PRIVATE|syscall.MS_REC, ""); err != nil {
		return err
	}
	return syscall.Mount("none", dir, "tmpfs", 0, "size=64k,mode=0700")
}

// fullDiskWorker says what an Update on a full disk does, and after it.
func fullDiskWorker(w *workerSide) error {
	if err := mountSmallDisk(w.dir); err != nil {
		return err
	}
	st := w.store()
	if err := st.Update(w.context(), "k", put(1)); err != nil {
		return err
	}
	filler := filepath.Join(w.dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 1<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("the disk does not fill up: %v", err)
	}
	err := st.Update(w.context(), "k", put(2))
	fmt.Println(errors.Is(err, syscall.ENOSPC), strings.ReplaceAll(fmt.Sprint(err), w.dir, "DIR"))
	for _, reader := range []walletauth.TokenStore{st, w.store()} {
		s, err := reader.Load(w.context(), "k")
		fmt.Println(s != nil && *s == *session(1), err)
	}
	left, err := filepath.Glob(filepath.Join(w.dir, "*.tmp"))
	fmt.Println(len(left), err)
	if err := os.Remove(filler); err != nil {
		return err
	}
	fmt.Println(st.Update(w.context(), "k", put(3)))
	return nil
}

func TestFullDiskKeepsTheOldSession(t *testing.T) {
	temp := strings.TrimSuffix(filepath.Base(hashed(t, "k")), ".session") + ".tmp"
	w := startOnDisk(t, "full disk")
	w.expect("true filestore: write DIR/" + temp + ": no space left on device: free some space; the session that was stored is as it was")
	w.expect("true <nil>")
	w.expect("true <nil>")
	w.expect("0 <nil>")
	w.expect("<nil>")
	must(t, w.wait())
}

// readOnlyWorker says what a disk does that became read-only.
func readOnlyWorker(w *workerSide) error {
	if err := mountSmallDisk(w.dir); err != nil {
		return err
	}
	if err := w.store().Update(w.context(), "k", put(1)); err != nil {
		return err
	}
	if err := syscall.Mount("none", w.dir, "tmpfs", syscall.MS_REMOUNT|syscall.MS_RDONLY, "size=64k,mode=0700"); err != nil {
		return err
	}
	st := w.store()
	for _, key := range []string{"k", "new"} {
		err := st.Update(w.context(), key, put(2))
		fmt.Println(errors.Is(err, syscall.EROFS), strings.ReplaceAll(fmt.Sprint(err), w.dir, "DIR"))
	}
	s, err := st.Load(w.context(), "k")
	fmt.Println(s != nil && *s == *session(1), err)
	return nil
}

func TestReadOnlyDiskCanStillBeRead(t *testing.T) {
	w := startOnDisk(t, "read-only disk")
	for _, key := range []string{"k", "new"} {
		lock := strings.TrimSuffix(filepath.Base(hashed(t, key)), ".session") + ".lock"
		w.expect("true filestore: lock DIR/" + lock + ": read-only file system: make the file system writable, or set Store.Dir to a folder on one that is")
	}
	w.expect("true <nil>")
	must(t, w.wait())
}
