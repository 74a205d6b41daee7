//go:build unix

package main

import (
	"context"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/filestore"
	"github.com/walletauth/walletauth/walletauthtest"
)

// home is a user's configuration folder.
type home string

func (h home) command(ctx context.Context, api string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = append(os.Environ(), "RUN_AS_TOOL=yes", "MY_TOOL_ENV="+api, "HOME="+string(h), "XDG_CONFIG_HOME="+string(h))
	return cmd
}

// run runs a command to its end.
func (h home) run(t *testing.T, api string, args ...string) (status int, output string) {
	t.Helper()
	out, err := h.command(t.Context(), api, args...).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if exit != nil {
		status = exit.ExitCode()
	}
	return status, string(out)
}

func (h home) want(t *testing.T, api, arg string, status int, begins string) {
	t.Helper()
	got, output := h.run(t, api, arg)
	if got != status || !strings.HasPrefix(output, begins) || strings.Count(output, "\n") > 1 {
		t.Errorf("%s: exit status %d, %q, want %d and a line that begins %q", arg, got, output, status, begins)
	}
}

// store is what the tool keeps its sessions in.
func (h home) store(t *testing.T) *filestore.Store {
	t.Helper()
	t.Setenv("HOME", string(h))
	t.Setenv("XDG_CONFIG_HOME", string(h))
	return &filestore.Store{App: "my-tool/sessions"}
}

// expire has the access token of the stored session expire.
func (h home) expire(t *testing.T, api string) {
	t.Helper()
	err := h.store(t).Update(t.Context(), api, func(_ context.Context, s *walletauth.Session) (*walletauth.Session, error) {
		expired := *s
		expired.AccessTokenExpiresAt = time.Now().Add(-time.Minute)
		return &expired, nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func newAPI(t *testing.T) *walletauthtest.Server {
	return walletauthtest.NewServer(walletauthtest.Config{ProjectID: "my-project", TB: t})
}

func TestToolLogsInAndOut(t *testing.T) {
	h, api := home(t.TempDir()), newAPI(t)
	const out = "my-tool: not logged in: run my-tool login\n"
	for _, step := range []struct {
		arg    string
		status int
		begins string
	}{
		{"wallets", 1, out}, {"status", 1, out},
		{"login", 0, "Logged in as "}, {"status", 0, "Logged in to " + api.URL}, {"wallets", 0, "["},
		{"logout", 0, "Logged out\n"}, {"status", 1, out}, {"wallets", 1, out}, {"logout", 0, "Logged out\n"},
		{"dance", 1, "my-tool: usage"},
	} {
		h.want(t, api.URL, step.arg, step.status, step.begins)
	}
}

func TestToolKeepsEnvironmentsApart(t *testing.T) {
	h, one, other := home(t.TempDir()), newAPI(t), newAPI(t)
	h.want(t, one.URL, "login", 0, "Logged in")
	h.want(t, other.URL, "wallets", 1, "my-tool: not logged in")
	h.want(t, other.URL, "login", 0, "Logged in")
	h.want(t, other.URL, "logout", 0, "Logged out")
	h.want(t, one.URL, "wallets", 0, "[")
}

func TestToolSaysThatASessionIsOver(t *testing.T) {
	h, api := home(t.TempDir()), newAPI(t)
	if err := walletauth.Save(t.Context(), h.store(t), api.URL, api.Login("ada")); err != nil {
		t.Fatal(err)
	}
	api.RevokeSessions("ada")
	h.want(t, api.URL, "wallets", 1, "my-tool: your login has ended: run my-tool login\n")
	h.want(t, api.URL, "login", 0, "Logged in")
	h.want(t, api.URL, "wallets", 0, "[")
}

// Offline a command with an expired token gives up 5 s after the first failure, and
// says so once, though Shutdown has a refresh to give up too.
func TestToolOffline(t *testing.T) {
	h, api := home(t.TempDir()), newAPI(t)
	h.want(t, api.URL, "login", 0, "Logged in")
	h.expire(t, api.URL)
	api.Close()
	const offline = "my-tool: WalletKit cannot be reached: check your connection and try again\n"
	h.want(t, api.URL, "wallets", 1, offline)
	h.want(t, api.URL, "login", 1, offline)
	h.want(t, api.URL, "status", 0, "Logged in to")
	if _, output := h.run(t, api.URL, "logout"); output != "Logged out\n(WalletKit could not be told. It ends the session by itself.)\n" {
		t.Errorf("logout: %q", output)
	}
	h.want(t, api.URL, "status", 1, "my-tool: not logged in")
}

func TestToolIsNotLoggedInIfTheLoginIsNotStored(t *testing.T) {
	h, api := home(t.TempDir()), newAPI(t)
	if err := os.WriteFile(filepath.Join(string(h), "my-tool"), nil, 0o600); err != nil { // where the folder should be
		t.Fatal(err)
	}
	h.want(t, api.URL, "login", 1, "my-tool: your login cannot be saved or read in "+string(h)+"/my-tool/sessions: not a directory\n")
}

func TestToolSaysThatASessionCannotBeRead(t *testing.T) {
	h, api := home(t.TempDir()), newAPI(t)
	h.want(t, api.URL, "login", 0, "Logged in")
	files, err := filepath.Glob(filepath.Join(string(h), "my-tool/sessions/*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if info, err := os.Stat(file); err == nil && info.Size() > 0 { // not the lock
			if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	h.want(t, api.URL, "wallets", 1, "my-tool: your saved login cannot be read: run my-tool login\n")
	h.want(t, api.URL, "login", 0, "Logged in")
	h.want(t, api.URL, "wallets", 0, "[")
}

func TestToolInterrupted(t *testing.T) {
	h, api := home(t.TempDir()), newAPI(t)
	h.want(t, api.URL, "login", 0, "Logged in")
	waits := make(chan struct{}, 1)
	hang := walletauthtest.Fault{Do: func(*http.Request) { waits <- struct{}{} }, Delay: time.Hour}

	api.Fail(walletauthtest.ListWallets, 1, hang)
	var output strings.Builder
	once := h.command(t.Context(), api.URL, "wallets")
	once.Stderr = &output
	if err := once.Start(); err != nil {
		t.Fatal(err)
	}
	<-waits
	if err := once.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := once.Wait(); once.ProcessState.ExitCode() != 1 || output.String() != "my-tool: interrupted\n" {
		t.Errorf("Ctrl-C: %v, %q", err, output.String())
	}

	h.expire(t, api.URL)
	api.FailRefresh(1, hang) // Shutdown waits for the refresh
	twice := h.command(t.Context(), api.URL, "wallets")
	if err := twice.Start(); err != nil {
		t.Fatal(err)
	}
	<-waits
	ended := make(chan error, 1)
	go func() { ended <- twice.Wait() }()
	for done := false; !done; {
		_ = twice.Process.Signal(os.Interrupt) // it may have ended
		select {
		case <-ended:
			done = true
		case <-time.After(50 * time.Millisecond):
		}
	}
	if status, ok := twice.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGINT {
		t.Errorf("Ctrl-C twice: %v, want that the second ends it", twice.ProcessState)
	}
}
