//go:build linux

package sqlstore_test

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/internal/remote/remotetest"
	"github.com/walletauth/walletauth/sqlstore"
	"github.com/walletauth/walletauth/walletauthtest"
)

// corruptible is a store for TestStore that can be damaged.
type corruptible struct{ *sqlstore.Store }

// Corrupt returns when the store has seen what was done by hand.
func (c corruptible) Corrupt(t testing.TB, key string) {
	exec(t, c.Store, "UPDATE TABLE_NAME SET data = 'x', stamp = 'another', data_fence = data_fence + 1, updated_at = ? WHERE key_hash = ?",
		time.Now().UnixMicro(), hashOf(key))
	for deadline := time.Now().Add(10 * time.Second); ; <-time.After(time.Millisecond) {
		if _, err := c.Load(context.Background(), key); err != nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("what was done by hand is not seen")
		}
	}
}

func testStore(t *testing.T, newPlace func(testing.TB) string) {
	walletauthtest.TestStore(t, func(t *testing.T) walletauth.TokenStore {
		return corruptible{openStore(t, migrated(t, newPlace(t)), 10)}
	})
}

func TestStoreInSQLite(t *testing.T)  { testStore(t, inSQLite) }
func TestStoreInMariaDB(t *testing.T) { testStore(t, inMariaDB) }

// TestStoreInEightProcesses runs these in 8 processes at once, over one file and
// one MariaDB.
func TestStoreInEightProcesses(t *testing.T) {
	remotetest.InEightProcesses(t, "TestStoreInSQLite", fileEnv+"="+filepath.Join(t.TempDir(), "app.db"))
	source, err := sharedSource()
	if err != nil {
		t.Fatal(err)
	}
	remotetest.InEightProcesses(t, "TestStoreInMariaDB", sourceEnv+"="+source)
}

func TestProcesses(t *testing.T) {
	each(t, func(t *testing.T, newPlace func(testing.TB) string) {
		walletauthtest.TestProcesses(t,
			func(t *testing.T) string { return migrated(t, newPlace(t)) },
			func(t *testing.T, place string) walletauth.TokenStore {
				s, err := open(place, 2*time.Second)
				if err != nil {
					t.Fatal(err)
				}
				return s
			})
	})
}

func TestHistories(t *testing.T) {
	waits(t)
	each(t, func(t *testing.T, newPlace func(testing.TB) string) {
		waits(t)
		remotetest.Histories(t, open, migrated(t, newPlace(t)))
	})
}

func TestLosses(t *testing.T) {
	waits(t)
	each(t, func(t *testing.T, newPlace func(testing.TB) string) {
		waits(t)
		place := migrated(t, newPlace(t))
		s := openStore(t, place, 4)
		forget := func(key string) error {
			return tryExec(s, "DELETE FROM TABLE_NAME WHERE key_hash = ?", hashOf(key))
		}
		remotetest.Losses(t, s, remotetest.Hand{
			Forget: forget,
			Keep: func(key string) func() error {
				kept := newTable()
				exec(t, s, "CREATE TABLE "+kept+" AS SELECT * FROM TABLE_NAME WHERE key_hash = ?", hashOf(key))
				t.Cleanup(func() { _ = tryExec(s, "DROP TABLE "+kept) })
				return func() error {
					if err := forget(key); err != nil {
						return err
					}
					return tryExec(s, "INSERT INTO TABLE_NAME SELECT * FROM "+kept)
				}
			},
			Spoil: func(key string) error {
				return tryExec(s, "UPDATE TABLE_NAME SET data = 'x', stamp = 'another' WHERE key_hash = ?", hashOf(key))
			},
			Deafen: func() error { // whoever looks then finds no table, and begins anew
				away := newTable()
				if err := tryExec(s, "ALTER TABLE TABLE_NAME RENAME TO "+away); err != nil {
					return err
				}
				<-time.After(300 * time.Millisecond)
				return tryExec(s, "ALTER TABLE "+away+" RENAME TO TABLE_NAME")
			},
			Another: func() walletauth.TokenStore {
				another := openStore(t, place, 4)
				another.CacheFor = -1
				return another
			},
		})
	})
}

func TestStatements(t *testing.T) {
	waits(t)
	each(t, func(t *testing.T, newPlace func(testing.TB) string) {
		waits(t)
		remotetest.Server(t, sqlstore.ServerOf(openStore(t, migrated(t, newPlace(t)), 4)))
	})
}

// TestVersion says which server the tests have met, which may be one that the
// environment names, and that it is as new as the README asks.
func TestVersion(t *testing.T) {
	var version string
	if err := openStore(t, inMariaDB(t), 1).DB.QueryRow("SELECT VERSION()").Scan(&version); err != nil {
		t.Fatal(err)
	}
	t.Log(version)
	oldest := [2]int{8, 0}
	if strings.Contains(version, "MariaDB") {
		oldest = [2]int{10, 6}
	}
	var got [2]int
	if _, err := fmt.Sscanf(version, "%d.%d", &got[0], &got[1]); err != nil || slices.Compare(got[:], oldest[:]) < 0 {
		t.Errorf("the server is %s, %v, want %v at least", version, err, oldest)
	}
}

