//go:build linux

package pgxstore_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/internal/remote/remotetest"
	"github.com/walletauth/walletauth/pgxstore"
)

// A place is a PostgreSQL and a table, as "url|table".
func open(place string, lease time.Duration) (walletauth.TokenStore, error) {
	url, table, _ := strings.Cut(place, "|")
	pool, err := pgxpool.New(context.Background(), url)
	if err != nil {
		return nil, err
	}
	return &pgxstore.Store{Pool: pool, Table: table, Lease: lease}, nil
}

const urlEnv = "WALLETAUTH_POSTGRES_URL"

func TestMain(m *testing.M) {
	remotetest.ExamplesNeed("postgres", remotetest.PostgresPlace)
	remotetest.Main(m, open)
}

// postgresURL is the PostgreSQL of all tests that do not need one of their
// own: the one that the environment names, or one that is started for them.
func postgresURL(t testing.TB) string {
	t.Helper()
	url, err := sharedURL()
	remotetest.Require(t, err)
	return url
}

var sharedURL = sync.OnceValues(func() (string, error) {
	if url := os.Getenv(urlEnv); url != "" {
		return url, nil
	}
	p, err := remotetest.NewPostgres()
	if err != nil {
		return "", err
	}
	return p.URL(), p.Start()
})

func ping(url string) error {
	conn, err := pgx.Connect(context.Background(), url)
	if err != nil {
		return err
	}
	defer conn.Close(context.Background())
	return conn.Ping(context.Background())
}

// ownServer is a PostgreSQL for one test, which may stop it.
func ownServer(t *testing.T) *remotetest.Postgres {
	t.Helper()
	p, err := remotetest.NewPostgres()
	if err == nil {
		err = p.Start()
	}
	remotetest.Require(t, err)
	t.Cleanup(p.Crash)
	return p
}

// bouncer starts a PgBouncer in front of p, in a pool_mode of its, and returns
// its URL.
func bouncer(t *testing.T, p *remotetest.Postgres, mode string) string {
	t.Helper()
	program, err := remotetest.Find("pgbouncer", "pgbouncer", "/usr/sbin")
	remotetest.Require(t, err)
	folder, uid, err := remotetest.OwnedFolder()
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(folder, "pgbouncer.ini")
	text := fmt.Sprintf(`[databases]
* = host=%s user=postgres
[pgbouncer]
listen_addr =
listen_port = 6432
unix_socket_dir = %s
auth_type = any
pool_mode = %s
default_pool_size = 5
max_client_conn = 200
`, p.Folder, folder, mode)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	url := fmt.Sprintf("host=%s port=6432 user=postgres dbname=postgres sslmode=disable default_query_exec_mode=exec", folder)
	service, err := remotetest.StartService(uid, func() error { return ping(url) }, program, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { service.Stop(syscall.SIGKILL) })
	return strings.TrimSuffix(url, " default_query_exec_mode=exec")
}

var tables atomic.Int64

// place is a table that no other test uses.
func place(t testing.TB, url string) string {
	t.Helper()
	place := fmt.Sprintf("%s|test_%d_%d", url, os.Getpid(), tables.Add(1))
	s, err := open(place, 0)
	if err != nil {
		t.Fatal(err)
	}
	store := s.(*pgxstore.Store)
	if err := store.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		defer store.Pool.Close()
		_, _ = store.Pool.Exec(context.Background(), "DROP TABLE "+store.Table) // the server may have been stopped
	})
	return place
}

func openStore(t testing.TB, place string, conns int32) *pgxstore.Store {
	t.Helper()
	url, table, _ := strings.Cut(place, "|")
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = conns
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	s := &pgxstore.Store{Pool: pool, Table: table}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func newStore(t testing.TB) *pgxstore.Store {
	t.Helper()
	return openStore(t, place(t, postgresURL(t)), 10)
}

func save(t testing.TB, s walletauth.TokenStore, key, id string) {
	t.Helper()
	if err := walletauth.Save(context.Background(), s, key, remotetest.Session(id)); err != nil {
		t.Fatal(err)
	}
}

// corruptible is a store that the suite can have unreadable sessions in.
type corruptible struct{ *pgxstore.Store }

func (c corruptible) Corrupt(t testing.TB, key string) {
	t.Helper()
	other := &pgxstore.Store{Pool: c.Pool, Table: c.Table, Codec: remotetest.Garbage{}, CacheFor: -1}
	defer other.Close()
	remotetest.Corrupt(t, c, other, key)
}
