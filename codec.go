package walletauth

import (
	"encoding/json"
	"fmt"
)

// Codec is how a store outside of the process writes a session down. It must
// be safe for concurrent use.
type Codec interface {
	// Encode returns s, the session of key, as one byte or more. It must not change s.
	Encode(key string, s *Session) ([]byte, error)
	// Decode is the reverse, and returns a new Session. If it cannot read data, the error wraps
	// ErrUnreadable, and never ErrNoSession. No error may quote a token.
	Decode(key string, data []byte) (*Session, error)
}

// JSONCodec writes a session as the API's JSON, tokens in clear. The key is
// not used. It is the default of every store, and safe for concurrent use.
type JSONCodec struct{}

var _ Codec = JSONCodec{}

// Encode refuses a nil or incomplete session, and an access token that
// cannot be sent in a header; the error names the field.
func (JSONCodec) Encode(_ string, s *Session) ([]byte, error) {
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("walletauth: encode session: %w", err)
	}
	data, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("walletauth: encode session: %w", err)
	}
	return data, nil
}

// Decode reads what Encode wrote, or the reply to a login. Its error wraps
// [ErrUnreadable], names the field and quotes nothing.
func (JSONCodec) Decode(_ string, data []byte) (*Session, error) {
	s, err := decodeSession(data)
	if err != nil {
		return nil, unreadable{fmt.Errorf("walletauth: decode session: %w", err)}
	}
	return s, nil
}

// unreadable is an error that is ErrUnreadable too, without saying so twice.
type unreadable struct{ error }

func (e unreadable) Is(target error) bool { return target == ErrUnreadable }

func (e unreadable) Unwrap() error { return e.error }
