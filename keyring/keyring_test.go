package keyring_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/filestore"
	"github.com/walletauth/walletauth/keyring"
	oskeyring "github.com/zalando/go-keyring"
)

const account = "walletauth session key" // as the module names its item

// service is one of the test's own, whose item is gone afterwards.
func service(t *testing.T) string {
	t.Helper()
	needKeyring(t)
	name := fmt.Sprintf("walletauth test %s %d", t.Name(), time.Now().UnixNano())
	t.Cleanup(func() {
		if err := oskeyring.Delete(name, account); err != nil && !errors.Is(err, oskeyring.ErrNotFound) {
			t.Error(err)
		}
	})
	return name
}

func codec(t *testing.T, service string) walletauth.Codec {
	t.Helper()
	c, err := keyring.Codec(service)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func session() *walletauth.Session {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	return &walletauth.Session{
		ID: "sid", CreatedAt: at, ProjectID: "project", UserID: "user",
		AccessToken: "access-secret", AccessTokenExpiresAt: at.Add(5 * time.Minute),
		RefreshToken: "refresh-secret", RefreshTokenExpiresAt: at.Add(30 * 24 * time.Hour),
	}
}

// seal returns session as codec writes it, which shows nothing.
func seal(t *testing.T, c walletauth.Codec) []byte {
	t.Helper()
	data, err := c.Encode("alice", session())
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(data, []byte("secret")) {
		t.Fatal("it is not sealed")
	}
	return data
}

func TestNextStartOpensWhatTheFirstSealed(t *testing.T) {
	name := service(t)
	data := seal(t, codec(t, name))
	got, err := codec(t, name).Decode("alice", data)
	if err != nil {
		t.Fatal(err)
	}
	if *got != *session() {
		t.Error("another session came back")
	}
}

func TestServicesDoNotShareAKey(t *testing.T) {
	one, two := service(t)+" one", service(t)+" two"
	for _, name := range []string{one, two} {
		t.Cleanup(func() {
			if err := oskeyring.Delete(name, account); err != nil {
				t.Error(err)
			}
		})
	}
	data := seal(t, codec(t, one))
	if _, err := codec(t, two).Decode("alice", data); err == nil || !strings.Contains(err.Error(), "is not among the 1 given") {
		t.Errorf("error %v, want that the key is another", err)
	}
}

// 32 random bytes are in the keyring and nothing else, and nowhere else.
func TestKeyLivesInTheKeyringAlone(t *testing.T) {
	name := service(t)
	seal(t, codec(t, name))
	item, err := oskeyring.Get(name, account)
	if err != nil {
		t.Fatal(err)
	}
	text, ok := strings.CutPrefix(item, "walletauth-key-1:")
	key, err := base64.StdEncoding.DecodeString(text)
	if !ok || err != nil || len(key) != 32 || bytes.Equal(key, make([]byte, 32)) {
		t.Fatalf("the item has %d bytes and is no key of 32: %v", len(item), err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	files := 0
	err = filepath.WalkDir(filepath.Join(cache, "walletauth"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files++
		info, err := d.Info()
		if err == nil && info.Size() != 0 {
			t.Errorf("the lock file %s has %d bytes", path, info.Size())
		}
		return err
	})
	if err != nil || files == 0 {
		t.Errorf("%d lock files, %v", files, err)
	}
}

func TestItemThatIsNoKeyIsRefusedAndKept(t *testing.T) {
	for name, item := range map[string]string{
		"another program's": "hunter2",
		"a later version's": "walletauth-key-2:" + base64.StdEncoding.EncodeToString(make([]byte, 32)),
		"too short":         "walletauth-key-1:" + base64.StdEncoding.EncodeToString(make([]byte, 31)),
		"not base64":        "walletauth-key-1:???",
		"empty":             "",
	} {
		t.Run(name, func(t *testing.T) {
			name := service(t)
			if err := oskeyring.Set(name, account, item); err != nil {
				t.Fatal(err)
			}
			c, err := keyring.Codec(name)
			checkError(t, c, err, "is not a session key of this version: choose another service, or delete the item")
			if item != "" && strings.Contains(err.Error(), item) {
				t.Errorf("error %q holds the item", err)
			}
			if kept, err := oskeyring.Get(name, account); err != nil || kept != item {
				t.Errorf("the item was changed (%v)", err)
			}
		})
	}
}

// A key that is lost costs a login and nothing is taken for "no session".
func TestLostKeyIsAnErrorAndNotNoSession(t *testing.T) {
	name := service(t)
	data := seal(t, codec(t, name))
	if err := oskeyring.Delete(name, account); err != nil {
		t.Fatal(err)
	}
	_, err := codec(t, name).Decode("alice", data)
	if err == nil || errors.Is(err, walletauth.ErrNoSession) || !strings.Contains(err.Error(), "is not among the 1 given") {
		t.Errorf("error %v, want that the key is another", err)
	}
}

func TestServiceThatIsNoNameIsRefused(t *testing.T) {
	for what, name := range map[string]string{
		"empty": "", "too long": strings.Repeat("s", 201), "with a line break": "a\nb", "with NUL": "a\x00",
	} {
		c, err := keyring.Codec(name)
		if c != nil || err == nil || !strings.Contains(err.Error(), "keyring: the service must be 1 to 200 bytes") {
			t.Errorf("%s: %v, error %v", what, c, err)
		}
	}
}

func checkError(t *testing.T, c walletauth.Codec, err error, want string) {
	t.Helper()
	if c != nil || err == nil || !strings.HasPrefix(err.Error(), "keyring: ") || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, error %v, want no codec and an error that says %q", c, err, want)
	}
}

// workers are what the test binary does as another process, once it is told
// to go. What they print is what the test looks at.
var workers = map[string]func(service string) error{
	"codec": codecWorker,
}

// ownBus names the workers that get a bus of their own.
var ownBus = map[string]bool{"locked": true, "slow": true, "no service": true, "replaced": true, "broken": true, "raced": true}

func runWorker(name string) int {
	fmt.Println("ready")
	if _, err := fmt.Scanln(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := workers[name](os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// codecWorker says what it sealed, or why it could not.
func codecWorker(service string) error {
	c, err := keyring.Codec(service)
	if err != nil {
		fmt.Println(kind(err), err)
		return nil
	}
	data, err := c.Encode("alice", session())
	fmt.Println(base64.StdEncoding.EncodeToString(data), err)
	return nil
}

// kind is what a caller can tell of an error.
func kind(err error) string {
	switch {
	case errors.Is(err, keyring.ErrUnavailable) && errors.Is(err, keyring.ErrLocked):
		return "both:"
	case errors.Is(err, keyring.ErrUnavailable):
		return "ErrUnavailable:"
	case errors.Is(err, keyring.ErrLocked):
		return "ErrLocked:"
	}
	return "neither:"
}

// process is what the test sees of a worker.
type process struct {
	*testing.T
	cmd    *exec.Cmd
	stdin  io.Writer
	stdout io.Reader
}

// startWorker starts a process, which waits until it is told to run.
func startWorker(t *testing.T, kind, service string, env ...string) *process {
	t.Helper()
	cmd := exec.Command(os.Args[0], service)
	if ownBus[kind] {
		cmd = onBus(os.Getenv(busConfigEnv), os.Args[0], service)
	}
	cmd.Env = append(os.Environ(), workerEnv+"="+kind, "GORACE=atexit_sleep_ms=0")
	cmd.Env = append(cmd.Env, env...)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // it has ended unless the test failed
	var word string
	if _, err := fmt.Fscanln(stdout, &word); err != nil || word != "ready" {
		t.Fatalf("the worker said %q (%v)", word, err)
	}
	return &process{t, cmd, stdin, stdout}
}

func (p *process) run() {
	p.Helper()
	if _, err := fmt.Fprintln(p.stdin); err != nil {
		p.Fatal(err)
	}
}

// said is all that it printed until its end.
func (p *process) said() string {
	p.Helper()
	out, err := io.ReadAll(p.stdout)
	if err != nil {
		p.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		p.Fatalf("the worker: %v, after %q", err, out)
	}
	return strings.TrimSpace(string(out))
}

// Eight processes start at once, three times, and find no key: one makes it,
// and what any of them sealed opens with it. Whether they have one cache folder
// or, by XDG_CACHE_HOME, eight does not matter.
func TestProcessesThatStartTogetherMakeOneKey(t *testing.T) {
	for name, env := range map[string]func() []string{
		"one cache folder":       func() []string { return nil },
		"a cache folder of each": func() []string { return []string{"XDG_CACHE_HOME=" + t.TempDir()} },
	} {
		t.Run(name, func(t *testing.T) {
			for range 3 {
				startTogether(t, service(t), env)
			}
		})
	}
}

func startTogether(t *testing.T, name string, env func() []string) {
	t.Helper()
	var all []*process
	for range 8 {
		all = append(all, startWorker(t, "codec", name, env()...))
	}
	for _, p := range all {
		p.run()
	}
	var sealed [][]byte
	for _, p := range all {
		sealed = append(sealed, p.sealed())
	}
	c := codec(t, name)
	for i, data := range sealed {
		if _, err := c.Decode("alice", data); err != nil {
			t.Errorf("what process %d sealed is lost: %v", i, err)
		}
	}
}

// sealed is what the worker "codec" sealed.
func (p *process) sealed() []byte {
	p.Helper()
	said := p.said()
	text, ok := strings.CutSuffix(said, " <nil>")
	data, err := base64.StdEncoding.DecodeString(text)
	if !ok || err != nil {
		p.Fatalf("a process said %q", said)
	}
	return data
}

func TestFilesAreSealedByTheKeyring(t *testing.T) {
	name := service(t)
	dir := t.TempDir()
	st := &filestore.Store{Dir: dir, Codec: codec(t, name)}
	if err := walletauth.Save(t.Context(), st, "alice", session()); err != nil {
		t.Fatal(err)
	}
	next := &filestore.Store{Dir: dir, Codec: codec(t, name)} // the program's next start
	got, err := next.Load(t.Context(), "alice")
	if err != nil {
		t.Fatal(err)
	}
	if *got != *session() {
		t.Error("another session came back")
	}
	if s, err := (&filestore.Store{Dir: dir}).Load(t.Context(), "alice"); err == nil || errors.Is(err, walletauth.ErrNoSession) {
		t.Errorf("without the key: %v, %v", s, err)
	}
}
