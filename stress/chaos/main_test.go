//go:build linux

package chaos_test

import (
	"flag"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/walletauth/walletauth/internal/remote/remotetest"
)

var (
	lasts = flag.Duration("chaos.for", 0, "for how long there are faults, for each store, and each fault at least once (default 15 s, 6 s with -short)")
	seed  = flag.Uint64("chaos.seed", 0, "of which faults there are and when; 0: another one each time")
)

const insideEnv = "WALLETAUTH_CHAOS_INSIDE"

// faultTime is for how long there are faults.
func faultTime() time.Duration {
	switch {
	case *lasts != 0:
		return *lasts
	case testing.Short():
		return 6 * time.Second // in which every session is refreshed
	}
	return 15 * time.Second
}

func TestMain(m *testing.M) {
	if text, ok := os.LookupEnv(orderEnv); ok {
		os.Exit(work(text))
	}
	if os.Getenv(insideEnv) == "" {
		if code, err := goInside(); err == nil {
			os.Exit(code)
		} else {
			noNamespace = err
		}
	}
	remotetest.WaitTogether()
	remotetest.Main(m, nil)
}

// goInside runs the tests in a mount namespace of their own: the small disks
// are seen by all that the tests start and by nobody else, and end with it. To
// mount takes an administrator, which an ordinary user is in a user namespace.
// Where there can be none, newDisk says so.
func goInside() (exitCode int, err error) {
	runtime.LockOSThread() // with which Pdeathsig goes
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideEnv+"=yes")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if uid, gid := os.Geteuid(), os.Getegid(); uid != 0 {
		const sysAdmin = 21
		// As who one is, since PostgreSQL refuses root, also one that is none.
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}}
		cmd.SysProcAttr.AmbientCaps = []uintptr{sysAdmin}
	}
	if err := cmd.Run(); cmd.ProcessState == nil {
		return 0, err
	}
	return cmd.ProcessState.ExitCode(), nil
}

var noNamespace error // why there is none
