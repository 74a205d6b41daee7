//go:build unix

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

// program is the server as a process.
type program struct {
	address string
	cmd     *exec.Cmd

	mu  sync.Mutex // guards log
	log bytes.Buffer
}

func startProgram(t *testing.T, env ...string) *program {
	t.Helper()
	p := &program{cmd: exec.CommandContext(t.Context(), os.Args[0])}
	p.cmd.Env = append(os.Environ(), append(env, "RUN_AS_SERVER=yes", "LISTEN=127.0.0.1:0")...)
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	address := make(chan string, 1)
	go p.read(stderr, address)
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it has ended if the test passed
		if t.Failed() {
			t.Logf("the program's log:\n%s", p.logged())
		}
	})
	select {
	case p.address = <-address:
	case <-time.After(time.Minute):
		t.Fatal("the program does not listen")
	}
	return p
}

func (p *program) read(r io.Reader, address chan<- string) {
	listening := regexp.MustCompile(`listening address=(\S+)`)
	for lines := bufio.NewScanner(r); lines.Scan(); {
		p.mu.Lock()
		p.log.WriteString(lines.Text() + "\n")
		p.mu.Unlock()
		if m := listening.FindStringSubmatch(lines.Text()); m != nil {
			address <- m[1]
		}
	}
}

func (p *program) logged() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// do sends a request with a visitor's cookie, if any, and returns the status, the
// body, and the cookie that was set.
func (p *program) do(t *testing.T, method, path, visitor, body string) (status int, answer, cookie string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+p.address+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if visitor != "" {
		req.AddCookie(&http.Cookie{Name: "visitor", Value: visitor})
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range resp.Cookies() {
		cookie = c.Value
	}
	return resp.StatusCode, strings.TrimSpace(string(data)), cookie
}

// want fails the test unless the answer is as told.
func (p *program) want(t *testing.T, method, path, visitor string, status int, contains string) {
	t.Helper()
	got, answer, _ := p.do(t, method, path, visitor, "")
	if got != status || !strings.Contains(answer, contains) {
		t.Errorf("%s %s: %d %q, want %d and %q", method, path, got, answer, status, contains)
	}
}

// startRedis starts a server of this test's own, on a socket.
func startRedis(t *testing.T) (url string, process *os.Process) {
	t.Helper()
	dir, err := os.MkdirTemp("", "redis") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // what is left is in the system's temporary folder
	socket := filepath.Join(dir, "redis.sock")
	cmd := exec.CommandContext(t.Context(), find(t, "redis-server"),
		"--port", "0", "--unixsocket", socket, "--save", "", "--appendonly", "no", "--dir", dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGCONT) // or it cannot be waited for
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	})
	client := redis.NewClient(&redis.Options{Network: "unix", Addr: socket, MaxRetries: -1})
	defer client.Close()
	for begun := time.Now(); client.Ping(t.Context()).Err() != nil; {
		if time.Since(begun) > time.Minute {
			t.Fatal("redis-server does not answer")
		}
		time.Sleep(10 * time.Millisecond)
	}
	return "unix://" + socket, cmd.Process
}

