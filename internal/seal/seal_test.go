package seal

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"
)

func key32(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }

func newKeys(t testing.TB, keys ...[]byte) *Keys {
	t.Helper()
	ks, err := New(keys...)
	if err != nil {
		t.Fatal(err)
	}
	return ks
}

const secret = "access-secret refresh-secret"

func sealed(t testing.TB, ks *Keys, name string) []byte {
	t.Helper()
	data, err := ks.Seal(name, []byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// checkError demands an error that says want, and holds neither what was sealed
// nor a key.
func checkError(t testing.TB, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Fatalf("error %v, want it to say %q", err, want)
	}
	for _, word := range []string{secret, string(key32(1)), string(key32(2))} {
		if strings.Contains(err.Error(), word) {
			t.Errorf("error %q holds a secret", err)
		}
	}
}

func TestContentComesBackWhole(t *testing.T) {
	ks := newKeys(t, key32(1))
	for what, name := range map[string]string{
		"the empty name": "", "a plain name": "alice", "a name not in UTF-8": "\xff\x00\xfe", "a very long name": strings.Repeat("k", 10_000),
	} {
		for _, plain := range []string{"", secret, strings.Repeat("p", 1<<16)} {
			data, err := ks.Seal(name, []byte(plain))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := ks.Open(name, data); err != nil || string(got) != plain {
				t.Errorf("%s, %d bytes: %d bytes came back, %v", what, len(plain), len(got), err)
			}
		}
	}
}

func TestSealedDataShowsNothing(t *testing.T) {
	ks := newKeys(t, key32(1))
	a, b := sealed(t, ks, "alice"), sealed(t, ks, "alice")
	for _, word := range []string{"alice", "access-secret", "refresh-secret"} {
		if bytes.Contains(a, []byte(word)) {
			t.Errorf("%q stands in clear", word)
		}
	}
	if bytes.Equal(a[headSize:], b[headSize:]) {
		t.Error("sealed twice, the same content looks the same: the nonce repeats")
	}
	if bytes.Equal(a[ownerAt:lengthAt], sealed(t, newKeys(t, key32(2)), "alice")[ownerAt:lengthAt]) {
		t.Error("the owner does not depend on the key: who is whose can be guessed without it")
	}
}

func TestNewRefusesKeys(t *testing.T) {
	for name, row := range map[string]struct {
		keys [][]byte
		want string
	}{
		"none":             {nil, "a key is needed: 32 bytes"},
		"nil":              {[][]byte{nil}, "key 1 of 1: it has 0 bytes and must have 32"},
		"of 31 bytes":      {[][]byte{key32(1)[:31]}, "it has 31 bytes"},
		"of 16 bytes":      {[][]byte{key32(1)[:16]}, "it has 16 bytes"},
		"still in hex":     {[][]byte{[]byte(strings.Repeat("01", 32))}, "decode it first if it is hex"},
		"a bad second one": {[][]byte{key32(1), key32(2)[:5]}, "key 2 of 2: it has 5 bytes"},
		"given twice":      {[][]byte{key32(1), key32(2), key32(1)}, "key 3 of 3 was given before"},
	} {
		t.Run(name, func(t *testing.T) {
			ks, err := New(row.keys...)
			checkError(t, err, row.want)
			if ks != nil {
				t.Error("keys came with the error")
			}
		})
	}
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	ks := newKeys(t, key32(1))
	good := sealed(t, ks, "alice")
	edited := func(edit func(b []byte) []byte) []byte { return edit(bytes.Clone(good)) }
	for name, row := range map[string]struct {
		data []byte
		want string
	}{
		"nil":                           {nil, "it is empty"},
		"a later version":               {edited(func(b []byte) []byte { b[0] = 2; return b }), "version 2 of the format is not known"},
		"cut in the head":               {good[:headSize-1], "truncated within the first 21 bytes"},
		"cut by one byte":               {good[:len(good)-1], "truncated, 1 bytes are missing"},
		"cut to the head":               {good[:headSize], "truncated, "},
		"a byte too many":               {append(bytes.Clone(good), 0), "1 bytes too many"},
		"a key that is not given":       {sealed(t, newKeys(t, key32(2)), "alice"), "is not among the 1 given: give it too"},
		"swapped with another's":        {sealed(t, ks, "bob"), "sealed for another session key"},
		"another key's id written over": {edited(func(b []byte) []byte { b[keyIDAt]++; return b }), "is not among the 1 given"},
		"the owner altered":             {edited(func(b []byte) []byte { b[ownerAt]++; return b }), "sealed for another session key"},
		"the nonce altered":             {edited(func(b []byte) []byte { b[headSize]++; return b }), "altered or damaged"},
		"the ciphertext altered":        {edited(func(b []byte) []byte { b[len(b)/2]++; return b }), "altered or damaged"},
		"the tag altered":               {edited(func(b []byte) []byte { b[len(b)-1]++; return b }), "altered or damaged"},
		"too short for a tag": {edited(func(b []byte) []byte {
			binary.BigEndian.PutUint32(b[lengthAt:], 5)
			return b[:headSize+5]
		}), "altered or damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			plain, err := ks.Open("alice", row.data)
			checkError(t, err, row.want)
			if plain != nil {
				t.Error("content came with the error")
			}
		})
	}
}

