//go:build linux

// Package remotetest tests the stores that are built on package remote against
// real servers, from many processes. It is for Linux: it installs servers by
// apt, lets them die with the test that started them, and stops processes.
package remotetest

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/walletauth/walletauth/internal/need"
)

// Find returns the path of a program that is on the PATH or in one of the
// places, which may be patterns. If there is none, and this is Debian and the
// user root, it installs the package first. Hand the error to [Require].
func Find(program, debianPackage string, places ...string) (string, error) {
	if path, ok := lookUp(program, places); ok {
		return path, nil
	}
	missing := &missingError{program: program, debianPackage: debianPackage}
	if !canInstall() {
		return "", missing
	}
	for _, args := range [][]string{{"update"}, {"install", "-y", "--no-install-recommends", debianPackage}} {
		cmd := exec.Command("apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			missing.cause = fmt.Sprintf(", and apt-get %s failed: %v\n%s", strings.Join(args, " "), err, out)
			return "", missing
		}
	}
	path, ok := lookUp(program, places)
	if !ok {
		return "", fmt.Errorf("%s is missing although %s is installed", program, debianPackage)
	}
	return path, nil
}

func canInstall() bool {
	_, err := exec.LookPath("apt-get")
	return err == nil && os.Geteuid() == 0
}

// missingError is a program that a test needs and cannot have.
type missingError struct{ program, debianPackage, cause string }

func (e *missingError) Error() string { return "there is no " + e.program + e.cause }

// Require ends the test unless err is nil. If a program is missing it says how to
// get it, and the test is skipped, or fails where CI is set.
func Require(t testing.TB, err error) {
	t.Helper()
	if err == nil {
		return
	}
	if missing, ok := errors.AsType[*missingError](err); ok {
		need.Skip(t, missing, "install "+missing.debianPackage+", or run the tests as root on Debian, where they do")
	}
	t.Fatal(err)
}

// ExamplesNeed leaves the examples out where a program is missing that they start
// and nobody relies on the result: an example cannot be skipped. Call it from
// TestMain.
func ExamplesNeed(program string, places ...string) {
	if _, ok := lookUp(program, places); ok || canInstall() || os.Getenv("CI") != "" {
		return
	}
	fmt.Printf("there is no %s: the examples are left out\n", program)
	_ = flag.Set("test.skip", "^Example") // it is defined in every test
}

func lookUp(program string, places []string) (path string, ok bool) {
	for _, place := range places {
		if found, _ := filepath.Glob(filepath.Join(place, program)); len(found) > 0 {
			return found[len(found)-1], true
		}
	}
	path, err := exec.LookPath(program)
	return path, err == nil
}

// Service is a server that a test started.
type Service struct {
	cmd    *exec.Cmd
	output *bytes.Buffer
	ended  chan struct{}
}

// StartService starts a server, as the user with this id if it is not 0, and
// returns when ready reports no error. The server dies with this process.
func StartService(uid uint32, ready func() error, program string, args ...string) (*Service, error) {
	s := &Service{cmd: exec.Command(program, args...), output: new(bytes.Buffer), ended: make(chan struct{})}
	s.cmd.Stdout, s.cmd.Stderr = s.output, s.output
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if uid != 0 {
		s.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uid, Gid: uid}
	}
	if err := s.start(); err != nil {
		return nil, err
	}
	if err := s.await(ready); err != nil {
		s.Stop(syscall.SIGKILL)
		return nil, fmt.Errorf("%s: %w\n%s", program, err, s.output)
	}
	return s, nil
}

// start runs the server from a thread that lives as long as it: Linux sends
// the Pdeathsig when the thread ends that started the process.
func (s *Service) start() error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer close(s.ended)
		err := s.cmd.Start()
		started <- err
		if err == nil {
			_ = s.cmd.Wait() // how it ended is in its output
		}
	}()
	return <-started
}

var errEnded = errors.New("the server ended")

func (s *Service) await(ready func() error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for {
		err := ready()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-s.ended:
			return errEnded
		case <-deadline:
			return err
		}
	}
}

// Stop signals the server and waits for its end.
func (s *Service) Stop(signal syscall.Signal) {
	_ = s.cmd.Process.Signal(signal) // it may have ended
	<-s.ended
}

var folders struct {
	sync.Mutex
	paths []string
}

// Folder makes a temporary folder with a path short enough for a socket,
// which t.TempDir's is not. It is removed at the end of Main.
func Folder() (string, error) {
	path, err := os.MkdirTemp("", "walletauth")
	folders.Lock()
	defer folders.Unlock()
	folders.paths = append(folders.paths, path)
	return path, err
}

func removeFolders() {
	folders.Lock()
	defer folders.Unlock()
	for _, path := range folders.paths {
		_ = os.RemoveAll(path) // it is in the temporary folder
	}
}
