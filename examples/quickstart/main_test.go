package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/examples/internal/screen"
	"github.com/walletauth/walletauth/walletauthtest"
)

// start runs the program and returns what it printed.
func start(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	status = run(t.Context(), args, &out, &errs)
	t.Logf("%s%s", &out, &errs)
	return status, out.String(), errs.String()
}

// row returns the number in a row of the table.
func row(t *testing.T, stdout, name string) int {
	t.Helper()
	m := regexp.MustCompile(`(?m)^` + name + ` +(\d+)$`).FindStringSubmatch(stdout)
	if m == nil {
		t.Fatalf("the table has no row %q", name)
	}
	n, _ := strconv.Atoi(m[1])
	return n
}

func TestNoRequestFailsWhateverTheStandInDoes(t *testing.T) {
	t.Parallel()
	status, stdout, stderr := start(t, "-for", "4s")
	if status != 0 || stderr != "" || row(t, stdout, "failures") != 0 {
		t.Errorf("status %d, stderr %q", status, stderr)
	}
	if n := row(t, stdout, "requests"); n < 100 {
		t.Errorf("%d requests in 4 s", n)
	}
	if row(t, stdout, "refreshes") < 3 || row(t, stdout, "401s retried") < 1 {
		t.Error("nothing happened for which the transport was needed")
	}
	for _, want := range []string{"refresh began", "request replayed", "503", "latency p50", "latency p99", "latency max"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("stdout lacks %q", want)
		}
	}
	// The outage lasts a third of a token's life of 1 s, and somebody waited it out.
	m := regexp.MustCompile(`longest wait for a refresh +(\S+)`).FindStringSubmatch(stdout)
	if d, err := time.ParseDuration(m[1]); err != nil || d < 100*time.Millisecond {
		t.Errorf("longest wait %v, %v", d, err)
	}
}

// login starts a server and writes a session of it to a file.
func login(t *testing.T) (srv *walletauthtest.Server, file string) {
	t.Helper()
	srv = walletauthtest.NewServer(walletauthtest.Config{ProjectID: "p", TB: t})
	data, err := walletauth.JSONCodec{}.Encode("", srv.Login("ada"))
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "login.json")
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return srv, file
}

func TestTheRefreshedSessionIsWrittenBack(t *testing.T) {
	t.Parallel()
	srv, file := login(t)
	srv.RevokeAccess("ada")
	status, stdout, _ := start(t, "-for", "1500ms", "-base-url", srv.URL, "-project", "p", "-session", file)
	if status != 0 || row(t, stdout, "refreshes") != 1 || row(t, stdout, "401s retried") != 1 {
		t.Fatalf("status %d", status)
	}
	written, err := openSession(file)
	if err != nil {
		t.Fatal(err)
	}
	if want := srv.Sessions("ada")[0]; written.session.RefreshToken != want.RefreshToken {
		t.Error("the file holds a refresh token that is used up")
	}
	if info, err := os.Stat(file); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(file), ".*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestOneReaderIsGentle(t *testing.T) {
	t.Parallel()
	srv, file := login(t)
	status, stdout, _ := start(t, "-for", "1500ms", "-base-url", srv.URL+"/", "-session", file)
	if n := row(t, stdout, "requests"); status != 0 || n != 2 {
		t.Errorf("status %d, %d requests in 1.5 s, want 2", status, n)
	}
	if n := srv.Requests(walletauthtest.CreateWallet); n != 0 {
		t.Errorf("%d wallets made without -write", n)
	}
	if !strings.Contains(stdout, "none waited") {
		t.Error("there was no refresh to wait for")
	}
}

func TestOptionsOfAGivenTarget(t *testing.T) {
	t.Parallel()
	srv, file := login(t)
	o, err := parse([]string{"-session", file, "-base-url", srv.URL, "-write"})
	if err != nil {
		t.Fatal(err)
	}
	target, err := o.target()
	if err != nil || target.workers != 1 || target.writeEvery == 0 || target.disturb != nil {
		t.Errorf("%+v, %v", target, err)
	}
}

func TestAFailedRequestIsExitStatus1(t *testing.T) {
	t.Parallel()
	srv, file := login(t)
	srv.Fail(walletauthtest.ListWallets, 1, walletauthtest.Fault{Status: http.StatusTeapot})
	status, stdout, _ := start(t, "-for", "1s", "-base-url", srv.URL, "-session", file)
	if status != 1 || row(t, stdout, "failures") != 1 {
		t.Errorf("status %d", status)
	}
	if !strings.Contains(stdout, "GET /wallets failed: status 418") {
		t.Error("not said which and why")
	}
}

