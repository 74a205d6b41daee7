package pgxstore_test

import (
	"context"
	"log"
	"net/http"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/pgxstore"
)

func Example() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, "postgres://app@db.internal/app")
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	store := &pgxstore.Store{Pool: pool}
	defer store.Close()
	if err := store.Migrate(ctx); err != nil {
		log.Fatal(err)
	}

	api := &http.Client{Transport: &walletauth.Transport{Store: store}}
	req, err := http.NewRequestWithContext(walletauth.WithKey(ctx, "user-42"), http.MethodGet, walletauth.Testnet+"/wallets", nil)
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

// One process of the service, or a job, cleans up once a day.
func ExampleStore_Purge() {
	var store *pgxstore.Store // as in the example of the package
	n, err := store.Purge(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	log.Printf("%d sessions were over", n)
}
