package recipes

import (
	"context"
	"database/sql"
	"net/http"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
	oskeyring "github.com/zalando/go-keyring"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/filestore"
	"github.com/walletauth/walletauth/keyring"
	"github.com/walletauth/walletauth/pgxstore"
	"github.com/walletauth/walletauth/redisstore"
	"github.com/walletauth/walletauth/sqlstore"
)

// The functions below hold the Go code in the READMEs of the stores.

func filestoreReadme(ctx context.Context, session *walletauth.Session) (*http.Client, error) {
	store := &filestore.Store{App: "my-app"} // a folder in the user's configuration

	// After a login, once:
	err := walletauth.Save(ctx, store, "", session)

	// In every run, in any number of processes at once:
	client := &http.Client{Transport: &walletauth.Transport{
		Store:     store,
		ProjectID: "my-project",
		BaseURL:   walletauth.Mainnet,
	}}
	return client, err
}

func keyringReadme() (*http.Client, error) {
	codec, err := keyring.Codec("my-app")
	if err != nil {
		return nil, err // it says what to do
	}
	client := &http.Client{Transport: &walletauth.Transport{
		Store:     &filestore.Store{App: "my-app", Codec: codec},
		ProjectID: "my-project",
		BaseURL:   walletauth.Mainnet,
	}}
	return client, nil
}

func redisstoreReadme(client *redis.Client) *http.Client {
	store := &redisstore.Store{Client: client} // any redis.UniversalClient of go-redis v9
	api := &http.Client{Transport: &walletauth.Transport{Store: store}}
	return api
}

func pgxstoreReadme(ctx context.Context, pool *pgxpool.Pool) (*http.Client, error) {
	store := &pgxstore.Store{Pool: pool} // a *pgxpool.Pool of pgx v5
	if err := store.Migrate(ctx); err != nil {
		return nil, err
	}
	api := &http.Client{Transport: &walletauth.Transport{Store: store}}
	return api, nil
}

func sqlstoreReadme(ctx context.Context, db *sql.DB) (*http.Client, error) {
	store := &sqlstore.Store{DB: db, Dialect: sqlstore.MySQL} // or sqlstore.SQLite; db is a *sql.DB
	if err := store.Migrate(ctx); err != nil {
		return nil, err
	}
	api := &http.Client{Transport: &walletauth.Transport{Store: store}}
	return api, nil
}

// Their servers are for their own tests to bring.
var _, _, _ = redisstoreReadme, pgxstoreReadme, sqlstoreReadme

func TestReadmesOfStoresAreThisCode(t *testing.T) {
	code := compiledCode(t)
	for _, module := range []string{"filestore", "keyring", "redisstore", "pgxstore", "sqlstore"} {
		blocks := strings.Split(outdent(readPage(t, module+"/README.md")), "\n```go\n")[1:]
		if len(blocks) == 0 {
			t.Errorf("%s/README.md has no Go code", module)
		}
		for _, block := range blocks {
			block, _, _ = strings.Cut(block, "\n```\n")
			if !strings.Contains(code, "\n"+block+"\n") {
				t.Errorf("%s/README.md: not compiled:\n%s", module, block)
			}
		}
	}
}

func TestReadmesOfStoresWork(t *testing.T) {
	oskeyring.MockInit()
	home := t.TempDir()
	for _, name := range []string{"HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "AppData", "LocalAppData"} {
		t.Setenv(name, home)
	}
	client, err := filestoreReadme(t.Context(), walletKit.Login("nan"))
	if err != nil {
		t.Fatal(err)
	}
	if err := listOnMainnet(t.Context(), client); err != nil {
		t.Error("filestore:", err)
	}
	if client, err = keyringReadme(); err != nil {
		t.Fatal("keyring:", err)
	}
	if err := listOnMainnet(t.Context(), client); err == nil || !strings.Contains(err.Error(), "not sealed") {
		t.Errorf("keyring over a session in clear: %v", err)
	}
}

func listOnMainnet(ctx context.Context, client *http.Client) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, walletauth.Mainnet+"/wallets", nil)
	if err != nil {
		return err
	}
	return finish(client.Do(req))
}
