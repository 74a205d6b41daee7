//go:build linux

package main_test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The tests run the program as its users do: built, with a home of its own,
// against its own stand-in. What they need is Linux's: a shell and its tools, /proc,
// signals and a D-Bus session. What is tested without is in session_internal_test.go
// and internal/proxy.

var binary string // built by TestMain

// TestMain lets more tests run at once than there are processors: most of the
// time they wait, for tokens to expire and for networks to fail.
func TestMain(m *testing.M) {
	if err := flag.Set("test.parallel", "8"); err != nil { // -parallel overrides it
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "walletauth")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binary = filepath.Join(dir, "walletauth")
	// Without the race detector, which makes each start a matter of seconds on
	// a busy machine: what is concurrent is the proxy, whose own tests have it.
	build := exec.Command("go", "build", "-o", binary, ".")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "the program does not build:", err)
		return 1
	}
	if err := os.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}
