package filestore

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/walletauth/walletauth"
)

// A session file is one line, which says what it is and whose, and then what
// the codec made.
const magic = "walletauth session 1 "

func (s *Store) format(key string, session *walletauth.Session) ([]byte, error) {
	data, err := s.codec().Encode(key, session)
	if err != nil {
		return nil, fmt.Errorf("filestore: %w", err)
	}
	return append([]byte(magic+hash(key)+"\n"), data...), nil
}

// parse reads what format made. Its errors hold nothing of data.
func (s *Store) parse(key string, data []byte) (*walletauth.Session, error) {
	line, rest, _ := bytes.Cut(data, []byte("\n"))
	owner, ours := bytes.CutPrefix(line, []byte(magic))
	if len(data) == 0 {
		return nil, errors.New("it is empty")
	}
	if !ours {
		return nil, errors.New("it is not a session file of this version")
	}
	if string(owner) != hash(key) {
		return nil, errors.New("it belongs to another session key: it was copied or renamed")
	}
	session, err := s.codec().Decode(key, rest)
	if err == nil && session == nil {
		return nil, errors.New("the codec returned neither a session nor an error")
	}
	if errors.Is(err, walletauth.ErrNoSession) {
		// A file is a session: to log the user out for a codec's word would
		// lose it.
		return nil, errors.New("the codec found no session in it")
	}
	return session, err
}
