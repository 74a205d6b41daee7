package walletauthtest_test

import (
	"context"
	"fmt"
	"log"
	"net/http"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

// A program that lists wallets is tested against an access token that was
// revoked: it must see the wallets and no 401.
func Example() {
	srv := walletauthtest.NewServer(walletauthtest.Config{})
	defer srv.Close()

	store := new(walletauth.MemoryStore)
	if err := walletauth.Save(context.Background(), store, "", srv.Login("user-1")); err != nil {
		log.Fatal(err)
	}
	client := &http.Client{Transport: &walletauth.Transport{Store: store, BaseURL: srv.URL}}

	srv.RevokeAccess("user-1")
	resp, err := client.Get(srv.URL + "/wallets")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()

	seen := srv.Stats()
	fmt.Println(resp.Status)
	fmt.Println("401s:", seen.Unauthorized, "refreshes:", seen.Refreshes, "reused refresh tokens:", seen.Reuses)
	// Output:
	// 200 OK
	// 401s: 1 refreshes: 1 reused refresh tokens: 0
}

// The refresh endpoint is down once, and the program does not notice.
func ExampleServer_FailRefresh() {
	srv := walletauthtest.NewServer(walletauthtest.Config{})
	defer srv.Close()

	store := new(walletauth.MemoryStore)
	if err := walletauth.Save(context.Background(), store, "", srv.Login("user-1")); err != nil {
		log.Fatal(err)
	}
	client := &http.Client{Transport: &walletauth.Transport{Store: store, BaseURL: srv.URL}}

	srv.RevokeAccess("user-1")
	srv.FailRefresh(1, walletauthtest.Fault{Status: http.StatusServiceUnavailable})
	resp, err := client.Get(srv.URL + "/wallets")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	fmt.Println(resp.Status, "after", srv.Requests(walletauthtest.RefreshToken), "calls of refresh-token")
	// Output: 200 OK after 2 calls of refresh-token
}
