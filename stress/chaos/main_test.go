//go:build linux

package chaos_test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/walletauth/walletauth/internal/remote/remotetest"
)

var (
	lasts = flag.Duration("chaos.for", 15*time.Second, "for how long there are faults, for each store")
	seed  = flag.Uint64("chaos.seed", 0, "of which faults there are and when; 0: another one each time")
)

const insideEnv = "WALLETAUTH_CHAOS_INSIDE"

func TestMain(m *testing.M) {
	if text, ok := os.LookupEnv(orderEnv); ok {
		os.Exit(work(text))
	}
	if os.Getenv(insideEnv) == "" {
		os.Exit(goInside())
	}
	remotetest.Main(m, nil)
}

// goInside runs the tests in a mount namespace of their own: the small disks
// are seen by all that the tests start and by nobody else, and end with it. To
// mount takes an administrator, which an ordinary user is in a user namespace.
func goInside() int {
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
		fmt.Fprintln(os.Stderr, "the tests need a mount namespace:", err)
		return 1
	}
	return cmd.ProcessState.ExitCode()
}
