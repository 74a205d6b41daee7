package keyring_test

import (
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/gofrs/flock"
	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/keyring"
)

// Only a Secret Service can be missing, locked, slow or replaced without
// touching the keyring of the user who runs the tests.

func init() {
	workers["locked"] = lockedWorker
	workers["slow"] = slowWorker
	workers["no service"] = codecWorker
	workers["replaced"] = replacedWorker
	workers["broken"] = brokenWorker
	workers["raced"] = racedWorker
}

func TestNoKeyringIsErrUnavailable(t *testing.T) {
	want := []string{"ErrUnavailable: keyring: there is no OS keyring: ", "start a Secret Service", "walletauth.NewSealedCodec", "nothing is stored in clear"}
	t.Run("no bus", func(t *testing.T) {
		empty := t.TempDir()
		p := startWorker(t, "codec", "none", "DBUS_SESSION_BUS_ADDRESS=", "XDG_RUNTIME_DIR="+empty, "PATH="+empty)
		p.run()
		p.wantSaid(want...)
	})
	t.Run("a bus that has gone", func(t *testing.T) {
		p := startWorker(t, "codec", "none", "DBUS_SESSION_BUS_ADDRESS=unix:path="+filepath.Join(t.TempDir(), "bus"))
		p.run()
		p.wantSaid(want...)
	})
	t.Run("a bus without a keyring", func(t *testing.T) {
		needKeyring(t)
		p := startWorker(t, "no service", "none")
		p.run()
		p.wantSaid(want...)
	})
}

func TestLockedKeyringIsErrLocked(t *testing.T) {
	needKeyring(t)
	p := startWorker(t, "locked", "locked", "XDG_RUNTIME_DIR="+t.TempDir(), "XDG_DATA_HOME="+t.TempDir())
	p.run()
	p.wantSaid("ErrLocked: keyring: the OS keyring does not open: failed to unlock", "unlock it")
}

// A bus that takes the connection and never answers stands for a prompt that
// nobody answers.
func TestKeyringThatHangsIsGivenUp(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "bus")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }() // it accepts by its backlog alone
	p := startWorker(t, "codec", "hanging", "DBUS_SESSION_BUS_ADDRESS=unix:path="+socket)
	began := time.Now()
	p.run()
	p.wantSaid("ErrLocked: keyring: the OS keyring does not open: no answer within 3s", "unlock it and try again")
	if took := time.Since(began); took < 3*time.Second {
		t.Errorf("given up after %v, before the 3 seconds were over", took)
	}
}

// lockedWorker does the same with a keyring that nobody has unlocked.
func lockedWorker(service string) error {
	stop, err := startKeyring("")
	if err != nil {
		return err
	}
	defer stop()
	return codecWorker(service)
}

// slowService is a Secret Service that takes a secret only once its user has
// answered, which is when answered is closed.
type slowService struct {
	asked, answered chan struct{}
}

const (
	servicePath    = dbus.ObjectPath("/org/freedesktop/secrets")
	collectionPath = dbus.ObjectPath("/org/freedesktop/secrets/aliases/default")
	noPrompt       = dbus.ObjectPath("/")
)

func (s *slowService) OpenSession(string, dbus.Variant) (dbus.Variant, dbus.ObjectPath, *dbus.Error) {
	return dbus.MakeVariant(""), "/session", nil
}

func (s *slowService) Unlock(all []dbus.ObjectPath) ([]dbus.ObjectPath, dbus.ObjectPath, *dbus.Error) {
	return all, noPrompt, nil
}

func (s *slowService) SearchItems(map[string]string) ([]dbus.ObjectPath, *dbus.Error) {
	return nil, nil
}

func (s *slowService) CreateItem(map[string]dbus.Variant, secret, bool) (dbus.ObjectPath, dbus.ObjectPath, *dbus.Error) {
	close(s.asked)
	<-s.answered
	return "/item", noPrompt, nil
}

// secret is the specification's Secret.
type secret struct {
	Session           dbus.ObjectPath
	Parameters, Value []byte
	ContentType       string
}

// serve makes service the Secret Service of the bus.
func serve(service any) error {
	conn, err := dbus.ConnectSessionBus()
	if err != nil {
		return err
	}
	for path, name := range map[dbus.ObjectPath]string{
		servicePath: "Service", collectionPath: "Collection", "/item": "Item", "/session": "Session",
	} {
		if err := conn.Export(service, path, "org.freedesktop.Secret."+name); err != nil {
			return err
		}
	}
	_, err = conn.RequestName("org.freedesktop.secrets", dbus.NameFlagDoNotQueue)
	return err
}

// replacingService is a Secret Service in which somebody else's key takes the
// place of the one that is written.
type replacingService struct {
	slowService
	mu   sync.Mutex // guards kept
	kept string
}

func (s *replacingService) SearchItems(map[string]string) ([]dbus.ObjectPath, *dbus.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kept == "" {
		return nil, nil
	}
	return []dbus.ObjectPath{"/item"}, nil
}

func (s *replacingService) CreateItem(map[string]dbus.Variant, secret, bool) (dbus.ObjectPath, dbus.ObjectPath, *dbus.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept = othersItem
	return "/item", noPrompt, nil
}

func (s *replacingService) GetSecret(dbus.ObjectPath) (secret, *dbus.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return secret{Session: "/session", Value: []byte(s.kept)}, nil
}

func (s *replacingService) Close() *dbus.Error { return nil }

const othersItem = "walletauth-key-1:b3RoZXJzIGtleSBvdGhlcnMga2V5IG90aGVycyBrZXk="

