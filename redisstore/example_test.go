package redisstore_test

import (
	"context"
	"log"
	"net/http"

	"github.com/redis/go-redis/v9"
	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/redisstore"
)

func Example() {
	client := redis.NewClient(&redis.Options{Addr: "localhost:6379"})
	defer client.Close()
	store := &redisstore.Store{Client: client}
	defer store.Close()

	api := &http.Client{Transport: &walletauth.Transport{Store: store}}
	ctx := walletauth.WithKey(context.Background(), "user-42")
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, walletauth.Testnet+"/wallets", nil)
	if err != nil {
		log.Fatal(err)
	}
	resp, err := api.Do(req)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	log.Print(resp.Status)
}

// Sessions are sealed before they leave the process.
func ExampleStore_sealed() {
	var key []byte // 32 random bytes from where the program keeps its secrets
	codec, err := walletauth.NewSealedCodec(key)
	if err != nil {
		log.Fatal(err)
	}
	store := &redisstore.Store{
		Client: redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{"localhost:7000"}}),
		Prefix: "shop:sessions:",
		Codec:  codec,
	}
	defer store.Close()
}
