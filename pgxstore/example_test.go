//go:build linux

package pgxstore_test

import (
	"context"
	"fmt"
	"log"
	"net/http"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/pgxstore"
	"github.com/walletauth/walletauth/walletauthtest"
)

// examplePool is pgxpool.New(ctx, "postgres://app@db.internal/app"), for a
// PostgreSQL that the tests bring.
func examplePool(ctx context.Context) *pgxpool.Pool {
	url, err := sharedURL()
	if err != nil {
		log.Fatal(err)
	}
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		log.Fatal(err)
	}
	return pool
}

// The session of a user is saved after a login. From then on every process of the
// service that has such a store acts for that user.
func Example() {
	api := walletauthtest.NewServer(walletauthtest.Config{}) // stands for WalletKit
	defer api.Close()
	ctx := walletauth.WithKey(context.Background(), "user-42")

	pool := examplePool(ctx) // a *pgxpool.Pool of the program's own
	defer pool.Close()
	store := &pgxstore.Store{Pool: pool}
	defer store.Close()
	if err := store.Migrate(ctx); err != nil {
		log.Fatal(err)
	}

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

// One process of the service, or a job, cleans up once a day.
func ExampleStore_Purge() {
	ctx := context.Background()
	pool := examplePool(ctx)
	defer pool.Close()
	store := &pgxstore.Store{Pool: pool, Table: "example_purge"}
	defer store.Close()
	if err := store.Migrate(ctx); err != nil {
		log.Fatal(err)
	}
	n, err := store.Purge(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(n, "sessions were over")
	// Output: 0 sessions were over
}