func TestServer(t *testing.T) {
	redisURL, redisProcess := startRedis(t)
	api := walletauthtest.NewServer(walletauthtest.Config{ProjectID: "my-project", TB: t})
	start := func() *program {
		return startProgram(t, "REDIS_URL="+redisURL, "SEALING_KEY="+strings.Repeat("5e", 32), "WALLETKIT_URL="+api.URL)
	}
	one, other := start(), start()

	one.want(t, "GET", "/wallets", "", 401, "Log in to see your wallets.")
	one.want(t, "GET", "/wallets", "a guess", 401, "Log in to see your wallets.")
	status, _, ada := one.do(t, "POST", "/login", "", "")
	if status != 204 || ada == "" {
		t.Fatalf("login: %d, cookie %q", status, ada)
	}
	_, _, bob := other.do(t, "POST", "/login", "", "")
	for _, visitor := range []string{ada, bob} {
		one.want(t, "GET", "/wallets", visitor, 200, "[")
		other.want(t, "GET", "/wallets", visitor, 200, "[")
	}

	token := pageToken(t, one, ada, "")
	newer := pageToken(t, other, ada, token)
	if newer == token || pageToken(t, one, ada, token) != newer {
		t.Error("a page whose token was refused did not get the newer one from each instance")
	}
	if n := api.Stats().Refreshes; n != 1 {
		t.Errorf("%d refreshes, want 1", n)
	}
	other.want(t, "GET", "/metrics", "", 200, `walletauth_refreshes_total{walletauth_refresh_reason="rejected"} 1`)

	one.want(t, "GET", "/ready", "", 204, "")
	if err := redisProcess.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	one.want(t, "GET", "/ready", "", 503, "The session store does not answer.")
	one.want(t, "GET", "/wallets", ada, 200, "[") // whose session is at hand
	if err := redisProcess.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	eventually(t, "ready again", func() bool {
		status, _, _ := one.do(t, "GET", "/ready", "", "")
		return status == 204
	})

	one.want(t, "POST", "/logout", ada, 204, "")
	one.want(t, "GET", "/wallets", ada, 401, "Log in to see your wallets.")
	eventually(t, "logged out of the other instance", func() bool {
		status, _, _ := other.do(t, "GET", "/wallets", ada, "")
		return status == 401
	})
	other.want(t, "GET", "/wallets", bob, 200, "[")

	for _, p := range []*program{one, other} {
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := p.cmd.Wait(); err != nil {
			t.Errorf("after SIGTERM: %v", err)
		}
		for _, secret := range []string{ada, bob, token, newer} {
			if strings.Contains(p.logged(), secret) {
				t.Error("the log holds a cookie or a token")
			}
		}
	}
}

// pageToken is what a page does.
func pageToken(t *testing.T, p *program, visitor, refused string) string {
	t.Helper()
	status, answer, _ := p.do(t, "POST", "/token", visitor, fmt.Sprintf(`{"refused": %q}`, refused))
	var out map[string]any
	if err := json.Unmarshal([]byte(answer), &out); err != nil || status != 200 || len(out) != 3 {
		t.Fatalf("POST /token: %d %s", status, answer)
	}
	left, _ := out["expires_in"].(float64)
	token, _ := out["access_token"].(string)
	if token == "" || left < 200 || left > 300 || out["project_id"] != "my-project" {
		t.Errorf("POST /token: %s", answer)
	}
	return token
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for begun := time.Now(); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Since(begun) > time.Minute {
			t.Fatalf("not %s within a minute", what)
		}
	}
}

// A user gets one sentence, without the names that programmers have for things, and
// errors that are joined do not repeat it.
func TestExplain(t *testing.T) {
	full := &walletauth.StoreError{Op: "update", Err: errors.New("no space left")}
	for name, row := range map[string]struct {
		err     error
		status  int
		message string
	}{
		"nobody is logged in":         {fmt.Errorf("call: %w", walletauth.ErrNoSession), 401, "Log in to see your wallets."},
		"the session is over":         {&walletauth.RefreshError{Err: walletauth.ErrSessionExpired}, 401, "Your login has ended. Log in again."},
		"over, and not stored":        {errors.Join(walletauth.ErrSessionExpired, full), 401, "Your login has ended. Log in again."},
		"the session is unreadable":   {&walletauth.StoreError{Op: "load", Err: walletauth.ErrUnreadable}, 401, "Your saved login cannot be read. Log in again."},
		"the store is down, twice":    {errors.Join(full, full), 503, "Logins cannot be looked up at the moment. Try again in a minute."},
		"the refresh endpoint fails":  {&walletauth.RefreshError{StatusCode: 503}, 502, "WalletKit cannot be reached. Try again in a minute."},
		"a deadline":                  {context.DeadlineExceeded, 502, "WalletKit cannot be reached. Try again in a minute."},
		"the network, joined by more": {errors.Join(&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, io.ErrUnexpectedEOF), 502, "WalletKit cannot be reached. Try again in a minute."},
	} {
		if status, message := explain(row.err); status != row.status || message != row.message {
			t.Errorf("%s: %d %q, want %d %q", name, status, message, row.status, row.message)
		}
	}
}

func TestKeyOfHoldsNoCookie(t *testing.T) {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := visitorKey(req); got != "no visitor" {
		t.Errorf("without a cookie: %q", got)
	}
	req.AddCookie(&http.Cookie{Name: "visitor", Value: "ABCDEFGH"})
	if got := visitorKey(req); strings.Contains(got, "ABCDEFGH") || got != keyOf("ABCDEFGH") || got == keyOf("ABCDEFGI") {
		t.Errorf("key %q", got)
	}
}
