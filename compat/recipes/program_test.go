package recipes

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	oskeyring "github.com/zalando/go-keyring"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/filestore"
	"github.com/walletauth/walletauth/keyring"
)

// newDesktopStore seals the sessions in their files with a key in the user's
// keyring. The text is for the user.
func newDesktopStore() (store walletauth.TokenStore, text string) {
	codec, err := keyring.Codec("my-app")
	switch {
	case errors.Is(err, keyring.ErrLocked):
		return nil, "Your keyring is locked. Unlock it and try again."
	case errors.Is(err, keyring.ErrUnavailable):
		return nil, "This computer has no keyring, which is needed to save your login."
	case err != nil:
		return nil, "Your keyring does not work: " + err.Error()
	}
	return &filestore.Store{App: "my-app/sessions", Codec: codec}, ""
}

// movingCodec is for a program that has sessions in clear and begins to seal them:
// it reads both, and what it writes is sealed.
type movingCodec struct{ walletauth.Codec }

func (c movingCodec) Decode(key string, data []byte) (*walletauth.Session, error) {
	if bytes.HasPrefix(data, []byte("{")) {
		return walletauth.JSONCodec{}.Decode(key, data)
	}
	return c.Codec.Decode(key, data)
}

// reseal stores the session of key again, which seals it. It does nothing if there
// is none.
func reseal(ctx context.Context, store walletauth.TokenStore, key string) error {
	return store.Update(ctx, key, func(_ context.Context, current *walletauth.Session) (*walletauth.Session, error) {
		if current == nil {
			return nil, nil
		}
		again := *current // the same pointer would leave the store as it is
		return &again, nil
	})
}

func TestMovingFromClearFilesToSealedOnes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sessions")
	sealed, err := walletauth.NewSealedCodec(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	login := walletKit.Login("mover")
	if err := walletauth.Save(t.Context(), &filestore.Store{Dir: dir}, "", login); err != nil {
		t.Fatal(err)
	}
	if _, err := (&filestore.Store{Dir: dir, Codec: sealed}).Load(t.Context(), ""); !errors.Is(err, walletauth.ErrUnreadable) {
		t.Errorf("the sealed codec alone: %v", err)
	}
	moving := &filestore.Store{Dir: dir, Codec: movingCodec{sealed}}
	for _, key := range []string{"", "nobody"} {
		if err := reseal(t.Context(), moving, key); err != nil {
			t.Errorf("key %q: %v", key, err)
		}
	}
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte(login.RefreshToken)) {
			t.Error("a file still holds the token in clear")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	transport := &walletauth.Transport{Store: &filestore.Store{Dir: dir, Codec: sealed}}
	if err := listWallets(t.Context(), &http.Client{Transport: transport}); err != nil {
		t.Error(err)
	}
}

// keepFresh runs beside a program that waits for its user, and returns when
// the user has to log in.
func keepFresh(ctx context.Context, transport *walletauth.Transport, askUser func()) {
	err := transport.KeepAlive(ctx)
	if errors.Is(err, walletauth.ErrNoSession) || errors.Is(err, walletauth.ErrSessionExpired) {
		askUser()
	}
}

func TestDesktopProgram(t *testing.T) {
	oskeyring.MockInit()
	home := t.TempDir()
	for _, name := range []string{"HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "AppData", "LocalAppData"} {
		t.Setenv(name, home)
	}
	store, text := newDesktopStore()
	if text != "" {
		t.Fatal(text)
	}
	transport := &walletauth.Transport{Store: store}
	asked := false
	keepFresh(t.Context(), transport, func() { asked = true })
	if !asked {
		t.Error("the user was not asked to log in")
	}
	if err := walletauth.Save(t.Context(), store, "", walletKit.Login("desktop")); err != nil {
		t.Fatal(err)
	}
	if err := listWallets(t.Context(), &http.Client{Transport: transport}); err != nil {
		t.Error(err)
	}
}
