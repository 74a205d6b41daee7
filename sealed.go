package walletauth

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// The sealed format, version 1:
//
//	version  1 byte
//	key id   8 bytes, which of the keys sealed it
//	owner    8 bytes, which session key it belongs to
//	length   4 bytes, big endian, of all that follows
//	nonce    12 bytes
//	session  its JSON, encrypted
//	tag      16 bytes
//
// Everything before the nonce is authenticated together with the session key.
// The owner and the length are there for the error: without them a swapped, a
// truncated and an altered ciphertext all fail in the same way, and each is
// mended differently.
const (
	sealedVersion = 1
	sealedKeySize = 32 // AES-256

	keyIDSize = 8
	ownerSize = 8

	keyIDAt    = 1
	ownerAt    = keyIDAt + keyIDSize
	lengthAt   = ownerAt + ownerSize
	sealedHead = lengthAt + 4
)

// sealedCodec seals by the first of its keys and opens by all of them.
type sealedCodec struct{ keys []sealingKey }

var _ Codec = (*sealedCodec)(nil)

// sealingKey is what is kept of a key: enough to derive from it.
type sealingKey struct {
	id  [keyIDSize]byte
	prk []byte // HKDF's pseudorandom key
}

// NewSealedCodec returns a [Codec] that encrypts sessions by AES-256-GCM, for
// stores whose disk, database or backup others may read. Each key is 32 random
// bytes, from [crypto/rand.Read] for example, and is best kept apart from the
// store. The keys are copied.
//
// The first key seals, all of them open. To rotate, put the new key first and
// keep the old one behind it: each refresh then moves a session to the new
// key, and once the longest refresh token has expired the old one can go.
//
// What is sealed for one session key opens for no other, so a row or file that
// was copied to another user's name is refused. Each session key has an
// encryption key of its own, derived by HKDF (RFC 5869), so that the limit of
// 2^32 messages that random nonces set (NIST SP 800-38D, section 8.3) is one
// for each user and out of reach. What an attacker may still do is put an older
// session of the same key back.
//
// NewSealedCodec fails if there is no key, if one is not 32 bytes long and if
// one is given twice. Encode refuses a nil or incomplete session. Decode
// fails, saying which and what to do, on data that is not sealed, of a later
// version, truncated, sealed by a key that is not among these, sealed for
// another session key, or altered; never with [ErrNoSession], which would log
// the user out. No error holds a key or a token.
//
// The Codec is safe for concurrent use.
func NewSealedCodec(keys ...[]byte) (Codec, error) {
	if len(keys) == 0 {
		return nil, errors.New("walletauth: NewSealedCodec needs a key: 32 bytes from crypto/rand, kept where the program finds them again")
	}
	c := &sealedCodec{}
	for i, key := range keys {
		k, err := newSealingKey(key)
		if err != nil {
			return nil, fmt.Errorf("walletauth: NewSealedCodec: key %d of %d: %w", i+1, len(keys), err)
		}
		if twin := c.find(k.id[:]); twin != nil {
			return nil, fmt.Errorf("walletauth: NewSealedCodec: key %d of %d was given before: give each key once, the new one first", i+1, len(keys))
		}
		c.keys = append(c.keys, k)
	}
	return c, nil
}

func newSealingKey(key []byte) (k sealingKey, err error) {
	if len(key) != sealedKeySize {
		return k, fmt.Errorf("it has %d bytes and must have %d; decode it first if it is hex or base64", len(key), sealedKeySize)
	}
	if k.prk, err = hkdf.Extract(sha256.New, key, nil); err != nil {
		return k, err
	}
	// The id is derived, so that nobody has to name keys or number them, and
	// eight bytes long, so that two keys never share one by chance.
	id, err := hkdf.Expand(sha256.New, k.prk, "walletauth sealed 1 key id", keyIDSize)
	copy(k.id[:], id)
	return k, err
}

func (c *sealedCodec) find(id []byte) *sealingKey {
	i := slices.IndexFunc(c.keys, func(k sealingKey) bool { return bytes.Equal(k.id[:], id) })
	if i < 0 {
		return nil
	}
	return &c.keys[i]
}