// TestPreparedStatements: the driver need not be told to put arguments into the
// text.
func TestPreparedStatements(t *testing.T) {
	waits(t)
	place := opened(t, migrated(t, inMariaDB(t)), func(c *mysql.Config) { c.InterpolateParams = false })
	remotetest.Server(t, sqlstore.ServerOf(openStore(t, place, 4)))
}

// TestFoundRows: MySQL counts rows that are changed, or rows that are found, as
// the driver is told.
func TestFoundRows(t *testing.T) {
	waits(t)
	place := opened(t, migrated(t, inMariaDB(t)), func(c *mysql.Config) { c.ClientFoundRows = true })
	remotetest.Server(t, sqlstore.ServerOf(openStore(t, place, 4)))
}

func TestFieldsMissing(t *testing.T) {
	noDialect := openStore(t, inSQLite(t), 4)
	noDialect.Dialect = ""
	for want, s := range map[string]*sqlstore.Store{"DB is nil": {Dialect: sqlstore.MySQL}, `Dialect is ""`: noDialect} {
		_, err := s.Load(t.Context(), "user")
		_, purge := s.Purge(t.Context())
		for what, err := range map[string]error{
			"Load": err, "Update": walletauth.Delete(t.Context(), s, "user"), "Migrate": s.Migrate(t.Context()), "Purge": purge,
			"Replace": s.Replace(t.Context(), "user", nil),
		} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %s", what, err, want)
			}
		}
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
}

func TestTableMissing(t *testing.T) {
	each(t, func(t *testing.T, newPlace func(testing.TB) string) {
		s := openStore(t, newPlace(t), 4)
		s.Table = "missing"
		remotetest.TableMissing(t, s)
	})
}

func TestLoginIsSeenAtOnce(t *testing.T) {
	each(t, func(t *testing.T, newPlace func(testing.TB) string) {
		place := migrated(t, newPlace(t))
		remotetest.LoginIsSeenAtOnce(t, openStore(t, place, 4), openStore(t, place, 4))
	})
}