// replacedWorker says whether it seals by the key that is in the keyring now.
func replacedWorker(service string) error {
	if err := serve(&replacingService{}); err != nil {
		return err
	}
	c, err := keyring.Codec(service)
	if err != nil {
		return err
	}
	data, err := c.Encode("alice", session())
	if err != nil {
		return err
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(othersItem, "walletauth-key-1:"))
	if err != nil {
		return err
	}
	others, err := walletauth.NewSealedCodec(key)
	if err != nil {
		return err
	}
	_, err = others.Decode("alice", data)
	fmt.Println("opened by the key that is kept:", err)
	return nil
}

// Whoever does not take our locks may write a key at the same time. What is in
// the keyring then is what the next start finds, so it is the key to seal by.
func TestKeyThatIsKeptIsTheOneThatIsUsed(t *testing.T) {
	needKeyring(t)
	w := startWorker(t, "replaced", "replaced", "XDG_CACHE_HOME="+t.TempDir())
	w.run()
	w.wantSaid("opened by the key that is kept: <nil>")
}

// heldService is a Secret Service that keeps what is written, the first time only
// after it has looked for a second writer.
type heldService struct {
	replacingService
	asked, again chan struct{} // closed once the first key comes, and a second one
	writes       int           // guarded by mu
}

// glance is how long to look for what must not happen.
const glance = 500 * time.Millisecond

func (s *heldService) CreateItem(_ map[string]dbus.Variant, written secret, _ bool) (dbus.ObjectPath, dbus.ObjectPath, *dbus.Error) {
	if s.count() == 1 {
		close(s.asked)
		select {
		case <-s.again:
		case <-time.After(glance):
		}
	} else {
		close(s.again)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept = string(written.Value)
	return "/item", noPrompt, nil
}

func (s *heldService) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes++
	return s.writes
}

// racedWorker asks for a codec twice, the second time with another cache folder
// and while the first writes its key.
func racedWorker(service string) error {
	held := &heldService{asked: make(chan struct{}), again: make(chan struct{})}
	if err := serve(held); err != nil {
		return err
	}
	first := make(chan error, 1)
	var codecs [2]walletauth.Codec
	go func() {
		var err error
		codecs[0], err = keyring.Codec(service)
		first <- err
	}()
	<-held.asked
	if err := os.Setenv("XDG_CACHE_HOME", os.Getenv("XDG_CACHE_HOME")+"/another"); err != nil {
		return err
	}
	var err error
	if codecs[1], err = keyring.Codec(service); err != nil {
		return err
	}
	if err := <-first; err != nil {
		return err
	}
	data, err := codecs[0].Encode("alice", session())
	if err != nil {
		return err
	}
	_, err = codecs[1].Decode("alice", data)
	fmt.Println("keys written:", held.count()-1, "one opens what the other sealed:", err)
	return nil
}

func TestCacheFoldersThatDifferMakeOneKey(t *testing.T) {
	needKeyring(t)
	w := startWorker(t, "raced", "raced", "XDG_CACHE_HOME="+t.TempDir())
	w.run()
	w.wantSaid("keys written: 1 one opens what the other sealed: <nil>")
}

// brokenService answers with an error of its own.
type brokenService struct{}

func (brokenService) Unlock([]dbus.ObjectPath) ([]dbus.ObjectPath, dbus.ObjectPath, *dbus.Error) {
	return nil, "", dbus.NewError("org.example.Odd", []any{"out of order"})
}

func brokenWorker(service string) error {
	if err := serve(brokenService{}); err != nil {
		return err
	}
	return codecWorker(service)
}

// A program that took it for "no keyring" would seal by another key, which the
// next start does not know.
func TestKeyringThatFailsIsNeitherUnavailableNorLocked(t *testing.T) {
	needKeyring(t)
	w := startWorker(t, "broken", "broken")
	w.run()
	w.wantSaid("neither: keyring: the OS keyring failed: out of order")
}

// slowWorker asks for a codec, and says how that ended and whether another
// process could make a key before and after the user answered.
func slowWorker(service string) error {
	slow := &slowService{asked: make(chan struct{}), answered: make(chan struct{})}
	if err := serve(slow); err != nil {
		return err
	}
	_, err := keyring.Codec(service)
	<-slow.asked
	fmt.Println(err)
	cache, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	locks, err := filepath.Glob(filepath.Join(cache, "walletauth", "*.lock"))
	if err != nil || len(locks) != 1 {
		return fmt.Errorf("%q, %v", locks, err)
	}
	free, err := flock.New(locks[0]).TryLock()
	fmt.Println("free before the answer:", free, err)
	close(slow.answered)
	for deadline := time.After(time.Minute); !free; {
		select {
		case <-time.After(10 * time.Millisecond):
			if free, err = flock.New(locks[0]).TryLock(); err != nil {
				return err
			}
		case <-deadline:
			return fmt.Errorf("the lock is held after the answer")
		}
	}
	fmt.Println("free after it:", free)
	return nil
}

// The user answers after Codec has given up, and the key is written then.
// Had another process made one meanwhile, this would replace it.
func TestLateWriteKeepsOthersFromMakingAKey(t *testing.T) {
	needKeyring(t)
	w := startWorker(t, "slow", "slow", "XDG_CACHE_HOME="+t.TempDir())
	w.run()
	w.wantSaid("keyring: the OS keyring does not open: no answer within 3s", "free before the answer: false <nil>", "free after it: true")
}

func (p *process) wantSaid(want ...string) {
	p.Helper()
	got := p.said()
	for _, w := range want {
		if !strings.Contains(got, w) {
			p.Errorf("%q does not say %q", got, w)
		}
	}
}
