package filestore_test

import (
	"context"
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
	dir, err := os.MkdirTemp("", "my-tool") // leave Dir empty for the user's configuration folder
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
