//go:build linux

package pgxstore_test

import (
	"context"
	"flag"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/internal/remote/remotetest"
	"github.com/walletauth/walletauth/pgxstore"
	"github.com/walletauth/walletauth/walletauthtest"
)

func TestStore(t *testing.T) {
	walletauthtest.TestStore(t, func(t *testing.T) walletauth.TokenStore { return corruptible{newStore(t)} })
}

// TestStoreInEightProcesses runs TestStore in 8 processes at once, over one
// PostgreSQL.
func TestStoreInEightProcesses(t *testing.T) {
	remotetest.InEightProcesses(t, "TestStore", urlEnv+"="+postgresURL(t))
}

func TestProcesses(t *testing.T) {
	walletauthtest.TestProcesses(t,
		func(t *testing.T) string { return place(t, postgresURL(t)) },
		func(t *testing.T, place string) walletauth.TokenStore {
			s, err := open(place, 2*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			return s
		})
}

func TestHistories(t *testing.T) { remotetest.Histories(t, open, place(t, postgresURL(t))) }

func TestLosses(t *testing.T) {
	s := newStore(t)
	exec := func(statement, key string) error {
		_, err := s.Pool.Exec(t.Context(), statement, pgx.QueryExecModeExec, []byte(key))
		return err
	}
	remotetest.Losses(t, s, remotetest.Hand{
		Forget: func(key string) error { return exec("DELETE FROM "+s.Table+" WHERE key_hash = sha256($1)", key) },
		Keep: func(key string) func() error {
			kept := fmt.Sprintf("%s_kept_%d", s.Table, tables.Add(1))
			statement := "CREATE TABLE " + kept + " AS SELECT * FROM " + s.Table + " WHERE key_hash = sha256('" + key + "')"
			if _, err := s.Pool.Exec(t.Context(), statement); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _, _ = s.Pool.Exec(context.Background(), "DROP TABLE "+kept) })
			return func() error {
				if err := exec("DELETE FROM "+s.Table+" WHERE key_hash = sha256($1)", key); err != nil {
					return err
				}
				return exec("INSERT INTO "+s.Table+" SELECT * FROM "+kept+" WHERE key_hash = sha256($1)", key)
			}
		},
		Spoil: func(key string) error {
			return exec("UPDATE "+s.Table+" SET data = 'x', stamp = 'another' WHERE key_hash = sha256($1)", key)
		},
		Deafen: func() error {
			_, err := s.Pool.Exec(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN %'")
			return err
		},
		Another: func() walletauth.TokenStore {
			another := &pgxstore.Store{Pool: s.Pool, Table: s.Table, CacheFor: -1}
			t.Cleanup(func() { _ = another.Close() })
			return another
		},
	})
}

// TestPgBouncer runs it all behind PgBouncer in transaction mode, on a pool
// with pgx's default of prepared statements; TestStore not in short runs. Other processes see an Update
// after CacheFor.
func TestPgBouncer(t *testing.T) {
	s := ownServer(t)
	url := bouncer(t, s, "transaction")
	if !testing.Short() {
		t.Run("TestStore", func(t *testing.T) {
			walletauthtest.TestStore(t, func(t *testing.T) walletauth.TokenStore {
				s := openStore(t, place(t, url), 4)
				s.CacheFor = 100 * time.Millisecond // for how long it may miss what another process stored
				return corruptible{s}
			})
		})
	}
	t.Run("coherence", func(t *testing.T) {
		shared := place(t, url)
		writer, reader := openStore(t, shared, 4), openStore(t, shared, 4)
		reader.CacheFor = 100 * time.Millisecond
		for _, id := range []string{"a", "b", "c"} {
			save(t, writer, "user", id)
			remotetest.AwaitID(t, reader, "user", id)
		}
	})
	t.Run("no connection is left listening", func(t *testing.T) {
		for range 10 {
			var n int
			row := openStore(t, url+"|x", 4).Pool.QueryRow(t.Context(), "SELECT count(*) FROM pg_listening_channels()", pgx.QueryExecModeExec)
			if err := row.Scan(&n); err != nil || n != 0 {
				t.Errorf("a connection of PgBouncer listens to %d channels (%v)", n, err)
			}
		}
	})
}

