//go:build linux

package redisstore_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"strings"

	"github.com/redis/go-redis/v9"
	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/redisstore"
	"github.com/walletauth/walletauth/walletauthtest"
)

// exampleClient is redis.NewClient(&redis.Options{Addr: "localhost:6379"}), for a
// Redis that the tests bring.
func exampleClient() *redis.Client {
	url, err := sharedURL()
	if err != nil {
		log.Fatal(err)
	}
	options, err := redis.ParseURL(url)
	if err != nil {
		log.Fatal(err)
	}
	return redis.NewClient(options)
}

// The session of a user is saved after a login. From then on every process of the
// service that has such a store acts for that user.
func Example() {
	api := walletauthtest.NewServer(walletauthtest.Config{}) // stands for WalletKit
	defer api.Close()
	client := exampleClient() // any redis.UniversalClient
	defer client.Close()
	store := &redisstore.Store{Client: client, Prefix: "example:"}
	defer store.Close()

	ctx := walletauth.WithKey(context.Background(), "user-42")
	if err := walletauth.Save(ctx, store, "user-42", api.Login("ada")); err != nil {
		log.Fatal(err)
	}
	requests := &http.Client{Transport: &walletauth.Transport{Store: store, BaseURL: api.URL}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, api.URL+"/wallets", nil)
	if err != nil {
		log.Fatal(err)
	}
	resp, err := requests.Do(req)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	fmt.Println(resp.Status)
	// Output: 200 OK
}

// Sessions are sealed before they leave the process.
func ExampleStore_sealed() {
	api := walletauthtest.NewServer(walletauthtest.Config{}) // stands for WalletKit
	defer api.Close()
	ctx := context.Background()

	key := []byte("32 random bytes, not these here.")
	codec, err := walletauth.NewSealedCodec(key)
	if err != nil {
		log.Fatal(err)
	}
	client := exampleClient()
	defer client.Close()
	store := &redisstore.Store{Client: client, Prefix: "sealed-example:", Codec: codec}
	defer store.Close()

	session := api.Login("ada")
	if err := walletauth.Save(ctx, store, "user-42", session); err != nil {
		log.Fatal(err)
	}
	stored, err := client.HGet(ctx, store.KeyName("user-42"), "d").Result()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("Redis has the token in clear:", strings.Contains(stored, session.AccessToken))
	// Output: Redis has the token in clear: false
}
