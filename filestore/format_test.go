package filestore

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/walletauth/walletauth"
)

// Whatever lies in the place of a session file is a whole session or an error
// that logs nobody out and shows nothing of it.
func FuzzSessionFile(f *testing.F) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	sealed, err := walletauth.NewSealedCodec(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		f.Fatal(err)
	}
	stores := []*Store{{}, {Codec: sealed}}
	for _, st := range stores {
		data, err := st.format("alice", &walletauth.Session{
			ID: "sid", CreatedAt: at, ProjectID: "project", UserID: "user",
			AccessToken: "access-secret", AccessTokenExpiresAt: at,
			RefreshToken: "refresh-secret", RefreshTokenExpiresAt: at,
		})
		if err != nil {
			f.Fatal(err)
		}
		f.Add("alice", data)
		f.Add("bob", data)
		f.Add("alice", data[:len(data)/2])
	}
	f.Add("", []byte(nil))
	f.Add("", []byte(magic+hash("")+"\nnull"))
	f.Fuzz(func(t *testing.T, key string, data []byte) {
		for _, st := range stores {
			s, err := st.parse(key, data)
			if err == nil {
				again, err := st.format(key, s)
				if err != nil {
					t.Fatalf("what was read cannot be written: %v", err)
				}
				if twin, err := st.parse(key, again); err != nil || !sameSession(s, twin) {
					t.Errorf("what was written is read as another session: %v", err)
				}
				continue
			}
			if s != nil || errors.Is(err, walletauth.ErrNoSession) || strings.Contains(err.Error(), "-secret") {
				t.Errorf("session %v with the error %v", s, err)
			}
		}
	})
}

func sameSession(a, b *walletauth.Session) bool {
	return a.ID == b.ID && a.ProjectID == b.ProjectID && a.UserID == b.UserID &&
		a.AccessToken == b.AccessToken && a.RefreshToken == b.RefreshToken &&
		a.CreatedAt.Equal(b.CreatedAt) && a.AccessTokenExpiresAt.Equal(b.AccessTokenExpiresAt) &&
		a.RefreshTokenExpiresAt.Equal(b.RefreshTokenExpiresAt)
}
