package filestore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/filestore"
	"github.com/walletauth/walletauth/walletauthtest"
)

// A command-line tool logs in once. Every later run, and every run at the same
// time, goes on with that session.
func Example() {
	api := walletauthtest.NewServer(walletauthtest.Config{ProjectID: "my-project"}) // stands for WalletKit
	defer api.Close()
	dir, err := os.MkdirTemp("", "my-tool") // a program sets App instead: a folder in the user's configuration
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	// The first run logs in.
	store := &filestore.Store{Dir: dir}
	session := api.Login("alice")
	if err := walletauth.Save(context.Background(), store, "", session); err != nil {
		log.Fatal(err)
	}

	// A later one finds the session in its file.
	client := &http.Client{Transport: &walletauth.Transport{
		Store:     &filestore.Store{Dir: dir},
		ProjectID: "my-project",
		BaseURL:   api.URL,
	}}
	res, err := client.Get(api.URL + "/wallets")
	if err != nil {
		log.Fatal(err)
	}
	defer res.Body.Close()
	fmt.Println(res.Status)
	// Output: 200 OK
}

// Sessions sealed by a key of the program's own. Package keyring has one that
// the operating system keeps.
func ExampleStore_sealed() {
	api := walletauthtest.NewServer(walletauthtest.Config{ProjectID: "my-project"}) // stands for WalletKit
	defer api.Close()
	dir, err := os.MkdirTemp("", "my-tool")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	key := []byte("32 random bytes, not these here.")
	codec, err := walletauth.NewSealedCodec(key)
	if err != nil {
		log.Fatal(err)
	}
	store := &filestore.Store{Dir: dir, Codec: codec}
	if err := walletauth.Save(context.Background(), store, "alice", api.Login("alice")); err != nil {
		log.Fatal(err)
	}
	s, err := store.Load(context.Background(), "alice")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(s.UserID)
	// Output: alice
}

// moving is the codec of a program that has sessions in clear and begins to seal
// them. What it reads may be either, what it writes is sealed.
type moving struct{ walletauth.Codec }

func (m moving) Decode(key string, data []byte) (*walletauth.Session, error) {
	if bytes.HasPrefix(data, []byte("{")) {
		return walletauth.JSONCodec{}.Decode(key, data)
	}
	return m.Codec.Decode(key, data)
}

// seal stores the session of key once more, so that it is sealed at once and not
// by its next refresh. That there is none is no error. Nobody can refresh it
// meanwhile, in this process or another.
func seal(ctx context.Context, store walletauth.TokenStore, key string) error {
	return store.Update(ctx, key, func(_ context.Context, current *walletauth.Session) (*walletauth.Session, error) {
		if current == nil {
			return nil, nil
		}
		again := *current
		return &again, nil // another pointer is stored, the same one would not be
	})
}

// A release that begins to seal finds files that the one before wrote in clear.
// The release after it, with the sealed codec alone, reads nothing that somebody
// without the key wrote.
func ExampleStore_moving() {
	api := walletauthtest.NewServer(walletauthtest.Config{ProjectID: "my-project"}) // stands for WalletKit
	defer api.Close()
	dir, err := os.MkdirTemp("", "my-tool")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	if err := walletauth.Save(ctx, &filestore.Store{Dir: dir}, "alice", api.Login("alice")); err != nil {
		log.Fatal(err)
	}

	sealed, err := walletauth.NewSealedCodec([]byte("32 random bytes, not these here.")) // or keyring.Codec("my-tool")
	if err != nil {
		log.Fatal(err)
	}
	store := &filestore.Store{Dir: dir, Codec: moving{sealed}}
	if err := seal(ctx, store, "alice"); err != nil {
		log.Fatal(err)
	}

	s, err := (&filestore.Store{Dir: dir, Codec: sealed}).Load(ctx, "alice")
	if err != nil {
		log.Fatal(err)
	}
	_, err = (&filestore.Store{Dir: dir}).Load(ctx, "alice")
	fmt.Println(s.UserID, "is sealed:", errors.Is(err, walletauth.ErrUnreadable))
	// Output: alice is sealed: true
}