// TestOneConnection: in a pool of one none is held, and changes are seen all the
// same.
func TestOneConnection(t *testing.T) {
	waits(t)
	each(t, func(t *testing.T, newPlace func(testing.TB) string) {
		waits(t)
		place := migrated(t, newPlace(t))
		here, there := openStore(t, place, 1), openStore(t, place, 1)
		for _, id := range []string{"1", "2", "3"} {
			save(t, there, "user", id)
			remotetest.AwaitID(t, here, "user", id)
			if err := here.DB.PingContext(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestOutage(t *testing.T) {
	waits(t)
	server := ownServer(t)
	place := migrated(t, "mysql|"+server.DSN()+"|")
	start := func() {
		if err := server.Start(); err != nil {
			t.Fatal(err)
		}
	}
	for name, o := range map[string]struct{ stop, start func() }{
		"killed":  {server.Crash, start},
		"stopped": {func() { server.Signal(syscall.SIGSTOP) }, func() { server.Signal(syscall.SIGCONT) }},
	} {
		t.Run("MariaDB is "+name, func(t *testing.T) {
			s := openStore(t, place, 4)
			s.CacheFor = 100 * time.Millisecond
			remotetest.Outage(t, s, "sqlstore: ", o.stop, o.start)
		})
	}
	t.Run("a SQLite file is locked", func(t *testing.T) {
		waits(t)
		place := migrated(t, inBareSQLite(t)) // without WAL, so that nobody can read it either
		s, other := openStore(t, place, 4), openStore(t, place, 1)
		s.CacheFor = 100 * time.Millisecond
		remotetest.Outage(t, s, "sqlstore: ",
			func() { exec(t, other, "BEGIN EXCLUSIVE") },
			func() { exec(t, other, "ROLLBACK") })
	})
}

// TestMigrate: 20 at once do no harm, nor do users of the SQL, nor names that
// need quotes.
func TestMigrate(t *testing.T) {
	each(t, func(t *testing.T, newPlace func(testing.TB) string) {
		s := openStore(t, newPlace(t), 20)
		name := "odd `table` \"" + newTable() + "' NOW"
		if s.Table = name; s.Dialect == sqlstore.SQLite {
			s.Table = "main." + name
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
		if s.Dialect == sqlstore.MySQL {
			exec(t, s, "DROP TABLE `"+strings.ReplaceAll(name, "`", "``")+"`")
		}
		if text, err := sqlstore.Migrations.ReadFile("migrations/" + string(s.Dialect) + "/001_sessions.sql"); err != nil || !strings.Contains(string(text), "CREATE TABLE") {
			t.Errorf("Migrations: %v %q", err, text)
		}
	})
}

// TestMigrateInBareSQLite: 20 at once, while the file can be locked for all.
func TestMigrateInBareSQLite(t *testing.T) {
	place := inBareSQLite(t)
	var all sync.WaitGroup
	for range 20 {
		s := openStore(t, place, 1)
		all.Go(func() {
			if err := s.Migrate(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

// TestMigrateWithoutCreate: who may not make a table may call Migrate where it is
// there.
func TestMigrateWithoutCreate(t *testing.T) {
	server := ownServer(t)
	admin := openStore(t, migrated(t, "mysql|"+server.DSN()+"|"), 2)
	exec(t, admin, "CREATE USER app@localhost")
	exec(t, admin, "GRANT SELECT ON TABLE_NAME TO app@localhost")
	asApp := strings.Replace(server.DSN(), "root@", "app@", 1)
	if err := openStore(t, "mysql|"+asApp+"|", 2).Migrate(t.Context()); err != nil {
		t.Errorf("Migrate where the table is there: %v", err)
	}
	if err := openStore(t, "mysql|"+asApp+"|another", 2).Migrate(t.Context()); err == nil || !strings.Contains(err.Error(), "denied") {
		t.Errorf("Migrate where it is not: %v", err)
	}
}

// TestTableReplaced: when another table gets the name, its changes are the ones
// that are looked for.
func TestTableReplaced(t *testing.T) {
	waits(t)
	each(t, func(t *testing.T, newPlace func(testing.TB) string) {
		waits(t)
		place := migrated(t, newPlace(t))
		here, there := openStore(t, place, 4), openStore(t, place, 4)
		save(t, there, "user", "0")
		remotetest.AwaitID(t, here, "user", "0")
		for i := range 3 {
			old := newTable()
			exec(t, there, "ALTER TABLE TABLE_NAME RENAME TO "+old)
			if err := there.Migrate(t.Context()); err != nil {
				t.Fatal(err)
			}
			exec(t, there, "INSERT INTO TABLE_NAME SELECT * FROM "+old)
			exec(t, there, "DROP TABLE "+old)
			id := fmt.Sprint(i + 1)
			save(t, there, "user", id)
			remotetest.AwaitID(t, here, "user", id)
		}
	})
}

func TestPurge(t *testing.T) {
	const old = 250 // which is more than are deleted at once
	each(t, func(t *testing.T, newPlace func(testing.TB) string) {
		s := openStore(t, migrated(t, newPlace(t)), 4)
		for _, key := range []string{"kept", "expired", "loggedout", "lately", "leased"} {
			save(t, s, key, key)
		}
		for _, key := range []string{"loggedout", "lately"} {
			if err := walletauth.Delete(t.Context(), s, key); err != nil {
				t.Fatal(err)
			}
		}
		day := time.Now().Add(-25 * time.Hour).UnixMicro()
		for i := range old {
			exec(t, s, "INSERT INTO TABLE_NAME (key_hash, updated_at, version) VALUES (?, ?, 1)", hashOf(fmt.Sprint(i)), day)
		}
		exec(t, s, "UPDATE TABLE_NAME SET updated_at = ? WHERE key_hash <> ?", day, hashOf("lately"))
		exec(t, s, "UPDATE TABLE_NAME SET expires_at = ? WHERE key_hash IN (?, ?)", day, hashOf("expired"), hashOf("leased"))
		exec(t, s, "UPDATE TABLE_NAME SET lease_until = ? WHERE key_hash = ?", time.Now().UnixMicro(), hashOf("leased"))
		if n, err := s.Purge(t.Context()); n != old+2 || err != nil {
			t.Errorf("Purge: %d rows, %v, want %d", n, err, old+2)
		}
		if _, err := s.Load(t.Context(), "kept"); err != nil {
			t.Errorf("Load of what is not to be purged: %v", err)
		}
		var left int
		if err := s.DB.QueryRow("SELECT count(*) FROM " + tableOf(s)).Scan(&left); err != nil || left != 3 {
			t.Errorf("%d rows are left, %v, want 3", left, err)
		}
	})
}

// TestRowDeletedWhileHeld: what is stored after the row was deleted by hand is
// stored.
func TestRowDeletedWhileHeld(t *testing.T) {
	each(t, func(t *testing.T, newPlace func(testing.TB) string) {
		s := openStore(t, migrated(t, newPlace(t)), 4)
		save(t, s, "user", "1")
		save(t, s, "user", "2")
		if err := s.Update(t.Context(), "user", func(ctx context.Context, _ *walletauth.Session) (*walletauth.Session, error) {
			return remotetest.Session("3"), tryExec(s, "DELETE FROM TABLE_NAME")
		}); err != nil {
			t.Fatal(err)
		}
		save(t, s, "user", "4")
		if got, err := s.Load(t.Context(), "user"); err != nil || got.ID != "4" {
			t.Errorf("Load: %v, %v", got, err)
		}
	})
}

func TestBackgroundEnds(t *testing.T) {
	each(t, func(t *testing.T, newPlace func(testing.TB) string) {
		s := openStore(t, migrated(t, newPlace(t)), 4)
		remotetest.BackgroundEnds(t, s, s.Close)
		if n := s.DB.Stats().InUse; n != 0 {
			t.Errorf("after Close %d connections are held", n)
		}
	})
}
