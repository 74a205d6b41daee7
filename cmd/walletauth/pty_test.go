//go:build linux

package main_test

import (
	"bytes"
	"errors"
	"io"
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

	"github.com/creack/pty"
	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

// hang is far above what anything takes: what is not there by then never comes.
const hang = time.Minute

// person is somebody at a terminal, in which a command runs.
type person struct {
	*testing.T
	cmd    *exec.Cmd
	screen *os.File
	mu     sync.Mutex // guards seen
	seen   bytes.Buffer
	end    chan struct{} // of what can be read
}

// atTerminal runs a command in a pseudo-terminal, with env beside a home of its
// own.
func atTerminal(t *testing.T, env []string, args ...string) *person {
	t.Helper()
	p := &person{T: t, cmd: exec.Command(args[0], args[1:]...), end: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), append([]string{"TERM=xterm", "NO_COLOR=", "DBUS_SESSION_BUS_ADDRESS="}, env...)...)
	screen, err := pty.Start(p.cmd)
	if err != nil {
		t.Fatal(err)
	}
	p.screen = screen
	go func() {
		defer close(p.end)
		_, err := io.Copy(writerFunc(p.see), screen)
		// EIO is how a terminal ends on Linux.
		if err != nil && !errors.Is(err, syscall.EIO) && !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // if the test failed
		_ = screen.Close()
		<-p.end
		checkOutput(t, p.said())
	})
	return p
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func (p *person) see(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen.Write(b)
}

func (p *person) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen.String()
}

// await waits until the command has said what matches.
func (p *person) await(pattern string) {
	p.Helper()
	re := regexp.MustCompile(pattern)
	for deadline := time.Now().Add(hang); !re.MatchString(p.said()); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			p.Fatalf("never said %q:\n%s", pattern, p.said())
		}
	}
}

func (p *person) types(s string) {
	p.Helper()
	if _, err := io.WriteString(p.screen, s); err != nil {
		p.Fatal(err)
	}
}

const ctrlC = "\x03"

// exits waits for the end and compares the exit code.
func (p *person) exits(want int) {
	p.Helper()
	ended := make(chan error, 1)
	go func() { ended <- p.cmd.Wait() }()
	select {
	case <-ended:
	case <-time.After(hang):
		p.Fatalf("it goes on for ever:\n%s", p.said())
	}
	if got := p.cmd.ProcessState.ExitCode(); got != want {
		p.Errorf("exit code %d, want %d:\n%s", got, want, p.said())
	}
}

// home is a home without a session, and api a stand-in.
func home(t *testing.T) (env []string, api *walletauthtest.Server) {
	t.Helper()
	dir := t.TempDir()
	api = walletauthtest.NewServer(walletauthtest.Config{TB: t})
	return []string{"HOME=" + dir, "XDG_CONFIG_HOME=" + dir, "XDG_CACHE_HOME=" + dir}, api
}

func login(t *testing.T, env []string, api *walletauthtest.Server) {
	t.Helper()
	if out, code := runCommand(t, env, binary, "login", "--anonymous", "--api", api.URL, "--project", "project", "--insecure-storage"); code != 0 {
		t.Fatalf("exit code %d\n%s", code, out)
	}
}

// runCommand runs a command without a terminal, and searches what it says.
func runCommand(t *testing.T, env []string, args ...string) (output string, exitCode int) {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	checkOutput(t, string(out))
	return string(out), cmd.ProcessState.ExitCode()
}

func TestTerminalAsksForTheCode(t *testing.T) {
	t.Parallel()
	env, api := home(t)
	p := atTerminal(t, env, binary, "login", "--email", "ada@example.com", "--api", api.URL, "--project", "project", "--insecure-storage")
	p.await(`WalletKit has sent a code to ada@example\.com\.\s+Code: $`)
	p.types(walletauthtest.VerificationCode + "\n")
	p.await(`Logged in to \S+ as user-of-ada@example\.com, project project, profile default, not sealed\.`)
	p.exits(0)
}

