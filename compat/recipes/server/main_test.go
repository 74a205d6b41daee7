package main

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/walletauth/walletauth/internal/need"
)

// TestMain lets the tests run the program as a process of its own.
func TestMain(m *testing.M) {
	if os.Getenv("RUN_AS_SERVER") != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// find returns the path of the first of several names of a program.
func find(t *testing.T, names ...string) string {
	t.Helper()
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	need.Skip(t, fmt.Errorf("none of %q is installed", names), "make test installs one as root on Debian")
	return ""
}
