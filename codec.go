package walletauth

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/walletauth/walletauth/internal/api"
	"github.com/walletauth/walletauth/internal/seal"
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
	s, err := api.DecodeSession(data)
	if err != nil {
		return nil, unreadable{fmt.Errorf("walletauth: decode session: %w", err)}
	}
	return (*Session)(s), nil
}

// unreadable is an error that is ErrUnreadable too, without saying so twice.
type unreadable struct{ error }

func (e unreadable) Is(target error) bool { return target == ErrUnreadable }

func (e unreadable) Unwrap() error { return e.error }

// sealedCodec seals what JSONCodec makes.
type sealedCodec struct{ keys *seal.Keys }

var _ Codec = (*sealedCodec)(nil)

// NewSealedCodec returns a [Codec] that encrypts sessions by AES-256-GCM.
// Each key is 32 random bytes, from [crypto/rand.Read] for example, kept
// apart from the store. The keys are copied. The first key seals, all of
// them open. To rotate, processes that share sessions and restart one after
// the other need two roll-outs, since all must be able to open what any of
// them seals:
//
//	NewSealedCodec(old)      // before
//	NewSealedCodec(old, new) // first roll-out: all can open both
//	NewSealedCodec(new, old) // second roll-out
//	NewSealedCodec(new)      // once the longest refresh token has expired
//
// What is sealed for one session key opens for no other. Each has an
// encryption key of its own, by HKDF (RFC 5869), which keeps random nonces
// far from their limit (NIST SP 800-38D, section 8.3). An attacker can still
// put back an older session of the same key.
//
// It fails if there is no key, one is not 32 bytes long, or one is given
// twice. Encode refuses a nil or incomplete session; what Decode cannot open
// wraps [ErrUnreadable], and the error says why. No error holds a key or a
// token. The Codec is safe for concurrent use.
func NewSealedCodec(keys ...[]byte) (Codec, error) {
	k, err := seal.New(keys...)
	if err != nil {
		return nil, fmt.Errorf("walletauth: NewSealedCodec: %w", err)
	}
	return &sealedCodec{k}, nil
}

// Encode seals s by the first key.
func (c *sealedCodec) Encode(key string, s *Session) ([]byte, error) {
	plain, err := JSONCodec{}.Encode(key, s)
	if err != nil {
		return nil, err
	}
	data, err := c.keys.Seal(key, plain)
	if err != nil {
		return nil, fmt.Errorf("walletauth: seal session: %w", err)
	}
	return data, nil
}

// Decode opens what any of the keys sealed for key.
func (c *sealedCodec) Decode(key string, data []byte) (*Session, error) {
	plain, err := c.open(key, data)
	if err != nil {
		return nil, unreadable{fmt.Errorf("walletauth: open sealed session: %w", err)}
	}
	return JSONCodec{}.Decode(key, plain)
}

// open tells clear JSON, which a program finds that has just begun to seal, from
// what is damaged.
func (c *sealedCodec) open(key string, data []byte) ([]byte, error) {
	if len(data) > 0 && data[0] == '{' {
		return nil, errors.New("it is not sealed and looks like JSON: to move to sealed sessions, decode it by JSONCodec, as the example of NewSealedCodec does")
	}
	return c.keys.Open(key, data)
}
