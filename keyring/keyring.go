// Package keyring seals sessions by a key that the operating system keeps: in
// the macOS Keychain, the Windows Credential Manager, or on Linux and the BSDs
// a Secret Service such as GNOME Keyring, KWallet or KeePassXC.
//
//	codec, err := keyring.Codec("my-app")
//	if err != nil {
//		return err
//	}
//	store := &filestore.Store{App: "my-app", Codec: codec}
//
// Only a random key lies in the keyring, and the sessions stay with their
// store: keyrings hold little (some 3,000 bytes on macOS), are slow, and
// exclude nobody while a session is refreshed.
//
// This protects sessions in backups, on a stolen disk and from other users. It
// does not protect them from programs that run as the same user, which can
// mostly ask the keyring too.
package keyring

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/walletauth/walletauth"
	oskeyring "github.com/zalando/go-keyring"
)

const (
	// account is the name of the item beside the service's.
	account = "walletauth session key"
	// prefix tells the item's format.
	prefix = "walletauth-key-1:"

	keySize = 32
)

// callTimeout bounds one call of the keyring. It answers within some
// milliseconds, or asks the user for a password and then waits for ever;
// a program without anybody before it must not. Tests change it.
var callTimeout = 3 * time.Second

// lockTimeout bounds the wait for another process that makes the key, which
// takes four calls.
func lockTimeout() time.Duration { return 4 * callTimeout }

// Codec returns a [walletauth.Codec] that seals sessions as
// [walletauth.NewSealedCodec] does, by the key that the OS keyring holds for
// service. A service names the program, "my-app" for example, and is the same
// in every process that shares sessions: 1 to 200 bytes without control
// characters.
//
// The key is made at the first call, 32 random bytes, once for all processes
// that start together. It is read once: the Codec asks the keyring nothing
// afterwards. If the item is deleted from the keyring, the next call makes a
// new key, and what the old one sealed can never be opened again: its errors
// say so, and the user logs in again.
//
// Each call of the keyring is given 3 seconds, so that a prompt that nobody
// answers does not hang the program; Codec returns within 27 seconds at the
// worst. It is safe for concurrent use, and so is what it returns.
//
// The errors: [ErrUnavailable], there is no keyring; [ErrLocked], it does not open;
// service is no name as above; the item in the keyring is not a key of this
// package; the lock file cannot be made; the keyring failed otherwise. Each says
// what to do. Codec never falls back to storing in clear.
func Codec(service string) (walletauth.Codec, error) {
	if err := checkService(service); err != nil {
		return nil, err
	}
	key, err := readKey(service)
	if errors.Is(err, oskeyring.ErrNotFound) {
		key, err = makeKey(service)
	}
	if err != nil {
		return nil, err
	}
	return walletauth.NewSealedCodec(key)
}

func checkService(service string) error {
	if service == "" || len(service) > 200 || strings.ContainsFunc(service, unicode.IsControl) {
		return errors.New("keyring: the service must be 1 to 200 bytes without control characters: pass your program's name")
	}
	return nil
}

// makeKey makes the key of service unless another process just did. Without
// the locks two processes that start together would each make one, and what the
// loser sealed could not be opened again.
func makeKey(service string) (key []byte, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), lockTimeout())
	defer cancel()
	unlock, err := lock(ctx, service)
	if err != nil {
		return nil, err
	}
	written := closed() // nothing is being written yet
	// A write that did not answer in time may still take effect, once the
	// user has answered. Until then no other process must make a key.
	defer func() { go func() { <-written; unlock() }() }()

	key, err = readKey(service)
	if !errors.Is(err, oskeyring.ErrNotFound) {
		return key, err
	}
	key = make([]byte, keySize)
	rand.Read(key) // it never fails
	if written, err = writeKey(service, key); err != nil {
		return nil, err
	}
	return keptKey(service)
}

// keptKey reads back what was written: a keyring that takes a key and does not
// keep it is found before anything is sealed. If another key is there, because
// somebody without our lock made one too, then that is the one that the next
// start will find.
func keptKey(service string) ([]byte, error) {
	key, err := readKey(service)
	if errors.Is(err, oskeyring.ErrNotFound) {
		return nil, errors.New("keyring: the OS keyring took the key and did not keep it: see that its default collection can be written")
	}
	return key, err
}

// lock takes all locks under which the key of service is made.
func lock(ctx context.Context, service string) (unlock func(), err error) {
	unlockFile, err := lockFile(ctx, service)
	if err != nil {
		return nil, err
	}
	unlockKeyring, err := lockKeyring(ctx, service)
	if err != nil {
		unlockFile()
		return nil, err
	}
	return func() { unlockKeyring(); unlockFile() }, nil
}

// readKey returns the key. The error is oskeyring.ErrNotFound if there is none.
func readKey(service string) ([]byte, error) {
	var item string
	done := start(func() (err error) {
		item, err = oskeyring.Get(service, account)
		return err
	})
	if err := wait(done); err != nil {
		return nil, explain(err)
	}
	return decodeKey(service, item)
}

func writeKey(service string, key []byte) (written <-chan struct{}, err error) {
	done := start(func() error { return oskeyring.Set(service, account, encodeKey(key)) })
	return done.closed, explain(wait(done))
}

func encodeKey(key []byte) string { return prefix + base64.StdEncoding.EncodeToString(key) }

// decodeKey refuses what encodeKey did not make, rather than to replace it:
// it may be another program's, or a later release's.
func decodeKey(service, item string) ([]byte, error) {
	text, ok := strings.CutPrefix(item, prefix)
	key, err := base64.StdEncoding.DecodeString(text)
	if !ok || err != nil || len(key) != keySize {
		return nil, fmt.Errorf("keyring: the item %q of service %q in the OS keyring is not a session key of this version: choose another service, or delete the item and log in again", account, service)
	}
	return key, nil
}
