package main

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/filestore"
	"github.com/walletauth/walletauth/keyring"
)

// newStore opens the sessions of all profiles. It is the one place that knows
// where they are: in configDir.
func newStore(codec walletauth.Codec) walletauth.TokenStore {
	return &filestore.Store{App: appName, Codec: codec}
}

// openStore opens the sessions as p says they are sealed.
func openStore(p *profile) (walletauth.TokenStore, error) {
	codec, err := openCodec(p)
	if err != nil {
		return nil, err
	}
	return newStore(codec), nil
}

func openCodec(p *profile) (walletauth.Codec, error) {
	switch p.Storage {
	case inClear:
		return walletauth.JSONCodec{}, nil
	case inKeyFile:
		key, err := readKeyFile(p.KeyFile)
		if err != nil {
			return nil, err
		}
		return walletauth.NewSealedCodec(key)
	case inKeyring:
		codec, err := keyring.Codec(appName)
		if err != nil {
			return nil, keyringFailure(err)
		}
		return codec, nil
	}
	return nil, fmt.Errorf("the profile %s says that its session is kept in %q: this version knows keyring, key-file and insecure: log in again", p.Name, p.Storage)
}

// unopenable stands for a codec whose key cannot be had. What is stored counts
// as unreadable, which a logout goes past.
type unopenable struct{ walletauth.JSONCodec }

func (unopenable) Decode(string, []byte) (*walletauth.Session, error) {
	return nil, walletauth.ErrUnreadable
}

const keySize = 32

// readKeyFile reads a sealing key: 32 bytes in base64, in a file that others
// cannot open. No error quotes the content.
func readKeyFile(file string) ([]byte, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the key file %s is missing: restore it, or log in again with --key-file to make a new one", file)
	}
	if err != nil {
		return nil, fmt.Errorf("the key file cannot be read: %w", err)
	}
	defer func() { _ = f.Close() }() // it was only read
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("the key file cannot be read: %w", err)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("the key file %s can be opened by other users (mode %04o): run chmod 600 %s, and log in again if somebody may have read it", file, info.Mode().Perm(), file)
	}
	return decodeKey(f, file)
}

func decodeKey(f io.Reader, file string) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(f, 1024))
	if err != nil {
		return nil, fmt.Errorf("the key file %s cannot be read: %w", file, err)
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(key) != keySize {
		return nil, fmt.Errorf("the key file %s does not hold %d bytes in base64: remove it and log in again with --key-file, which makes one", file, keySize)
	}
	return key, nil
}

// makeKeyFile makes a sealing key unless the file is there already. It is linked
// into place whole, so that of two logins at once both use the same key.
func makeKeyFile(file string) error {
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		return err // nil if it is there
	}
	dir := filepath.Dir(file)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".walletauth-key-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	key := make([]byte, keySize)
	rand.Read(key) // it never fails
	_, err = fmt.Fprintln(f, base64.StdEncoding.EncodeToString(key))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), file); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// keyringFailure says what the user can do. Nothing is stored in clear by
// itself: the two ways out are the user's to choose.
func keyringFailure(err error) error {
	switch {
	case errors.Is(err, keyring.ErrUnavailable):
		return failed(exitFailed, "there is no keyring here to seal the session. Start one, or choose one of two ways out:\n"+
			"  walletauth login --key-file FILE      seals the session by a key in a file of yours\n"+
			"  walletauth login --insecure-storage   keeps it unsealed, in a file that only you can open")
	case errors.Is(err, keyring.ErrLocked):
		return failed(exitFailed, "the keyring is locked: unlock it and try again. Where nobody can, as in a job at night,\n"+
			"log in with --key-file FILE, which seals the session by a key in a file of yours")
	}
	return failed(exitFailed, "the keyring cannot be used: %s", plain(err))
}

func isLoopback(host string) bool {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
