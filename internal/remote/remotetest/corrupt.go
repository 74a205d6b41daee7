//go:build linux

package remotetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/walletauth/walletauth"
)

// Garbage is a Codec that writes what no Codec can read.
type Garbage struct{}

func (Garbage) Encode(string, *walletauth.Session) ([]byte, error) { return []byte("garbage"), nil }

func (Garbage) Decode(string, []byte) (*walletauth.Session, error) {
	return nil, errors.New("it is garbage")
}

// Corrupt writes garbage over the session of key, by a store over the same
// sessions whose Codec is [Garbage], and returns once store knows of that.
func Corrupt(t testing.TB, store walletauth.TokenStore, other walletauth.Replacer, key string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := other.Replace(ctx, key, Session("garbage")); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := store.Load(ctx, key); err != nil && ctx.Err() == nil {
			return // that it is the right error is for the test to check
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("after %v Load still returns a session, and the server holds garbage", patience)
		}
	}
}
