//go:build linux

package sqlstore_test

import (
	"cmp"
	"context"
	"crypto/sha256"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/internal/remote/remotetest"
	"github.com/walletauth/walletauth/sqlstore"
	_ "modernc.org/sqlite"
)

// A place is a dialect, what its driver opens, and a table, as
// "dialect|source|table".
func open(place string, lease time.Duration) (walletauth.TokenStore, error) {
	return openWith(place, lease, 4)
}

func parse(place string) (dialect, source, table string) {
	dialect, rest, _ := strings.Cut(place, "|")
	source, table, _ = strings.Cut(rest, "|")
	return dialect, source, table
}

func openWith(place string, lease time.Duration, conns int) (*sqlstore.Store, error) {
	dialect, source, table := parse(place)
	db, err := sql.Open(dialect, source) // the drivers are named like the dialects
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	return &sqlstore.Store{DB: db, Dialect: sqlstore.Dialect(dialect), Table: table, Lease: lease}, nil
}

const (
	sourceEnv = "WALLETAUTH_MYSQL_DSN"
	fileEnv   = "WALLETAUTH_SQLITE_FILE"
)

func TestMain(m *testing.M) {
	remotetest.WaitTogether()
	remotetest.Main(m, open)
}

// waits lets other tests run beside one that mostly waits. In full rounds those
// are large, and each has the machine for itself.
func waits(t *testing.T) {
	if testing.Short() {
		t.Parallel()
	}
}

// each runs a test for both dialects, each with a place that has no table yet.
func each(t *testing.T, test func(t *testing.T, newPlace func(testing.TB) string)) {
	t.Run("SQLite", func(t *testing.T) { test(t, inSQLite) })
	t.Run("MariaDB", func(t *testing.T) { test(t, inMariaDB) })
}

// inSQLite is a file of its own, as a program opens one, but that it does not
// wait for its disk, or a table of its own in the file that the environment names.
func inSQLite(t testing.TB) string {
	const options = "?_pragma=journal_mode(WAL)&_pragma=busy_timeout(5000)&_pragma=synchronous(OFF)|"
	if file := os.Getenv(fileEnv); file != "" {
		return "sqlite|file:" + file + options + newTable()
	}
	return "sqlite|file:" + filepath.Join(t.TempDir(), "app.db") + options
}

// inBareSQLite is a file of a program that knows nothing of WAL mode and of busy
// timeouts.
func inBareSQLite(t testing.TB) string {
	return "sqlite|file:" + filepath.Join(t.TempDir(), "app.db") + "|"
}

var tables atomic.Int64

func newTable() string { return fmt.Sprintf("test_%d_%d", os.Getpid(), tables.Add(1)) }

// inMariaDB is a table of its own in the MariaDB of all tests that do not need
// one of their own: the MySQL or MariaDB that the environment names, or one that
// is started for them.
func inMariaDB(t testing.TB) string {
	t.Helper()
	source, err := sharedSource()
	if err != nil {
		t.Fatal(err)
	}
	return "mysql|" + source + "|" + newTable()
}

var sharedSource = sync.OnceValues(func() (string, error) {
	source := os.Getenv(sourceEnv)
	if source == "" {
		m, err := remotetest.NewMariaDB()
		if err == nil {
			err = m.Start()
		}
		if err != nil {
			return "", err
		}
		source = m.DSN()
	}
	return sourceWith(source, func(c *mysql.Config) { c.InterpolateParams = true })
})

func sourceWith(source string, change func(*mysql.Config)) (string, error) {
	c, err := mysql.ParseDSN(source)
	if err != nil {
		return "", err
	}
	change(c)
	return c.FormatDSN(), nil
}

// opened has the driver open a place in another way.
func opened(t testing.TB, place string, change func(*mysql.Config)) string {
	t.Helper()
	dialect, source, table := parse(place)
	source, err := sourceWith(source, change)
	if err != nil {
		t.Fatal(err)
	}
	return dialect + "|" + source + "|" + table
}

// ownServer is a MariaDB for one test, which may stop it.
func ownServer(t testing.TB, args ...string) *remotetest.MariaDB {
	t.Helper()
	m, err := remotetest.NewMariaDB()
	if err == nil {
		err = m.Start(args...)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Crash)
	return m
}

// migrated makes the table of a place.
func migrated(t testing.TB, place string) string {
	t.Helper()
	store := openStore(t, place, 1)
	if err := store.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if store.Table != "" {
		t.Cleanup(func() { _, _ = store.DB.Exec("DROP TABLE " + store.Table) }) // the server may have been stopped
	}
	return place
}

func openStore(t testing.TB, place string, conns int) *sqlstore.Store {
	t.Helper()
	s, err := openWith(place, 0, conns)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.DB.Close() })
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// exec changes the table by hand, where TABLE_NAME stands for it.
func exec(t testing.TB, s *sqlstore.Store, statement string, args ...any) {
	t.Helper()
	if err := tryExec(s, statement, args...); err != nil {
		t.Fatal(err)
	}
}

func tryExec(s *sqlstore.Store, statement string, args ...any) error {
	_, err := s.DB.Exec(strings.ReplaceAll(statement, "TABLE_NAME", tableOf(s)), args...)
	return err
}

func tableOf(s *sqlstore.Store) string { return cmp.Or(s.Table, "walletauth_sessions") }

func hashOf(key string) []byte {
	hash := sha256.Sum256([]byte(key))
	return hash[:]
}

func save(t testing.TB, s walletauth.TokenStore, key, id string) {
	t.Helper()
	if err := walletauth.Save(context.Background(), s, key, remotetest.Session(id)); err != nil {
		t.Fatal(err)
	}
}
