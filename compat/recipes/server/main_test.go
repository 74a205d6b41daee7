package main

import (
	"os"
	"os/exec"
	"testing"
)

// TestMain lets the tests run the program as a process of its own.
func TestMain(m *testing.M) {
	if os.Getenv("RUN_AS_SERVER") != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// find returns the path of the first of several names of a program. Under CI, where
// the test script has installed it, a missing one fails.
func find(t *testing.T, names ...string) string {
	t.Helper()
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("CI") != "" {
		t.Fatalf("none of %q is installed, which make test does where it may", names)
	}
	t.Skipf("none of %q is installed", names)
	return ""
}
