// Package seal encrypts what is stored under a name, so that it opens under that
// name only, by AES-256-GCM of the standard library.
//
// The format, version 1:
//
//	version  1 byte
//	key id   8 bytes, which of the keys sealed it
//	owner    8 bytes, which name it belongs to
//	length   4 bytes, big endian, of all that follows
//	nonce    12 bytes
//	content  encrypted
//	tag      16 bytes
//
// Everything before the nonce is authenticated together with the name. The owner
// and the length are there for the error: without them a swapped, a truncated
// and an altered ciphertext all fail in the same way.
//
// Each name has an encryption key of its own, derived by HKDF (RFC 5869), so that
// the limit of 2^32 messages that random nonces set (NIST SP 800-38D, section
// 8.3) is one for each name.
package seal

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

const (
	version = 1
	keySize = 32 // AES-256

	keyIDSize = 8
	ownerSize = 8

	keyIDAt  = 1
	ownerAt  = keyIDAt + keyIDSize
	lengthAt = ownerAt + ownerSize
	headSize = lengthAt + 4
)

// Keys seal by the first of them and open by all. They are safe for concurrent
// use.
type Keys struct{ keys []key }

// key is what is kept of a key: enough to derive from it.
type key struct {
	id  [keyIDSize]byte
	prk []byte // HKDF's pseudorandom key
}

// New takes keys of 32 bytes and copies them. It fails if there is none, if one
// has another length and if one is given twice. No error holds a key.
func New(keys ...[]byte) (*Keys, error) {
	if len(keys) == 0 {
		return nil, errors.New("a key is needed: 32 bytes from crypto/rand, kept where the program finds them again")
	}
	ks := &Keys{}
	for i, data := range keys {
		k, err := newKey(data)
		if err != nil {
			return nil, fmt.Errorf("key %d of %d: %w", i+1, len(keys), err)
		}
		if twin := ks.find(k.id[:]); twin != nil {
			return nil, fmt.Errorf("key %d of %d was given before: give each key once", i+1, len(keys))
		}
		ks.keys = append(ks.keys, k)
	}
	return ks, nil
}

func newKey(data []byte) (k key, err error) {
	if len(data) != keySize {
		return k, fmt.Errorf("it has %d bytes and must have %d; decode it first if it is hex or base64", len(data), keySize)
	}
	if k.prk, err = hkdf.Extract(sha256.New, data, nil); err != nil {
		return k, err
	}
	// The id is derived, so that nobody has to name keys or number them, and
	// eight bytes long, so that two keys never share one by chance.
	id, err := hkdf.Expand(sha256.New, k.prk, "walletauth sealed 1 key id", keyIDSize)
	copy(k.id[:], id)
	return k, err
}

func (ks *Keys) find(id []byte) *key {
	i := slices.IndexFunc(ks.keys, func(k key) bool { return bytes.Equal(k.id[:], id) })
	if i < 0 {
		return nil
	}
	return &ks.keys[i]
}

// derive makes the cipher of one name and the bytes that stand for the name in
// the head. Both come from one HKDF output: to know the one part tells nothing
// about the other.
func (k *key) derive(name string) (gcm cipher.AEAD, owner []byte, err error) {
	out, err := hkdf.Expand(sha256.New, k.prk, "walletauth sealed 1 session "+name, keySize+ownerSize)
	if err != nil {
		return nil, nil, err
	}
	block, err := aes.NewCipher(out[:keySize])
	if err != nil {
		return nil, nil, err
	}
	gcm, err = cipher.NewGCMWithRandomNonce(block)
	return gcm, out[keySize:], err
}

// Seal encrypts plain for name by the first key. It fails only where the
// standard library refuses the algorithms.
func (ks *Keys) Seal(name string, plain []byte) ([]byte, error) {
	k := ks.keys[0]
	gcm, owner, err := k.derive(name)
	if err != nil {
		return nil, err
	}
	size := len(plain) + gcm.Overhead()
	head := make([]byte, 0, headSize+size)
	head = append(head, version)
	head = append(head, k.id[:]...)
	head = append(head, owner...)
	head = binary.BigEndian.AppendUint32(head, uint32(size))
	return gcm.Seal(head, nil, plain, associated(head, name)), nil
}

// Open returns what any of the keys sealed for name. It fails on data that is
// empty, of another version, truncated, sealed by a key that is not among these,
// sealed for another name, or altered, and says which. No error holds a key or a
// part of the data but the id of a key.
func (ks *Keys) Open(name string, data []byte) ([]byte, error) {
	if err := checkShape(data); err != nil {
		return nil, err
	}
	head, sealed := data[:headSize], data[headSize:]
	k := ks.find(head[keyIDAt:ownerAt])
	if k == nil {
		return nil, fmt.Errorf("the key with id %x sealed it and is not among the %d given: give it too, behind the first", head[keyIDAt:ownerAt], len(ks.keys))
	}
	gcm, owner, err := k.derive(name)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(owner, head[ownerAt:lengthAt]) {
		return nil, errors.New("it was sealed for another session key: it was copied or renamed")
	}
	plain, err := gcm.Open(nil, nil, sealed, associated(head, name))
	if err != nil {
		return nil, errors.New("it was altered or damaged since it was sealed")
	}
	return plain, nil
}

// checkShape says what can be told without a key. Whether it is true is decided
// by the authentication: all of it is input there.
func checkShape(data []byte) error {
	if len(data) == 0 {
		return errors.New("it is empty")
	}
	if data[0] != version {
		return fmt.Errorf("version %d of the format is not known, only %d: if a newer release wrote it, update", data[0], version)
	}
	if len(data) < headSize {
		return fmt.Errorf("it is truncated within the first %d bytes", headSize)
	}
	want, have := int64(binary.BigEndian.Uint32(data[lengthAt:])), int64(len(data)-headSize)
	if have < want {
		return fmt.Errorf("it is truncated, %d bytes are missing", want-have)
	}
	if have > want {
		return fmt.Errorf("it has %d bytes too many", have-want)
	}
	return nil
}

// associated is what is authenticated and not encrypted. The head has one
// length, so no two pairs of head and name give the same bytes. The cipher is
// the name's own already; this binds them once more, should the derivation ever
// change.
func associated(head []byte, name string) []byte {
	return append(slices.Clone(head), name...)
}