// derive makes the cipher of one session key and the bytes that name the
// session key in the head. Both come from one HKDF output: to know the one
// part tells nothing about the other.
func (k *sealingKey) derive(key string) (gcm cipher.AEAD, owner []byte, err error) {
	out, err := hkdf.Expand(sha256.New, k.prk, "walletauth sealed 1 session "+key, sealedKeySize+ownerSize)
	if err != nil {
		return nil, nil, err
	}
	block, err := aes.NewCipher(out[:sealedKeySize])
	if err != nil {
		return nil, nil, err
	}
	gcm, err = cipher.NewGCMWithRandomNonce(block)
	return gcm, out[sealedKeySize:], err
}

// Encode seals s by the first key.
func (c *sealedCodec) Encode(key string, s *Session) ([]byte, error) {
	plain, err := JSONCodec{}.Encode(key, s)
	if err != nil {
		return nil, err
	}
	k := c.keys[0]
	gcm, owner, err := k.derive(key)
	if err != nil {
		return nil, fmt.Errorf("walletauth: seal session: %w", err)
	}
	size := len(plain) + gcm.Overhead()
	head := make([]byte, 0, sealedHead+size)
	head = append(head, sealedVersion)
	head = append(head, k.id[:]...)
	head = append(head, owner...)
	head = binary.BigEndian.AppendUint32(head, uint32(size))
	return gcm.Seal(head, nil, plain, associated(head, key)), nil
}

// Decode opens what any of the keys sealed for key.
func (c *sealedCodec) Decode(key string, data []byte) (*Session, error) {
	plain, err := c.open(key, data)
	if err != nil {
		return nil, fmt.Errorf("walletauth: open sealed session: %w", err)
	}
	return JSONCodec{}.Decode(key, plain)
}

func (c *sealedCodec) open(key string, data []byte) ([]byte, error) {
	if err := checkSealedShape(data); err != nil {
		return nil, err
	}
	head, sealed := data[:sealedHead], data[sealedHead:]
	k := c.find(head[keyIDAt:ownerAt])
	if k == nil {
		return nil, fmt.Errorf("the key with id %x sealed it and is not among the %d given: give it too, behind the first", head[keyIDAt:ownerAt], len(c.keys))
	}
	gcm, owner, err := k.derive(key)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(owner, head[ownerAt:lengthAt]) {
		return nil, errors.New("it was sealed for another session key: it was copied or renamed; restore what belongs to this key, or remove it and log in again")
	}
	plain, err := gcm.Open(nil, nil, sealed, associated(head, key))
	if err != nil {
		return nil, errors.New("it was altered or damaged since it was sealed: restore it, or remove it and log in again")
	}
	return plain, nil
}

// checkSealedShape says what can be told without a key. Whether it is true is
// decided by the authentication: all of it is input there.
func checkSealedShape(data []byte) error {
	if len(data) == 0 {
		return errors.New("it is empty: restore it, or remove it and log in again")
	}
	if data[0] == '{' {
		return errors.New("it is not sealed and looks like JSON: read it by JSONCodec and save it by this codec, or remove it and log in again")
	}
	if data[0] != sealedVersion {
		return fmt.Errorf("version %d of the format is not known, only %d: if a newer release wrote it, update; else restore it, or remove it and log in again", data[0], sealedVersion)
	}
	if len(data) < sealedHead {
		return fmt.Errorf("it is truncated within the first %d bytes: restore it, or remove it and log in again", sealedHead)
	}
	want, have := int64(binary.BigEndian.Uint32(data[lengthAt:])), int64(len(data)-sealedHead)
	if have < want {
		return fmt.Errorf("it is truncated, %d bytes are missing: restore it, or remove it and log in again", want-have)
	}
	if have > want {
		return fmt.Errorf("it has %d bytes too many: restore it, or remove it and log in again", have-want)
	}
	return nil
}

// associated is what is authenticated and not encrypted. The head has one
// length, so no two pairs of head and key give the same bytes. The cipher is
// the session key's own already; this binds them once more, should the
// derivation ever change.
func associated(head []byte, key string) []byte {
	return append(slices.Clone(head), key...)
}
