package keyring_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
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

// runWorker is the test binary as another process: it makes a codec, when it
// is told to, and prints what session it sealed or how it failed.
func runWorker(name string) int {
	if name == "locked" {
		if err := startKeyring(""); err != nil {
			fmt.Println(err)
			return 1
		}
	}
	fmt.Println("ready")
	if _, err := fmt.Scanln(); err != nil {
		fmt.Println(err)
		return 1
	}
	c, err := keyring.Codec(os.Args[1])
	if err != nil {
		fmt.Println(err)
		return 0
	}
	data, err := c.Encode("alice", session())
	fmt.Println(base64.StdEncoding.EncodeToString(data), err)
	return 0
}

// startWorker starts a process and returns what makes it go and what it says.
func startWorker(t *testing.T, kind, service string, env ...string) (run func(), said func() string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], service)
	if kind == "locked" {
		cmd = exec.Command("dbus-run-session", "--", os.Args[0], service)
	}
	cmd.Env = append(append(os.Environ(), workerEnv+"="+kind), env...)
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
	run = func() { fmt.Fprintln(stdin) }
	said = func() string {
		t.Helper()
		var out bytes.Buffer
		if _, err := out.ReadFrom(stdout); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(out.String())
	}
	return run, said
}

// Eight processes start at once, three times, and find no key: one makes it,
// and what any of them sealed opens with it.
func TestProcessesThatStartTogetherMakeOneKey(t *testing.T) {
	for range 3 {
		name := service(t)
		var said []func() string
		var run []func()
		for range 8 {
			r, s := startWorker(t, "codec", name)
			run, said = append(run, r), append(said, s)
		}
		for _, r := range run {
			r()
		}
		var sealed [][]byte
		for _, s := range said {
			text, ok := strings.CutSuffix(s(), " <nil>")
			data, err := base64.StdEncoding.DecodeString(text)
			if !ok || err != nil {
				t.Fatalf("a process said %q", text)
			}
			sealed = append(sealed, data)
		}
		c := codec(t, name)
		for i, data := range sealed {
			if _, err := c.Decode("alice", data); err != nil {
				t.Errorf("what process %d sealed is lost: %v", i, err)
			}
		}
	}
}

func TestNoKeyringIsAnErrorThatSaysSo(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("there always is a keyring on this system")
	}
	empty := t.TempDir()
	run, said := startWorker(t, "codec", "none", "DBUS_SESSION_BUS_ADDRESS=", "XDG_RUNTIME_DIR="+empty, "PATH="+empty)
	run()
	got := said()
	for _, want := range []string{"keyring: the OS keyring is not usable: ", "start a Secret Service", "walletauth.NewSealedCodec", "nothing is stored in clear"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q does not say %q", got, want)
		}
	}
}

func TestLockedKeyringIsAnErrorThatSaysSo(t *testing.T) {
	needKeyring(t)
	if runtime.GOOS != "linux" {
		t.Skip("the user's own keyring cannot be locked for a test")
	}
	run, said := startWorker(t, "locked", "locked", "XDG_RUNTIME_DIR="+t.TempDir(), "XDG_DATA_HOME="+t.TempDir())
	run()
	got := said()
	for _, want := range []string{"keyring: the OS keyring is not usable: ", "unlock it"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q does not say %q", got, want)
		}
	}
}

// A bus that takes the connection and never answers stands for a prompt that
// nobody answers.
func TestKeyringThatHangsIsGivenUp(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only a Secret Service can be replaced")
	}
	socket := filepath.Join(t.TempDir(), "bus")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }() // it accepts by its backlog alone
	run, said := startWorker(t, "codec", "hanging", "DBUS_SESSION_BUS_ADDRESS=unix:path="+socket)
	began := time.Now()
	run()
	got := said()
	if took := time.Since(began); took < 3*time.Second || took > 10*time.Second {
		t.Errorf("given up after %v, want 3 seconds", took)
	}
	for _, want := range []string{"no answer within 3s", "unlock it and try again"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q does not say %q", got, want)
		}
	}
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