func TestASessionThatCannotBeSavedIsExitStatus1(t *testing.T) {
	t.Parallel()
	srv := walletauthtest.NewServer(walletauthtest.Config{TB: t})
	session := srv.Login("ada")
	file := &sessionFile{path: filepath.Join(t.TempDir(), "gone", "login.json"), session: session}
	srv.RevokeAccess("ada")
	var stdout, stderr bytes.Buffer
	const long = 4 * time.Second // for a request and a refresh on a busy machine
	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	target := &target{baseURL: srv.URL, store: file.store(), workers: 1, pause: time.Second}
	if status := drive(ctx, target, long, screen.New(&stdout), &stderr); status != 1 {
		t.Errorf("status %d", status)
	}
	if !strings.Contains(stderr.String(), "could not be stored") || strings.Contains(stderr.String(), "walletauth: walletauth") {
		t.Errorf("stderr %q", &stderr)
	}
	for _, s := range append(srv.Sessions("ada"), session) {
		for _, token := range []string{s.AccessToken, s.RefreshToken} {
			if strings.Contains(stdout.String()+stderr.String(), token) {
				t.Error("a token was printed")
			}
		}
	}
}

// TestCtrlCEndsWithTheTable ends the context that a Ctrl-C ends.
func TestCtrlCEndsWithTheTable(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(300*time.Millisecond, cancel)
	var stdout bytes.Buffer
	// That it ends at all is what is tested: an hour would outlast the test.
	if status := run(ctx, []string{"-for", "1h"}, &stdout, io.Discard); status != 0 {
		t.Errorf("status %d", status)
	}
	if row(t, stdout.String(), "failures") != 0 {
		t.Error("a request was cut off")
	}
}

func TestWhatIsWrongIsSaidInOneLine(t *testing.T) {
	t.Parallel()
	const secret = "token-that-nobody-may-see"
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	srv, good := login(t)
	tests := []struct {
		name string
		args []string
		want string
	}{
		{"unknown flag", []string{"-bogus"}, "-bogus"},
		{"no duration", []string{"-for", "soon"}, "-for"},
		{"too short", []string{"-for", "-1s"}, "-for"},
		{"argument", []string{secret}, "flags"},
		{"URL without session", []string{"-base-url", srv.URL}, "-session"},
		{"project without session", []string{"-project", "p"}, "-session"},
		{"write without session", []string{"-write"}, "-session"},
		{"no file", []string{"-session", filepath.Join(dir, "none")}, "-session cannot be read"},
		{"a folder", []string{"-session", dir}, "-session cannot be read"},
		{"session instead of file", []string{"-session", `{"access_token":"` + secret + `"}`}, "-session cannot be read"},
		{"not JSON", []string{"-session", write("text", secret)}, "not valid JSON"},
		{"not a session", []string{"-session", write("part", `{"id":"s","access_token":"`+secret+`"}`)}, "lacks"},
		{"wrong type", []string{"-session", write("type", `{"id":["`+secret+`"]}`)}, "id"},
		{"not a URL", []string{"-session", good, "-base-url", "walletkit"}, "BaseURL"},
		{"plain http", []string{"-session", good, "-base-url", "http://walletkit.example"}, "plain http"},
		{"project", []string{"-session", good, "-project", "a\nb"}, "ProjectID"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			status, stdout, stderr := start(t, test.args...)
			if status != 2 || stdout != "" {
				t.Errorf("status %d, stdout %q", status, stdout)
			}
			if strings.Count(stderr, "\n") != 1 || !strings.HasPrefix(stderr, "quickstart: ") || !strings.Contains(stderr, test.want) {
				t.Errorf("stderr %q does not say %q in a line", stderr, test.want)
			}
			if strings.Contains(stderr, secret) {
				t.Error("a token was printed")
			}
		})
	}
}

func TestHelpIsNoError(t *testing.T) {
	t.Parallel()
	if status, stdout, _ := start(t, "-h"); status != 0 || !strings.HasPrefix(stdout, "usage: ") {
		t.Errorf("status %d", status)
	}
}

func TestPercentile(t *testing.T) {
	t.Parallel()
	hundred := make([]time.Duration, 100)
	for i := range hundred {
		hundred[i] = time.Duration(i + 1)
	}
	for _, test := range []struct {
		sorted []time.Duration
		p      int
		want   time.Duration
	}{
		{nil, 50, 0}, {hundred[:1], 50, 1}, {hundred[:1], 99, 1}, {hundred[:3], 50, 2},
		{hundred, 50, 50}, {hundred, 99, 99}, {hundred, 100, 100},
	} {
		if got := percentile(test.sorted, test.p); got != test.want {
			t.Errorf("percentile(%d values, %d) = %d, want %d", len(test.sorted), test.p, got, test.want)
		}
	}
}
