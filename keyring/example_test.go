package keyring_test

import (
	"fmt"
	"net/http"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/filestore"
	"github.com/walletauth/walletauth/keyring"
)

// A program that keeps its session in the user's configuration folder, sealed
// by a key in the user's keyring.
func ExampleCodec() {
	codec, err := keyring.Codec("my-app")
	if err != nil {
		fmt.Println(err) // it says what to do
		return
	}
	client := &http.Client{Transport: &walletauth.Transport{
		Store:     &filestore.Store{App: "my-app", Codec: codec},
		ProjectID: "my-project",
		BaseURL:   walletauth.Mainnet,
	}}
	_ = client // and on with it
}
