//go:build linux

// Package model_test runs the exhaustive checker spin on refresh.pml, the
// protocol by which processes that share a session take turns to refresh it, and
// on freshness.pml, the rule by which they use their copies of it.
package model_test

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/walletauth/walletauth/internal/remote/remotetest"
)

func TestProtocolHolds(t *testing.T) {
	for _, size := range []string{
		"-DN=2 -DROUNDS=2 -DLAPSES=1",
		"-DN=2 -DROUNDS=2 -DLAPSES=2 -DCRASHES=0 -DMISSES=0",
		"-DN=3 -DROUNDS=1 -DLAPSES=2 -DCRASHES=0 -DMISSES=0",
		"-DN=2 -DROUNDS=2 -DLAPSES=2 -DCRASHES=0 -DMISSES=0 -DFORGIVING",
		"-DN=2 -DROUNDS=2 -DLAPSES=1 -DCRASHES=0 -DMISSES=0 -DFLUSHES=1",
		"-DN=2 -DROUNDS=2 -DLAPSES=1 -DCRASHES=0 -DMISSES=0 -DFAILOVERS=1",
	} {
		t.Run(size, func(t *testing.T) {
			states, errors := check(t, "refresh.pml", size)
			if errors != "0" {
				t.Errorf("%s errors in %s states", errors, states)
			}
			t.Logf("%s states", states)
		})
	}
}

// TestEachPieceIsNeeded takes a piece out of the protocol at a time, and
// expects the checker to find what goes wrong then.
func TestEachPieceIsNeeded(t *testing.T) {
	for options, piece := range map[string]string{
		"-DNOCOMPARE":               "a save compares with what its holder saw: a fence alone undoes a late login",
		"-DCOMPAREONLY -DFORGIVING": "and a later state of the same login replaces what was stored between",
		"-DONLYMINE":                "a save is taken though the lease has lapsed",
		"-DNOTOMBSTONE":             "a logout leaves its stamp behind",
		"-DNOFORGET -DFLUSHES=1":    "what the store has forgotten is no logout for who is refreshing",
		"-DNOKEEP -DFAILOVERS=1":    "who holds the later state goes on from that",
		"-DNOLEASE":                 "one process at a time has the lease",
		"-DNOREREAD":                "the session is looked at again under the lease",
		"-DNORECHECK":               "nothing is sent by a holder who knows that its lease has ended",
	} {
		name, _, _ := strings.Cut(strings.TrimPrefix(options, "-D"), " ")
		t.Run(name, func(t *testing.T) {
			if states, errors := check(t, "refresh.pml", options); errors == "0" {
				t.Errorf("in %s states nothing goes wrong without this: %s", states, piece)
			}
		})
	}
}

// TestFreshness checks when a copy may serve without a look at the server, and
// that each piece of the rule is needed.
func TestFreshness(t *testing.T) {
	changes := "5"
	if testing.Short() {
		changes = "4" // the search then takes a tenth of the time
	}
	for options, wantErrors := range map[string]bool{
		"-DCHANGES=" + changes:    false,
		"-DCHANGES=4 -DNOHEARD":   true, // an answer that is older than a message is stale
		"-DCHANGES=4 -DANYANSWER": true, // an answer from before a change may be older than the copy
	} {
		t.Run(options, func(t *testing.T) {
			states, errors := check(t, "freshness.pml", options)
			if found := errors != "0"; found != wantErrors {
				t.Errorf("%s errors in %s states, want errors: %v", errors, states, wantErrors)
			}
		})
	}
}

// tools finds what builds and runs a model, or installs it, once for all tests.
var tools = sync.OnceValue(func() error {
	for program, debianPackage := range map[string]string{"spin": "spin", "cc": "gcc"} {
		if _, err := remotetest.Find(program, debianPackage); err != nil {
			return err
		}
	}
	return nil
})

var result = regexp.MustCompile(`errors: (\d+)\n\s*(\d+) states, stored`)

// check builds the checker for a model with the options and runs it.
func check(t *testing.T, file, options string) (states, errors string) {
	t.Helper()
	t.Parallel()
	model, err := filepath.Abs(file)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	remotetest.Require(t, tools())
	run(t, dir, "spin", append(append([]string{"-a"}, strings.Fields(options)...), model)...)
	run(t, dir, "cc", "-w", "-O1", "-DSAFETY", "-DCOLLAPSE", "-o", "pan", "pan.c")
	output := run(t, dir, "./pan", "-m100000")
	found := result.FindStringSubmatch(output)
	if found == nil || strings.Contains(output, "max search depth too small") {
		t.Fatalf("the checker did not finish:\n%s", output)
	}
	return found[2], found[1]
}

func run(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out)
}