func TestStatements(t *testing.T) { remotetest.Server(t, pgxstore.ServerOf(newStore(t))) }

func TestPoolMissing(t *testing.T) {
	s := new(pgxstore.Store)
	_, err := s.Load(t.Context(), "user")
	_, purge := s.Purge(t.Context())
	for what, err := range map[string]error{
		"Load": err, "Update": walletauth.Delete(t.Context(), s, "user"), "Migrate": s.Migrate(t.Context()), "Purge": purge,
	} {
		if err == nil || !strings.Contains(err.Error(), "Pool is nil") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

func TestTableMissing(t *testing.T) {
	s := openStore(t, postgresURL(t)+"|missing", 4)
	remotetest.TableMissing(t, s)
}

func TestLoginIsSeenAtOnce(t *testing.T) {
	shared := place(t, postgresURL(t))
	remotetest.LoginIsSeenAtOnce(t, openStore(t, shared, 4), openStore(t, shared, 4))
}

func TestOutage(t *testing.T) {
	server := ownServer(t)
	s := openStore(t, place(t, server.URL()), 4)
	s.CacheFor = 100 * time.Millisecond
	remotetest.Outage(t, s, "pgxstore: ", server.Crash, func() {
		if err := server.Start(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestListenConnectionLost: what was missed between two connections is found
// out.
func TestListenConnectionLost(t *testing.T) {
	shared := place(t, postgresURL(t))
	here, there := openStore(t, shared, 4), openStore(t, shared, 4)
	save(t, there, "user", "0")
	for _, id := range []string{"1", "2", "3"} {
		if _, err := here.Load(t.Context(), "user"); err != nil {
			t.Fatal(err)
		}
		if _, err := there.Pool.Exec(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN %'"); err != nil {
			t.Fatal(err)
		}
		save(t, there, "user", id)
		remotetest.AwaitID(t, here, "user", id)
	}
}

// TestMigrate: 20 at once do no harm, nor do users of the SQL, nor names that
// need quotes.
func TestMigrate(t *testing.T) {
	s := openStore(t, postgresURL(t)+`|Odd "schema".Odd 'table'`, 20)
	if _, err := s.Pool.Exec(t.Context(), `CREATE SCHEMA IF NOT EXISTS "Odd ""schema"""`); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if err := s.Migrate(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	save(t, s, "user", "1")
	if _, err := s.Load(t.Context(), "user"); err != nil {
		t.Error(err)
	}
	if text, err := pgxstore.Migrations.ReadFile("migrations/001_sessions.sql"); err != nil || !strings.Contains(string(text), "CREATE TABLE") {
		t.Errorf("Migrations: %v %q", err, text)
	}
}

// TestMigrateThroughPgBouncer: in every mode, statements are all it needs.
func TestMigrateThroughPgBouncer(t *testing.T) {
	server := ownServer(t)
	for _, mode := range []string{"session", "transaction", "statement"} {
		t.Run(mode, func(t *testing.T) {
			s := openStore(t, bouncer(t, server, mode)+"|in_mode_"+mode, 4)
			var all sync.WaitGroup
			for range 4 {
				all.Go(func() {
					if err := s.Migrate(t.Context()); err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
			save(t, s, "user", "1")
			save(t, s, "user", "2")
			if err := walletauth.Delete(t.Context(), s, "user"); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestMigrateWithoutCreate: who may not make a table may call Migrate where it is
// there.
func TestMigrateWithoutCreate(t *testing.T) {
	url := ownServer(t).URL()
	admin := openStore(t, url+"|", 2)
	if err := admin.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{"CREATE ROLE app LOGIN", "REVOKE CREATE ON SCHEMA public FROM PUBLIC"} {
		if _, err := admin.Pool.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	asApp := strings.Replace(url, "user=postgres", "user=app", 1)
	if err := openStore(t, asApp+"|", 2).Migrate(t.Context()); err != nil {
		t.Errorf("Migrate where the table is there: %v", err)
	}
	if err := openStore(t, asApp+"|another", 2).Migrate(t.Context()); err == nil || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("Migrate where it is not: %v", err)
	}
}

// TestTableReplaced: when another table gets the name, nobody hears of its
// changes on the channel of the old one, and the probes find that out.
func TestTableReplaced(t *testing.T) {
	shared := place(t, postgresURL(t))
	here, there := openStore(t, shared, 4), openStore(t, shared, 4)
	here.CacheFor = 300 * time.Millisecond
	save(t, there, "user", "0")
	remotetest.AwaitID(t, here, "user", "0")
	for i := range 3 {
		old := fmt.Sprintf("%s_old_%d", here.Table, i)
		if _, err := here.Pool.Exec(t.Context(), fmt.Sprintf(
			"BEGIN; ALTER TABLE %[1]s RENAME TO %[2]s; CREATE TABLE %[1]s (LIKE %[2]s INCLUDING ALL); INSERT INTO %[1]s SELECT * FROM %[2]s; DROP TABLE %[2]s; COMMIT",
			here.Table, old), pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatal(err)
		}
		id := fmt.Sprint(i + 1)
		save(t, there, "user", id)
		remotetest.AwaitID(t, here, "user", id)
	}
}

func TestPurge(t *testing.T) {
	s := newStore(t)
	for _, key := range []string{"kept", "old", "loggedout", "lately"} {
		save(t, s, key, key)
	}
	for _, key := range []string{"loggedout", "lately"} {
		if err := walletauth.Delete(t.Context(), s, key); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Pool.Exec(t.Context(), "UPDATE "+s.Table+` SET updated_at = now() - interval '25 hours', lease_until = NULL,
		expires_at = CASE WHEN data IS NOT NULL THEN now() - interval '25 hours' END
		WHERE key_hash IN (sha256('old'), sha256('loggedout'))`); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Purge(t.Context()); n != 2 || err != nil {
		t.Errorf("Purge: %d rows, %v, want 2", n, err)
	}
	if _, err := s.Load(t.Context(), "kept"); err != nil {
		t.Errorf("Load of what is not to be purged: %v", err)
	}
}

// TestRowDeletedWhileHeld: what is stored after the row was deleted by hand is
// stored.
func TestRowDeletedWhileHeld(t *testing.T) {
	s := newStore(t)
	save(t, s, "user", "1")
	save(t, s, "user", "2")
	if err := s.Update(t.Context(), "user", func(ctx context.Context, _ *walletauth.Session) (*walletauth.Session, error) {
		_, err := s.Pool.Exec(ctx, "DELETE FROM "+s.Table)
		return remotetest.Session("3"), err
	}); err != nil {
		t.Fatal(err)
	}
	save(t, s, "user", "4")
	if got, err := s.Load(t.Context(), "user"); err != nil || got.ID != "4" {
		t.Errorf("Load: %v, %v", got, err)
	}
}

// TestOwnHooks: a pool with hooks of its own is listened beside.
func TestOwnHooks(t *testing.T) {
	shared := place(t, postgresURL(t))
	url, table, _ := strings.Cut(shared, "|")
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.ConnConfig.RuntimeParams["search_path"] = "nowhere"
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "SET search_path = public")
		return err
	}
	config.ConnConfig.OnNotification = func(*pgconn.PgConn, *pgconn.Notification) {
		t.Error("a notification of the store went to the program")
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	s := &pgxstore.Store{Pool: pool, Table: table}
	defer s.Close()
	other := openStore(t, shared, 4)
	for _, id := range []string{"a", "b", "c"} {
		save(t, other, "user", id)
		remotetest.AwaitID(t, s, "user", id)
	}
}

func TestBackgroundEnds(t *testing.T) {
	s := newStore(t)
	remotetest.BackgroundEnds(t, s, s.Close)
}

var many = flag.Int("sessions", 2000, "the number of sessions in TestManySessions")

func TestManySessions(t *testing.T) {
	s := newStore(t)
	s.MaxCopies = 3 * *many // so that all are kept
	remotetest.ManySessions(t, s, *many, func() (size int) {
		if err := s.Pool.QueryRow(t.Context(), "SELECT pg_total_relation_size($1)", s.Table).Scan(&size); err != nil {
			t.Fatal(err)
		}
		return size
	})
}
