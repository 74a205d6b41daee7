package filestore_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/filestore"
)

// patience bounds every wait of these tests: none depends on it unless
// something hangs.
const patience = 30 * time.Second

// workers are the programs that the test binary runs as when a test starts it
// again, as a process of its own.
var workers = map[string]func(w *workerSide) error{
	"count": countWorker,
	"echo":  echoWorker,
	"hold":  holdWorker,
	"write": writeWorker,
}

const workerEnv = "FILESTORE_TEST_WORKER"

func TestMain(m *testing.M) {
	name := os.Getenv(workerEnv)
	if name == "" {
		os.Exit(m.Run())
	}
	if err := workers[name](newWorkerSide()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// workerSide is what a worker sees: a folder, arguments, and lines that come
// from the test. It ends with the test, whose end closes its standard input.
type workerSide struct {
	dir   string
	args  []string
	lines chan string
}

func newWorkerSide() *workerSide {
	w := &workerSide{dir: os.Args[1], args: os.Args[2:], lines: make(chan string)}
	go func() {
		in := bufio.NewScanner(os.Stdin)
		for in.Scan() {
			w.lines <- in.Text()
		}
		os.Exit(0)
	}()
	return w
}

func (w *workerSide) store() *filestore.Store { return &filestore.Store{Dir: w.dir} }

func (w *workerSide) context() context.Context { return context.Background() }

func (w *workerSide) number(i int) int {
	n, err := strconv.Atoi(w.args[i])
	if err != nil {
		panic(err)
	}
	return n
}

// process is what the test sees of a worker.
type process struct {
	t     testing.TB
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines chan string // what it printed; closed when it has ended
	ended chan error
}

// start runs a worker over dir.
func start(t testing.TB, name, dir string, args ...any) *process {
	t.Helper()
	cmd := exec.Command(os.Args[0], append([]string{dir}, strings.Fields(fmt.Sprintln(args...))...)...)
	cmd.Env = workerEnviron(name)
	cmd.Stderr = os.Stderr
	return startCommand(t, cmd)
}

// workerEnviron makes a process a worker. Under the race detector it would
// linger for a second before it ends.
func workerEnviron(name string) []string {
	return append(os.Environ(), workerEnv+"="+name, "GORACE=atexit_sleep_ms=0")
}

func startCommand(t testing.TB, cmd *exec.Cmd) *process {
	t.Helper()
	p, err := tryStart(t, cmd)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// tryStart returns the error if the system would not start the process.
func tryStart(t testing.TB, cmd *exec.Cmd) (*process, error) {
	t.Helper()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{t: t, cmd: cmd, stdin: stdin, lines: make(chan string, 1<<16), ended: make(chan error, 1)}
	go func() {
		out := bufio.NewScanner(stdout)
		for out.Scan() {
			p.lines <- out.Text()
		}
		close(p.lines)
		p.ended <- cmd.Wait()
	}()
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // it has mostly ended by then
	return p, nil
}

// line returns the next line it printed, false if it has ended.
func (p *process) line() (string, bool) {
	p.t.Helper()
	select {
	case l, ok := <-p.lines:
		return l, ok
	case <-time.After(patience):
		p.t.Fatalf("the worker has printed nothing for %v", patience)
		return "", false
	}
}

func (p *process) expect(want string) {
	p.t.Helper()
	if got, _ := p.line(); got != want {
		p.t.Fatalf("the worker said %q, want %q", got, want)
	}
}

func (p *process) say(line string) {
	p.t.Helper()
	if _, err := io.WriteString(p.stdin, line+"\n"); err != nil {
		p.t.Fatal(err)
	}
}

// wait returns how it ended, after all of its lines were read or dropped.
func (p *process) wait() error {
	p.t.Helper()
	select {
	case err := <-p.ended:
		return err
	case <-time.After(patience):
		p.t.Fatalf("the worker has not ended for %v", patience)
		return nil
	}
}

// kill ends it by SIGKILL and waits until it is gone.
func (p *process) kill() {
	p.t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Fatal(err)
	}
	if err := p.wait(); err == nil {
		p.t.Fatal("the worker was killed and ended well")
	}
}

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// session is the nth session of a test, with n in every field, so that a
// mixture of two is seen.
func session(n int) *walletauth.Session {
	at := epoch.Add(time.Duration(n) * time.Second)
	return &walletauth.Session{
		ID: fmt.Sprintf("id-%06d", n), CreatedAt: at, ProjectID: "project", UserID: "user",
		AccessToken: fmt.Sprintf("access-secret-%06d", n), AccessTokenExpiresAt: at.Add(5 * time.Minute),
		RefreshToken: fmt.Sprintf("refresh-secret-%06d", n), RefreshTokenExpiresAt: at.Add(30 * 24 * time.Hour),
	}
}

// number is the n of a whole session, 0 of none.
func number(t testing.TB, s *walletauth.Session) int {
	t.Helper()
	if s == nil {
		return 0
	}
	n := int(s.CreatedAt.Sub(epoch) / time.Second)
	if *s != *session(n) {
		t.Fatalf("the session is not whole: %v", s)
	}
	return n
}

func put(n int) func(context.Context, *walletauth.Session) (*walletauth.Session, error) {
	return func(context.Context, *walletauth.Session) (*walletauth.Session, error) { return session(n), nil }
}

func save(t testing.TB, st walletauth.TokenStore, key string, n int) {
	t.Helper()
	if err := walletauth.Save(t.Context(), st, key, session(n)); err != nil {
		t.Fatal(err)
	}
}

func load(t testing.TB, st walletauth.TokenStore, key string) int {
	t.Helper()
	s, err := st.Load(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	return number(t, s)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// private is a new folder with mode 0700, as t.TempDir is not.
func private(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "sessions")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// only returns the one file in dir whose name ends in suffix.
func only(t testing.TB, dir, suffix string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "*"+suffix))
	if err != nil {
		t.Fatal(err)
	}
	if len(found) != 1 {
		t.Fatalf("%d files end in %s, want 1: %q", len(found), suffix, found)
	}
	return found[0]
}
