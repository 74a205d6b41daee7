//go:build linux

package sqlstore_test

import (
	"context"
	"database/sql"
	"fmt"
	"log"
	"net/http"
	"os"
	"path/filepath"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/sqlstore"
	"github.com/walletauth/walletauth/walletauthtest"
)

// exampleDB is sql.Open("mysql", "app@tcp(db.internal)/app?interpolateParams=true"),
// for a MariaDB that the tests bring.
func exampleDB() *sql.DB {
	source, err := sharedSource()
	if err != nil {
		log.Fatal(err)
	}
	db, err := sql.Open("mysql", source)
	if err != nil {
		log.Fatal(err)
	}
	return db
}

// The session of a user is saved after a login. From then on every process of the
// service that has such a store acts for that user.
func Example() {
	api := walletauthtest.NewServer(walletauthtest.Config{}) // stands for WalletKit
	defer api.Close()
	ctx := walletauth.WithKey(context.Background(), "user-42")

	db := exampleDB() // a *sql.DB of the program's own
	defer db.Close()
	store := &sqlstore.Store{DB: db, Dialect: sqlstore.MySQL}
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

// The sessions are in the file that the program has already. Other processes on the
// machine may use it at the same time.
func Example_file() {
	folder, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(folder)
	ctx := context.Background()

	db, err := sql.Open("sqlite", "file:"+filepath.Join(folder, "app.db")+"?_pragma=journal_mode(WAL)&_pragma=busy_timeout(5000)")
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	store := &sqlstore.Store{DB: db, Dialect: sqlstore.SQLite}
	defer store.Close()
	if err := store.Migrate(ctx); err != nil {
		log.Fatal(err)
	}
	_, err = store.Load(ctx, "user-42")
	fmt.Println(err)
	// Output: sqlstore: load the session: walletauth: no session for this key: log in
}

// One process of the service, or a job, cleans up once a day.
func ExampleStore_Purge() {
	ctx := context.Background()
	db := exampleDB()
	defer db.Close()
	store := &sqlstore.Store{DB: db, Dialect: sqlstore.MySQL, Table: "example_purge"}
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