// Ctrl-C ends a question and a wait at once, and is no failure of WalletKit's.
func TestTerminalCtrlC(t *testing.T) {
	t.Parallel()
	t.Run("while a code is asked for", func(t *testing.T) {
		env, api := home(t)
		p := atTerminal(t, env, binary, "login", "--email", "ada@example.com", "--api", api.URL, "--project", "project", "--insecure-storage")
		p.await(`Code: `)
		p.types(ctrlC)
		p.exits(130)
		p.await(`walletauth:\S* interrupted`)
	})
	t.Run("while an answer is waited for", func(t *testing.T) {
		env, api := home(t)
		login(t, env, api)
		api.Fail(walletauthtest.ListWallets, 1, walletauthtest.Fault{Delay: time.Hour})
		p := atTerminal(t, env, binary, "request", "GET", "/wallets")
		p.await(`[|/\\-] Waiting for \S+ \d+ s`)
		p.types(ctrlC)
		p.exits(130)
		if !strings.Contains(p.said(), "\r\x1b[K") {
			t.Errorf("the progress stays on the screen: %q", p.said())
		}
	})
	t.Run("a second time while a new session is waited for", func(t *testing.T) {
		env, api := home(t)
		login(t, env, api)
		if err := expireSession(filepath.Join(env[0][len("HOME="):], "walletauth"), "default", api.URL, walletauth.JSONCodec{}); err != nil {
			t.Fatal(err)
		}
		api.FailRefresh(1, walletauthtest.Fault{Delay: time.Hour})
		p := atTerminal(t, env, binary, "token")
		p.await(`Waiting for`)
		p.types(ctrlC)
		p.await(`interrupted`)
		p.await(`Storing the session`)
		p.types(ctrlC)
		p.exits(-1) // ended by the signal
	})
	t.Run("once is once for the program that exec runs", func(t *testing.T) {
		env, api := home(t)
		login(t, env, api)
		script := `trap 'echo caught; n=$((n+1))' INT; echo ready; while [ "$n" != 1 ]; do sleep 0.05; done; sleep 0.3; echo total $n; exit 5`
		p := atTerminal(t, env, binary, "exec", "--", "sh", "-c", "n=0; "+script)
		p.await(`ready`)
		p.types(ctrlC)
		p.exits(5)
		p.await(`total 1`)
	})
}

// On a terminal errors are red and progress is shown, unless NO_COLOR forbids
// the colour; piped, there is neither.
func TestTerminalColours(t *testing.T) {
	t.Parallel()
	const escape = "\x1b["
	env, _ := home(t)
	p := atTerminal(t, env, binary, "token")
	p.exits(3)
	p.await("\x1b\\[31mwalletauth:\x1b\\[0m not logged in")
	for name, extra := range map[string]string{"NO_COLOR": "NO_COLOR=1", "a dumb terminal": "TERM=dumb"} {
		t.Run(name, func(t *testing.T) {
			p := atTerminal(t, append(env, extra), binary, "token")
			p.exits(3)
			p.await("not logged in")
			if strings.Contains(p.said(), escape) {
				t.Errorf("%q", p.said())
			}
		})
	}
	t.Run("piped", func(t *testing.T) {
		if out, _ := runCommand(t, append(env, "TERM=xterm"), binary, "token"); !strings.HasPrefix(out, "walletauth: not logged in") {
			t.Errorf("%q", out)
		}
	})
}

// For a person JSON is indented, and an answer cannot steer the terminal.
func TestTerminalShowsAnswers(t *testing.T) {
	t.Parallel()
	env, api := home(t)
	login(t, env, api)
	api.Fail(walletauthtest.ListWallets, 1, walletauthtest.Fault{Body: `[{"name":"savings"}]`})
	p := atTerminal(t, env, binary, "request", "GET", "/wallets")
	p.exits(0)
	p.await(`\[\r\n  \{\r\n    "name": "savings"\r\n  \}\r\n\]`)

	api.Fail(walletauthtest.ListWallets, 1, walletauthtest.Fault{Body: "\x1b]0;owned\x07 \x1b[2J plain"})
	p = atTerminal(t, env, binary, "request", "GET", "/wallets")
	p.exits(0)
	p.await(`plain`)
	if strings.ContainsAny(p.said(), "\x07\x1b") {
		t.Errorf("%q", p.said())
	}
}

// An interrupted command leaves no refresh behind: what was sent is stored, so
// the next command finds the session as it is.
func TestTerminalCtrlCStoresTheRefresh(t *testing.T) {
	t.Parallel()
	env, api := home(t)
	login(t, env, api)
	if err := expireSession(filepath.Join(env[0][len("HOME="):], "walletauth"), "default", api.URL, walletauth.JSONCodec{}); err != nil {
		t.Fatal(err)
	}
	arrived, answer := make(chan struct{}), make(chan struct{})
	api.FailRefresh(1, walletauthtest.Fault{After: true, Do: func(*http.Request) { close(arrived); <-answer }})
	p := atTerminal(t, env, binary, "token")
	select {
	case <-arrived:
	case <-time.After(hang):
		t.Fatal("no refresh was sent")
	}
	p.types(ctrlC)
	p.await(`interrupted`)
	close(answer)
	p.exits(130)
	if out, _ := runCommand(t, env, binary, "token"); !strings.HasPrefix(out, "access-") {
		t.Error(out)
	}
	if stats := api.Stats(); stats.Refreshes != 1 || stats.Reuses != 0 {
		t.Errorf("%+v", stats)
	}
}
