package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/walletauth/walletauth/walletauthtest"
)

// TestMain lets the replicas of a test be this binary, as they are the program
// itself otherwise.
func TestMain(m *testing.M) {
	if os.Getenv(replicaEnv) != "" {
		os.Exit(serve(os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// start runs the program and returns what it printed.
func start(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	status = run(t.Context(), args, &out, &errs)
	t.Logf("%s%s", &out, &errs)
	return status, out.String(), errs.String()
}

// wellDone checks a run with 5 users.
func wellDone(t *testing.T, status int, stdout, stderr string) {
	t.Helper()
	if status != 0 || stderr != "" {
		t.Errorf("status %d, stderr %q", status, stderr)
	}
	for _, want := range []string{
		`replica 2 is killed`,
		`\d+ requests, 0 failed, \d+ refreshes  \|  1 up  2 down  3 up\n`,
		`replica 2 starts again`,
		`\d+ requests, 0 failed, \d+ refreshes  \|  1 up  2 up  3 up\n(?s:.*)replica  lives`,
		`\n1 +1 +[1-9]\d+ +0 `,
		`\n2 +2 +[1-9]\d+ +0 `,
		`\n3 +1 +[1-9]\d+ +0 `,
		`\nall +4 +[1-9]\d+ +0 `,
		`\n  1: +[1-9]    2: +[1-9]    3: +[1-9]    4: +[1-9]    5: +[1-9]\n`, // by the program's own count, which it checks
		`\nrefresh tokens sent twice +0\n`,
		`\nsessions lost +0\n`,
	} {
		if !regexp.MustCompile(want).MatchString(stdout) {
			t.Errorf("stdout has nothing like %q", want)
		}
	}
}

func TestAKillCostsNoRequestAndNoRefresh(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	t.Setenv("TMP", dir) // on Windows
	status, stdout, stderr := start(t, "-for", "5s", "-users", "5")
	wellDone(t, status, stdout, stderr)
	if left, _ := filepath.Glob(filepath.Join(os.TempDir(), "walletauth-fleet-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestCtrlCEndsInOrder ends the context that a Ctrl-C ends, once requests are sent.
func TestCtrlCEndsInOrder(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var stderr bytes.Buffer
	stdout := signalWriter{signal: regexp.MustCompile(` [1-9]\d* requests, `), heard: cancel}
	// That it ends at all is what is tested: an hour would outlast the test.
	if status := run(ctx, []string{"-for", "1h"}, &stdout, &stderr); status != 0 || stderr.Len() > 0 {
		t.Errorf("status %d, stderr %q", status, &stderr)
	}
	if !regexp.MustCompile(`\nall +3 +\d+ +0 `).MatchString(stdout.String()) {
		t.Errorf("no table, or a request was cut off: %s", &stdout)
	}
}

// signalWriter calls heard once it is written what signal matches.
type signalWriter struct {
	bytes.Buffer
	signal *regexp.Regexp
	heard  func()
}

func (w *signalWriter) Write(p []byte) (int, error) {
	if w.signal.Match(p) {
		w.heard()
	}
	return w.Buffer.Write(p)
}

func TestAReplicaThatEndsByItselfIsAnError(t *testing.T) {
	t.Parallel()
	r := &replica{number: 1}
	if err := r.start(order{Place: place{Redis: "bogus"}}); err != nil {
		t.Fatal(err)
	}
	if err := r.stop(); err == nil || !strings.Contains(err.Error(), "replica 1 ended by itself") {
		t.Errorf("stop: %v", err)
	}
	if err := r.kill(); err == nil {
		t.Error("it could be killed after its end")
	}
}

func TestWhatFails(t *testing.T) {
	t.Parallel()
	good := outcome{took: 3 * due, refreshes: []int{3, 2}}
	if err := good.failure(); err != nil {
		t.Errorf("a good run: %v", err)
	}
	for _, test := range []struct {
		want  string
		spoil func(*outcome)
	}{
		{"2 requests failed, the first with: status 500", func(o *outcome) {
			o.all.did = report{Failed: 2, Trouble: "status 500"}
		}},
		{"1 refresh tokens were sent twice", func(o *outcome) { o.seen = walletauthtest.Stats{Reuses: 1, Violations: 1} }},
		{"1 violations", func(o *outcome) { o.seen.Violations = 1 }},
		{"1 sessions were lost", func(o *outcome) { o.lost = 1 }},
		{"refreshed 4 times, and fell due 3 times", func(o *outcome) { o.refreshes = []int{3, 4} }},
	} {
		bad := good
		test.spoil(&bad)
		if err := bad.failure(); err == nil || strings.Count(err.Error(), "\n") > 0 || !strings.Contains(err.Error(), test.want) {
			t.Errorf("got %v, want %q", err, test.want)
		}
	}
}

func TestWhatIsWrongIsSaidInOneLine(t *testing.T) {
	t.Parallel()
	const secret = "password-that-nobody-may-see"
	for _, test := range []struct {
		name string
		args []string
		want string
	}{
		{"unknown flag", []string{"-bogus"}, "-bogus"},
		{"no duration", []string{"-for", "soon"}, "-for"},
		{"too short", []string{"-for", "4s"}, "-for"},
		{"argument", []string{secret}, "flags"},
		{"no users", []string{"-users", "0"}, "-users"},
		{"too many users", []string{"-users", "101"}, "-users"},
		{"not a URL", []string{"-redis", "localhost"}, "-redis"},
		{"half a URL", []string{"-redis", "redis://u:" + secret + "@host:port"}, "-redis"},
		{"nobody there", []string{"-redis", "redis://u:" + secret + "@127.0.0.1:1"}, "does not answer"},
	} {
		t.Run(test.name, func(t *testing.T) {
			status, stdout, stderr := start(t, test.args...)
			if status != 2 || stdout != "" {
				t.Errorf("status %d, stdout %q", status, stdout)
			}
			if strings.Count(stderr, "\n") != 1 || !strings.HasPrefix(stderr, "fleet: ") || !strings.Contains(stderr, test.want) {
				t.Errorf("stderr %q does not say %q in a line", stderr, test.want)
			}
			if strings.Contains(stderr, secret) {
				t.Error("a password was printed")
			}
		})
	}
}

func TestHelpIsNoError(t *testing.T) {
	t.Parallel()
	var stdout bytes.Buffer
	if status := run(t.Context(), []string{"-h"}, &stdout, io.Discard); status != 0 || !strings.HasPrefix(stdout.String(), "usage: ") {
		t.Errorf("status %d, %q", status, &stdout)
	}
}
