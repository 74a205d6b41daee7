package keyring_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/gofrs/flock"
	"github.com/walletauth/walletauth/keyring"
)

// Only a Secret Service can be missing, locked, slow or replaced without
// touching the keyring of the user who runs the tests.

func init() {
	workers["locked"] = lockedWorker
	workers["slow"] = slowWorker
}

func TestNoKeyringIsAnErrorThatSaysSo(t *testing.T) {
	empty := t.TempDir()
	p := startWorker(t, "codec", "none", "DBUS_SESSION_BUS_ADDRESS=", "XDG_RUNTIME_DIR="+empty, "PATH="+empty)
	p.run()
	p.wantSaid("keyring: the OS keyring is not usable: ", "start a Secret Service", "walletauth.NewSealedCodec", "nothing is stored in clear")
}

func TestLockedKeyringIsAnErrorThatSaysSo(t *testing.T) {
	needKeyring(t)
	p := startWorker(t, "locked", "locked", "XDG_RUNTIME_DIR="+t.TempDir(), "XDG_DATA_HOME="+t.TempDir())
	p.run()
	p.wantSaid("keyring: the OS keyring is not usable: ", "failed to unlock", "unlock it")
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
	p.wantSaid("no answer within 3s", "unlock it and try again")
	if took := time.Since(began); took < 3*time.Second || took > 10*time.Second {
		t.Errorf("given up after %v, want 3 seconds", took)
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

func (s *slowService) serve() error {
	conn, err := dbus.ConnectSessionBus()
	if err != nil {
		return err
	}
	if err := conn.Export(s, servicePath, "org.freedesktop.Secret.Service"); err != nil {
		return err
	}
	if err := conn.Export(s, collectionPath, "org.freedesktop.Secret.Collection"); err != nil {
		return err
	}
	_, err = conn.RequestName("org.freedesktop.secrets", dbus.NameFlagDoNotQueue)
	return err
}

// slowWorker asks for a codec, and says how that ended and whether another
// process could make a key before and after the user answered.
func slowWorker(service string) error {
	slow := &slowService{asked: make(chan struct{}), answered: make(chan struct{})}
	if err := slow.serve(); err != nil {
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
	for deadline := time.After(10 * time.Second); !free; {
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
	w.wantSaid("keyring: the OS keyring is not usable: no answer within 3s", "free before the answer: false <nil>", "free after it: true")
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
