package walletauth

import (
	"errors"
	"fmt"

	"github.com/walletauth/walletauth/internal/seal"
)

// sealedCodec seals what JSONCodec makes.
type sealedCodec struct{ keys *seal.Keys }

var _ Codec = (*sealedCodec)(nil)

// NewSealedCodec returns a [Codec] that encrypts sessions by AES-256-GCM, for
// stores whose disk, database or backup others may read. Each key is 32 random
// bytes, from [crypto/rand.Read] for example, and is best kept apart from the
// store. The keys are copied.
//
// The first key seals, all of them open. A program of one process is rotated by
// putting the new key before the old one: each refresh then moves a session to
// the new key. Where several processes share the sessions and are restarted one
// after the other, that takes two roll-outs, since those that do not have the
// new key yet could not open what the others seal by it:
//
//	NewSealedCodec(old)      // before
//	NewSealedCodec(old, new) // first roll-out: all can open both, the old key seals
//	NewSealedCodec(new, old) // second roll-out, after the first has reached all
//	NewSealedCodec(new)      // once the longest refresh token has expired
//
// What is sealed for one session key opens for no other, so a row or file that
// was copied to another user's name is refused. Each session key has an
// encryption key of its own, derived by HKDF (RFC 5869), so that the limit of
// 2^32 messages that random nonces set (NIST SP 800-38D, section 8.3) is one
// for each user and out of reach. What an attacker may still do is put an older
// session of the same key back.
//
// NewSealedCodec fails if there is no key, if one is not 32 bytes long and if
// one is given twice. Encode refuses a nil or incomplete session. Decode fails
// with an error that wraps [ErrUnreadable] and says why, on data that is not
// sealed, of a later version, truncated, sealed by a key that is not among these,
// sealed for another session key, or altered. No error holds a key or a token.
//
// The Codec is safe for concurrent use.
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
