package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/walletauth/walletauth"
)

// sessionFile is one session, read once and written back when it is refreshed.
//
// It shows how small a FuncStore may be, and is here because the root module
// may not depend on the nested one that has the store for files. It knows
// nothing of other processes: where two share a session, take that one.
type sessionFile struct {
	path string

	mu      sync.Mutex // guards session
	session *walletauth.Session
}

func openSession(path string) (*sessionFile, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("the file of -session cannot be read: %w", pathless(err))
	}
	s, err := walletauth.JSONCodec{}.Decode("", data)
	if err != nil {
		return nil, fmt.Errorf("the file of -session is not the JSON of a login: %w", err)
	}
	return &sessionFile{path: path, session: s}, nil
}

// pathless drops the path from an error: somebody who gives the session itself
// where its file belongs should not find the tokens in a terminal's history.
func pathless(err error) error {
	var e *fs.PathError
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}

func (f *sessionFile) store() walletauth.TokenStore {
	return &walletauth.FuncStore{LoadFunc: f.load, SaveFunc: f.save}
}

func (f *sessionFile) load(context.Context, string) (*walletauth.Session, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.session == nil {
		return nil, walletauth.ErrNoSession
	}
	return f.session, nil
}

// save writes first and shows the session afterwards, so that nobody uses one
// that a crash would lose.
func (f *sessionFile) save(_ context.Context, key string, s *walletauth.Session) error {
	if err := f.write(key, s); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.session = s
	return nil
}

func (f *sessionFile) write(key string, s *walletauth.Session) error {
	if s == nil {
		return os.Remove(f.path)
	}
	data, err := walletauth.JSONCodec{}.Encode(key, s)
	if err != nil {
		return err
	}
	return replaceFile(f.path, append(data, '\n'))
}

// replaceFile writes beside the file and renames, so that there is the old
// session or the new one at any time and never half of one. CreateTemp makes a
// file that only its owner can read, whatever the mode of the old one was.
func replaceFile(path string, data []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".session-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // finds nothing once it has the other name
	_, err = tmp.Write(data)
	// Without Sync a crash may leave the name on an empty file.
	if err := cmp.Or(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
