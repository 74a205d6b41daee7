package walletauth_test

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/walletauth/walletauth"
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
	a := sealedData(t, c, "alice")
	for _, word := range []string{"alice", "access-secret", "refresh-secret", "user", "project"} {
		if bytes.Contains(a, []byte(word)) {
			t.Errorf("%q stands in clear", word)
		}
	}
}

func TestNewSealedCodecRefusesKeys(t *testing.T) {
	for name, keys := range map[string][][]byte{"none": nil, "a short one": {sealedKey(1)[:31]}} {
		c, err := walletauth.NewSealedCodec(keys...)
		checkSealedError(t, err, "NewSealedCodec: ")
		if c != nil {
			t.Errorf("%s: a codec came with the error", name)
		}
	}
}

func TestSealedDecodeSaysWhatIsWrong(t *testing.T) {
	c := sealedCodec(t, sealedKey(1))
	good := sealedData(t, c, "alice")
	plain, err := walletauth.JSONCodec{}.Encode("alice", sealedSession())
	if err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct {
		data []byte
		want string
	}{
		"nil":                         {nil, "it is empty"},
		"plain JSON":                  {plain, "it is not sealed and looks like JSON: to move to sealed sessions, decode it by JSONCodec"},
		"cut by one byte":             {good[:len(good)-1], "truncated, 1 bytes are missing"},
		"a key that is not given":     {sealedData(t, sealedCodec(t, sealedKey(2)), "alice"), "is not among the 1 given: give it too"},
		"swapped with another user's": {sealedData(t, c, "bob"), "sealed for another session key"},
		"altered":                     {append(bytes.Clone(good[:len(good)-1]), good[len(good)-1]+1), "altered or damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := c.Decode("alice", row.data)
			checkSealedError(t, err, row.want)
			if s != nil || !errors.Is(err, walletauth.ErrUnreadable) {
				t.Errorf("session %v, error %v, want none and one that wraps ErrUnreadable", s, err)
			}
		})
	}
}

func TestJSONThatCannotBeReadIsErrUnreadable(t *testing.T) {
	for _, data := range []string{"", "null", "{}", `{"id":1}`, "\x01"} {
		s, err := walletauth.JSONCodec{}.Decode("alice", []byte(data))
		if s != nil || !errors.Is(err, walletauth.ErrUnreadable) {
			t.Errorf("%q: session %v, error %v, want one that wraps ErrUnreadable", data, s, err)
		}
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

// Two programs share a store and are restarted one after the other. At every
// moment each must open what the other seals, or the user of that session gets
// errors until the roll-out is over.
func TestSealedKeysRotateInTwoRollOuts(t *testing.T) {
	oldKey, newKey := sealedKey(1), sealedKey(2)
	stages := [][][]byte{{oldKey}, {oldKey, newKey}, {newKey, oldKey}}
	for i, stage := range stages[1:] {
		before, after := sealedCodec(t, stages[i]...), sealedCodec(t, stage...)
		for name, pair := range map[string][2]walletauth.Codec{
			"those who come open what is there":       {before, after},
			"those who are there open what comes":     {after, before},
			"those who are there open what they seal": {before, before},
			"those who come open what they seal":      {after, after},
		} {
			if _, err := pair[1].Decode("alice", sealedData(t, pair[0], "alice")); err != nil {
				t.Errorf("roll-out %d: %s: %v", i+1, name, err)
			}
		}
	}
	// In one roll-out it does not work, which is why there are two.
	one := sealedData(t, sealedCodec(t, newKey, oldKey), "alice")
	if _, err := sealedCodec(t, oldKey).Decode("alice", one); !errors.Is(err, walletauth.ErrUnreadable) {
		t.Errorf("the old key alone opens what the new one sealed: %v", err)
	}
	if _, err := sealedCodec(t, newKey).Decode("alice", one); err != nil {
		t.Errorf("the new key alone, which is how it ends: %v", err)
	}
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

// Rotating the key of a program of one process: the new one goes first, the old
// one stays behind it until nothing sealed by it is left.
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

// moving is the codec of a program that has sessions in clear JSON and begins to
// seal them. What it reads may be either, what it writes is sealed.
type moving struct{ walletauth.Codec }

func (m moving) Decode(key string, data []byte) (*walletauth.Session, error) {
	if bytes.HasPrefix(data, []byte("{")) {
		return walletauth.JSONCodec{}.Decode(key, data)
	}
	return m.Codec.Decode(key, data)
}

// Moving from clear sessions to sealed ones: the store's Codec reads both until
// each session was stored once more, by its next refresh or at once as here.
// Then the sealed codec alone takes its place, which reads nothing that somebody
// without the key wrote.
func ExampleNewSealedCodec_moving() {
	key := make([]byte, 32)
	rand.Read(key)
	sealed, err := walletauth.NewSealedCodec(key)
	if err != nil {
		fmt.Println(err)
		return
	}
	codec := moving{sealed}

	stored, err := walletauth.JSONCodec{}.Encode("alice", sealedExample("an-access-token"))
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = sealed.Decode("alice", stored)
	fmt.Println("the sealed codec reads it:", err == nil)

	s, err := codec.Decode("alice", stored)
	if err != nil {
		fmt.Println(err)
		return
	}
	stored, err = codec.Encode("alice", s)
	if err != nil {
		fmt.Println(err)
		return
	}
	s, err = sealed.Decode("alice", stored)
	fmt.Println("and once it was stored again:", err == nil && s.AccessToken == "an-access-token")
	// Output:
	// the sealed codec reads it: false
	// and once it was stored again: true
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
