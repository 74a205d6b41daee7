package walletauth

import (
	"encoding/json"
	"fmt"
)

// Codec is how a store writes a session down. Stores outside of the process take
// one and use [JSONCodec] if it is nil.
//
// Implementations must be safe for concurrent use.
type Codec interface {
	// Encode returns s, the session of key, as bytes, at least one. It must
	// not change s. An error leaves the stored session as it is.
	Encode(key string, s *Session) ([]byte, error)
	// Decode is the reverse, and returns a new Session. What it cannot read is
	// an error that wraps ErrUnreadable, and never ErrNoSession, which would log
	// the user out. No error may quote a token.
	Decode(key string, data []byte) (*Session, error)
}

// JSONCodec writes a session as the API's own JSON, the tokens in clear, times
// as RFC 3339 has them. The key is not used. It is the default of every store
// that takes a [Codec]. It has no options and is safe for concurrent use.
type JSONCodec struct{}

var _ Codec = JSONCodec{}

// Encode returns the JSON of s. It refuses a nil or incomplete session, and an
// access token that cannot be sent in a header, with an error that names the
// field.
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

// Decode reads what Encode wrote, or the reply to a login; members that it does
// not know are ignored. It refuses data that is not JSON or not a complete
// session with an error that wraps [ErrUnreadable], names the field and quotes
// nothing of the data.
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
