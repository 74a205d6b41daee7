package walletauth_test

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/walletauth/walletauth"
)

// What stands where in the format, as its comment says.
const (
	sealedKeyID  = 1
	sealedOwner  = 9
	sealedLength = 17
	sealedNonce  = 21
)

func sealedKey(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }

func sealedCodec(t testing.TB, keys ...[]byte) walletauth.Codec {
	t.Helper()
	c, err := walletauth.NewSealedCodec(keys...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func sealedSession() *walletauth.Session {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	return &walletauth.Session{
		ID: "sid", CreatedAt: at, ProjectID: "project", UserID: "user",
		AccessToken: "access-secret", AccessTokenExpiresAt: at.Add(5 * time.Minute),
		RefreshToken: "refresh-secret", RefreshTokenExpiresAt: at.Add(30 * 24 * time.Hour),
	}
}

func sealedData(t testing.TB, c walletauth.Codec, key string) []byte {
	t.Helper()
	data, err := c.Encode(key, sealedSession())
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// checkSealedError demands what holds for every refusal: it is not "no session",
// and neither a token nor a key is in its text.
func checkSealedError(t testing.TB, err error, want string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	text := err.Error()
	if !strings.HasPrefix(text, "walletauth: ") || !strings.Contains(text, want) {
		t.Errorf("error %q, want it to say %q", text, want)
	}
	if errors.Is(err, walletauth.ErrNoSession) || errors.Is(err, walletauth.ErrSessionExpired) {
		t.Errorf("error %q would log the user out", text)
	}
	for _, secret := range []string{"access-secret", "refresh-secret", string(sealedKey(1)), string(sealedKey(2))} {
		if strings.Contains(text, secret) {
			t.Errorf("error %q holds a secret", text)
		}
	}
}

func TestSealedSessionComesBackWhole(t *testing.T) {
	for name, key := range map[string]string{
		"the empty key":      "",
		"a plain key":        "alice",
		"a key not in UTF-8": "\xff\x00\xfe",
		"a very long key":    strings.Repeat("k", 10_000),
	} {
		t.Run(name, func(t *testing.T) {
			c := sealedCodec(t, sealedKey(1))
			got, err := c.Decode(key, sealedData(t, c, key))
			if err != nil {
				t.Fatal(err)
			}
			if *got != *sealedSession() {
				t.Error("another session came back")
			}
		})
	}
}

func TestSealedDataShowsNothing(t *testing.T) {
	c := sealedCodec(t, sealedKey(1))
	a, b := sealedData(t, c, "alice"), sealedData(t, c, "alice")
	for _, word := range []string{"alice", "access-secret", "refresh-secret", "user", "project"} {
		if bytes.Contains(a, []byte(word)) {
			t.Errorf("%q stands in clear", word)
		}
	}
	if bytes.Equal(a[sealedNonce:], b[sealedNonce:]) {
		t.Error("sealed twice, the same session looks the same: the nonce repeats")
	}
	if bytes.Equal(a[sealedOwner:sealedLength], sealedData(t, sealedCodec(t, sealedKey(2)), "alice")[sealedOwner:sealedLength]) {
		t.Error("the owner does not depend on the key: who is whose can be guessed without it")
	}
}

func TestNewSealedCodecRefusesKeys(t *testing.T) {
	for name, row := range map[string]struct {
		keys [][]byte
		want string
	}{
		"none":             {nil, "needs a key: 32 bytes"},
		"nil":              {[][]byte{nil}, "key 1 of 1: it has 0 bytes and must have 32"},
		"of 31 bytes":      {[][]byte{sealedKey(1)[:31]}, "it has 31 bytes"},
		"of 16 bytes":      {[][]byte{sealedKey(1)[:16]}, "it has 16 bytes"},
		"still in hex":     {[][]byte{[]byte(strings.Repeat("01", 32))}, "decode it first if it is hex"},
		"a bad second one": {[][]byte{sealedKey(1), sealedKey(2)[:5]}, "key 2 of 2: it has 5 bytes"},
		"given twice":      {[][]byte{sealedKey(1), sealedKey(2), sealedKey(1)}, "key 3 of 3 was given before"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := walletauth.NewSealedCodec(row.keys...)
			checkSealedError(t, err, row.want)
			if c != nil {
				t.Error("a codec came with the error")
			}
		})
	}
}

func TestSealedDecodeSaysWhatIsWrong(t *testing.T) {
	c := sealedCodec(t, sealedKey(1))
	good := sealedData(t, c, "alice")
	edited := func(edit func(b []byte) []byte) []byte { return edit(bytes.Clone(good)) }
	plain, err := walletauth.JSONCodec{}.Encode("alice", sealedSession())
	if err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct {
		data []byte
		want string
	}{
		"nil":                           {nil, "it is empty"},
		"plain JSON":                    {plain, "it is not sealed and looks like JSON: read it by JSONCodec"},
		"a later version":               {edited(func(b []byte) []byte { b[0] = 2; return b }), "version 2 of the format is not known"},
		"cut in the head":               {good[:sealedNonce-1], "truncated within the first 21 bytes"},
		"cut by one byte":               {good[:len(good)-1], "truncated, 1 bytes are missing"},
		"cut to the head":               {good[:sealedNonce], "truncated, "},
		"a byte too many":               {append(bytes.Clone(good), 0), "1 bytes too many"},
		"a key that is not given":       {sealedData(t, sealedCodec(t, sealedKey(2)), "alice"), "is not among the 1 given: give it too"},
		"swapped with another user's":   {sealedData(t, c, "bob"), "sealed for another session key"},
		"another key's id written over": {edited(func(b []byte) []byte { b[sealedKeyID]++; return b }), "is not among the 1 given"},
		"the owner altered":             {edited(func(b []byte) []byte { b[sealedOwner]++; return b }), "sealed for another session key"},
		"the nonce altered":             {edited(func(b []byte) []byte { b[sealedNonce]++; return b }), "altered or damaged"},
		"the ciphertext altered":        {edited(func(b []byte) []byte { b[len(b)/2]++; return b }), "altered or damaged"},
		"the tag altered":               {edited(func(b []byte) []byte { b[len(b)-1]++; return b }), "altered or damaged"},
		"too short for a tag": {edited(func(b []byte) []byte {
			binary.BigEndian.PutUint32(b[sealedLength:], 5)
			return b[:sealedNonce+5]
		}), "altered or damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := c.Decode("alice", row.data)
			checkSealedError(t, err, row.want)
			if s != nil {
				t.Error("a session came with the error")
			}
		})
	}
}

// A body moved under the head of another user, both genuine, is the attack
// that a head without authentication would allow.
func TestSealedHeadIsBoundToItsBody(t *testing.T) {
	c := sealedCodec(t, sealedKey(1))
	alice, bob := sealedData(t, c, "alice"), sealedData(t, c, "bob")
	_, err := c.Decode("alice", append(bytes.Clone(alice[:sealedNonce]), bob[sealedNonce:]...))
	checkSealedError(t, err, "altered or damaged")
}

func TestSealedEveryByteIsAuthenticated(t *testing.T) {
	c := sealedCodec(t, sealedKey(1), sealedKey(2))
	good := sealedData(t, c, "alice")
	for i := range good {
		for bit := range 8 {
			data := bytes.Clone(good)
			data[i] ^= 1 << bit
			if _, err := c.Decode("alice", data); err == nil {
				t.Fatalf("bit %d of byte %d was flipped and nobody noticed", bit, i)
			}
		}
	}
}

func TestSealedEveryTruncationIsCalledOne(t *testing.T) {
	c := sealedCodec(t, sealedKey(1))
	good := sealedData(t, c, "alice")
	for n := 1; n < len(good); n++ {
		_, err := c.Decode("alice", good[:n])
		checkSealedError(t, err, "truncated")
	}
}

func TestSealedEncodeRefusesAnIncompleteSession(t *testing.T) {
	c := sealedCodec(t, sealedKey(1))
	_, err := c.Encode("alice", nil)
	checkSealedError(t, err, "the session is nil")
	s := sealedSession()
	s.RefreshToken = ""
	_, err = c.Encode("alice", s)
	checkSealedError(t, err, "lacks refresh_token")
}

func TestSealedKeysAreCopied(t *testing.T) {
	key := sealedKey(1)
	c := sealedCodec(t, key)
	clear(key)
	if _, err := sealedCodec(t, sealedKey(1)).Decode("alice", sealedData(t, c, "alice")); err != nil {
		t.Error(err)
	}
}

func TestSealedFirstKeySealsAllOpen(t *testing.T) {
	before := sealedCodec(t, sealedKey(1))
	during := sealedCodec(t, sealedKey(2), sealedKey(1))
	after := sealedCodec(t, sealedKey(2))
	if _, err := during.Decode("alice", sealedData(t, before, "alice")); err != nil {
		t.Errorf("the old key does not open: %v", err)
	}
	if _, err := after.Decode("alice", sealedData(t, during, "alice")); err != nil {
		t.Errorf("the first key did not seal: %v", err)
	}
	_, err := before.Decode("alice", sealedData(t, during, "alice"))
	checkSealedError(t, err, "is not among the 1 given")
}

// goldenSealed is sealedSession for "alice", sealed by the first release.
func goldenSealed(t testing.TB) []byte {
	t.Helper()
	const golden = "01fb3083ccae78d0134f394cce731aaf5a0000011746ab0078ce2af2a7e651da75fe24053aec871637d247ba959a14f8c370933284fc3c9d4a16e8c409add8759e62301647d336c9744419b70a12cdf49e533857bc91d59a738cd73197e7bcd085e5728974c46c1fc2321352ad24f861cca6d44a3994e3f5e808b9714656e49923702247b14397a3c7ce0967a29eae618485fda6a027cb74b50b0aecc40201a1b03a715ce71fa61a4a632316b314c99e6a0a3bc441aa8599a94dc372402cb7b5af5130630c0871ee73bedbc21e7ee4818750ae2453f54df66ca9def448dc2b81ee720babdf2c22cfa5c840fd65f4287ed034ffa57f190b6a720d3b01779dd8298d63c768ea5dbbd42d50f5b2d813ebe8a9ba6f87e5e0580f6a3cf3518a17d9cecf531eccc7f45e4d6e208a8b"
	data, err := hex.DecodeString(golden)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestSealedDataOfTheFirstReleaseOpens(t *testing.T) {
	s, err := sealedCodec(t, sealedKey(1)).Decode("alice", goldenSealed(t))
	if err != nil {
		t.Fatal(err)
	}
	if s.AccessToken != "access-secret" || s.RefreshToken != "refresh-secret" {
		t.Error("another session came back")
	}
}

func FuzzSealedRoundTrip(f *testing.F) {
	f.Add("alice", "user", "access", "refresh", uint16(3), byte(1))
	f.Add("", "\xff", "a b", "\"", uint16(40), byte(0x80))
	c := sealedCodec(f, sealedKey(1), sealedKey(2))
	f.Fuzz(func(t *testing.T, key, user, access, refresh string, at uint16, flip byte) {
		s := sealedSession()
		s.UserID, s.AccessToken, s.RefreshToken = user, access, refresh
		plain, plainErr := walletauth.JSONCodec{}.Encode(key, s)
		data, err := c.Encode(key, s)
		if (err == nil) != (plainErr == nil) {
			t.Fatalf("sealed: %v, plain: %v", err, plainErr)
		}
		if err != nil {
			return
		}
		got, err := c.Decode(key, data)
		if err != nil {
			t.Fatal(err)
		}
		// Text that is not UTF-8 is JSON's to mend, so the twin passed through it too.
		twin, err := walletauth.JSONCodec{}.Decode(key, plain)
		if err != nil {
			t.Fatal(err)
		}
		if *got != *twin {
			t.Error("it came back as another session")
		}
		if _, err := c.Decode(key+"x", data); err == nil {
			t.Error("it opened for another session key")
		}
		if flip != 0 {
			data[int(at)%len(data)] ^= flip
			if _, err := c.Decode(key, data); err == nil {
				t.Error("it was altered and opened")
			}
		}
	})
}

func FuzzSealedDecode(f *testing.F) {
	c := sealedCodec(f, sealedKey(1), sealedKey(2))
	good := goldenSealed(f) // the same in each of the fuzzer's processes
	f.Add("alice", good)
	f.Add("alice", good[:sealedNonce])
	f.Add("", []byte(`{"id":"sid"}`))
	f.Add("bob", []byte{1})
	f.Fuzz(func(t *testing.T, key string, data []byte) {
		s, err := c.Decode(key, data)
		if err == nil {
			// Only what one of the keys sealed opens, and of that only one is known here.
			if key != "alice" || !bytes.Equal(data, good) {
				t.Fatalf("forged: %v", s)
			}
			return
		}
		if s != nil || errors.Is(err, walletauth.ErrNoSession) {
			t.Errorf("session %v with error %v", s, err)
		}
	})
}

func BenchmarkSealed(b *testing.B) {
	c := sealedCodec(b, sealedKey(1))
	data := sealedData(b, c, "alice")
	b.Run("Encode", func(b *testing.B) {
		s := sealedSession()
		b.ReportAllocs()
		for b.Loop() {
			if _, err := c.Encode("alice", s); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := c.Decode("alice", data); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// Rotating the key: the new one goes first, the old one stays behind it until
// nothing sealed by it is left.
func ExampleNewSealedCodec_rotation() {
	oldKey, newKey := make([]byte, 32), make([]byte, 32)
	rand.Read(oldKey)
	rand.Read(newKey)

	before, err := walletauth.NewSealedCodec(oldKey)
	if err != nil {
		fmt.Println(err)
		return
	}
	stored, err := before.Encode("alice", sealedExample("first-access-token"))
	if err != nil {
		fmt.Println(err)
		return
	}

	rotated, err := walletauth.NewSealedCodec(newKey, oldKey)
	if err != nil {
		fmt.Println(err)
		return
	}
	s, err := rotated.Decode("alice", stored)
	fmt.Println("the old key still opens:", err == nil && s.AccessToken == "first-access-token")

	// A refresh stores the next session, which the new key seals.
	stored, err = rotated.Encode("alice", sealedExample("second-access-token"))
	if err != nil {
		fmt.Println(err)
		return
	}
	after, err := walletauth.NewSealedCodec(newKey)
	if err != nil {
		fmt.Println(err)
		return
	}
	s, err = after.Decode("alice", stored)
	fmt.Println("the new key alone opens:", err == nil && s.AccessToken == "second-access-token")

	_, err = before.Decode("alice", stored)
	fmt.Println("the old key alone does not:", err != nil)
	// Output:
	// the old key still opens: true
	// the new key alone opens: true
	// the old key alone does not: true
}

// sealedExample stands for what WalletKit answers to a login or a refresh.
func sealedExample(accessToken string) *walletauth.Session {
	now := time.Now()
	return &walletauth.Session{
		ID: "b7e1", CreatedAt: now, ProjectID: "my-project", UserID: "alice",
		AccessToken: accessToken, AccessTokenExpiresAt: now.Add(5 * time.Minute),
		RefreshToken: "refresh-token", RefreshTokenExpiresAt: now.Add(30 * 24 * time.Hour),
	}
}
