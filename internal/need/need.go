// Package need is for tests that need what not every machine has: a server, a
// keyring, a mount.
package need

import (
	"os"
	"testing"
)

// Skip ends a test that cannot run here, with one line: what is missing, and how
// to get it. Where the environment variable CI is set the test fails instead, so
// that nobody relies on tests that did not run. Scripts count and show the skips.
func Skip(t testing.TB, missing error, how string) {
	t.Helper()
	end := t.Skipf
	if os.Getenv("CI") != "" {
		end = t.Fatalf
	}
	end("%v: %s", missing, how)
}