// A body moved under the head of another name, both genuine, is the attack that
// a head without authentication would allow.
func TestHeadIsBoundToItsBody(t *testing.T) {
	ks := newKeys(t, key32(1))
	alice, bob := sealed(t, ks, "alice"), sealed(t, ks, "bob")
	_, err := ks.Open("alice", append(bytes.Clone(alice[:headSize]), bob[headSize:]...))
	checkError(t, err, "altered or damaged")
}

func TestEveryBitIsAuthenticated(t *testing.T) {
	ks := newKeys(t, key32(1), key32(2))
	good := sealed(t, ks, "alice")
	for i := range good {
		for bit := range 8 {
			data := bytes.Clone(good)
			data[i] ^= 1 << bit
			if _, err := ks.Open("alice", data); err == nil {
				t.Fatalf("bit %d of byte %d was flipped and nobody noticed", bit, i)
			}
		}
	}
}

func TestEveryTruncationIsCalledOne(t *testing.T) {
	ks := newKeys(t, key32(1))
	good := sealed(t, ks, "alice")
	for n := 1; n < len(good); n++ {
		_, err := ks.Open("alice", good[:n])
		checkError(t, err, "truncated")
	}
}

func TestKeysAreCopied(t *testing.T) {
	key := key32(1)
	ks := newKeys(t, key)
	clear(key)
	if _, err := newKeys(t, key32(1)).Open("alice", sealed(t, ks, "alice")); err != nil {
		t.Error(err)
	}
}

func TestFirstKeySealsAndAllOpen(t *testing.T) {
	before, during, after := newKeys(t, key32(1)), newKeys(t, key32(2), key32(1)), newKeys(t, key32(2))
	if _, err := during.Open("alice", sealed(t, before, "alice")); err != nil {
		t.Errorf("the second key does not open: %v", err)
	}
	if _, err := after.Open("alice", sealed(t, during, "alice")); err != nil {
		t.Errorf("the first key did not seal: %v", err)
	}
}

// golden is a session of "alice", sealed by key32(1) in the first release.
func golden(t testing.TB) []byte {
	t.Helper()
	data, err := hex.DecodeString("01fb3083ccae78d0134f394cce731aaf5a0000011746ab0078ce2af2a7e651da75fe24053aec871637d247ba959a14f8c370933284fc3c9d4a16e8c409add8759e62301647d336c9744419b70a12cdf49e533857bc91d59a738cd73197e7bcd085e5728974c46c1fc2321352ad24f861cca6d44a3994e3f5e808b9714656e49923702247b14397a3c7ce0967a29eae618485fda6a027cb74b50b0aecc40201a1b03a715ce71fa61a4a632316b314c99e6a0a3bc441aa8599a94dc372402cb7b5af5130630c0871ee73bedbc21e7ee4818750ae2453f54df66ca9def448dc2b81ee720babdf2c22cfa5c840fd65f4287ed034ffa57f190b6a720d3b01779dd8298d63c768ea5dbbd42d50f5b2d813ebe8a9ba6f87e5e0580f6a3cf3518a17d9cecf531eccc7f45e4d6e208a8b")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestDataOfTheFirstReleaseOpens(t *testing.T) {
	plain, err := newKeys(t, key32(1)).Open("alice", golden(t))
	if err != nil || !bytes.HasPrefix(plain, []byte(`{"id":"sid",`)) {
		t.Errorf("%d bytes, %v, want the session's JSON", len(plain), err)
	}
}

func FuzzRoundTrip(f *testing.F) {
	f.Add("alice", []byte(secret), uint16(3), byte(1))
	f.Add("", []byte{}, uint16(40), byte(0x80))
	ks := newKeys(f, key32(1), key32(2))
	f.Fuzz(func(t *testing.T, name string, plain []byte, at uint16, flip byte) {
		data, err := ks.Seal(name, plain)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ks.Open(name, data); err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("%q came back, %v", got, err)
		}
		if _, err := ks.Open(name+"x", data); err == nil {
			t.Error("it opened for another name")
		}
		if flip != 0 {
			data[int(at)%len(data)] ^= flip
			if _, err := ks.Open(name, data); err == nil {
				t.Error("it was altered and opened")
			}
		}
	})
}

func FuzzOpen(f *testing.F) {
	ks := newKeys(f, key32(1), key32(2))
	good := golden(f) // the same in each of the fuzzer's processes
	f.Add("alice", good)
	f.Add("alice", good[:headSize])
	f.Add("", []byte(`{"id":"sid"}`))
	f.Add("bob", []byte{1})
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		plain, err := ks.Open(name, data)
		// Only what one of the keys sealed opens, and of that only one is known here.
		if err == nil && (name != "alice" || !bytes.Equal(data, good)) {
			t.Fatalf("forged: %q", plain)
		}
		if err != nil && plain != nil {
			t.Errorf("%q with error %v", plain, err)
		}
	})
}
