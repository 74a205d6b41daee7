package filestore_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/internal/need"
)

func init() {
	workers["full disk"] = fullDiskWorker
	workers["read-only disk"] = readOnlyWorker
	workers["room"] = roomWorker
}

// startOnDisk runs a worker whose folder is a file system of its own, 64 KiB
// large, that nobody else sees and that ends with it. To mount it takes an
// administrator, which an ordinary user is in a user namespace. Where it cannot
// be had the test says how to get it, and is skipped, or fails under CI.
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
	w, err := tryStart(t, cmd)
	if err != nil {
		withoutMount(t, err.Error())
	}
	if said, _ := w.line(); said != "mounted" {
		withoutMount(t, said)
	}
	return w
}

// mountSmallDisk says "mounted", or why it cannot. A worker that cannot has
// nothing else to say.
func mountSmallDisk(dir string) {
	err := syscall.Mount("", "/", "", syscall.MS_PRIVATE|syscall.MS_REC, "")
	if err == nil {
		err = syscall.Mount("none", dir, "tmpfs", 0, "size=64k,mode=0700")
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(0)
	}
	fmt.Println("mounted")
}

func withoutMount(t *testing.T, reason string) {
	t.Helper()
	remedy := "run the tests as an administrator, or where users may make namespaces (sysctl kernel.unprivileged_userns_clone=1)"
	if reason == syscall.EINVAL.Error() {
		remedy = "the root of this chroot is no mount point: run mount --bind DIR DIR before chroot DIR, or run the tests outside of it"
	}
	need.Skip(t, fmt.Errorf("no file system of the test's own can be mounted (%s)", reason), remedy)
}

// fullDiskWorker says what an Update on a full disk does, and after it.
func fullDiskWorker(w *workerSide) error {
	mountSmallDisk(w.dir)
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

// roomWorker says what an Update knows of a full disk before it begins, and what
// becomes of one that began before.
func roomWorker(w *workerSide) error {
	mountSmallDisk(w.dir)
	filler := filepath.Join(w.dir, "filler")
	fill := func() error {
		if err := os.WriteFile(filler, make([]byte, 1<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
			return fmt.Errorf("the disk does not fill up: %v", err)
		}
		return nil
	}
	st := w.store()
	for _, n := range []int{1, 2} { // the first time there is no session yet
		fmt.Println(st.Update(w.context(), "k", func(ctx context.Context, _ *walletauth.Session) (*walletauth.Session, error) {
			return session(n), errors.Join(ctx.Err(), fill())
		}))
		if err := os.Remove(filler); err != nil {
			return err
		}
	}
	s, err := st.Load(w.context(), "k")
	fmt.Println(s != nil && *s == *session(2), err)
	if err := fill(); err != nil {
		return err
	}
	fmt.Println(st.Update(w.context(), "k", func(ctx context.Context, s *walletauth.Session) (*walletauth.Session, error) {
		fmt.Println(ctx.Err(), errors.Is(context.Cause(ctx), syscall.ENOSPC))
		return s, nil
	}))
	fmt.Println(walletauth.Delete(w.context(), st, "k"))
	_, err = w.store().Load(w.context(), "k")
	fmt.Println(errors.Is(err, walletauth.ErrNoSession))
	return nil
}

// Otherwise a refresh on a full disk would use a token up that the next process
// finds in the store and sends again, which ends the session.
func TestAnUpdateHasRoomOrKnowsThatThereIsNone(t *testing.T) {
	w := startOnDisk(t, "room")
	for range 2 {
		w.expect("<nil>")
	}
	w.expect("true <nil>")
	w.expect("context canceled true")
	w.expect("<nil>")
	w.expect("<nil>")
	w.expect("true")
	must(t, w.wait())
}

// readOnlyWorker says what a disk does that became read-only.
func readOnlyWorker(w *workerSide) error {
	mountSmallDisk(w.dir)
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
