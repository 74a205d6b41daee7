//go:build linux

package chaos_test

import (
	"context"
	"database/sql"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/internal/remote/remotetest"
	"github.com/walletauth/walletauth/sqlstore"
	_ "modernc.org/sqlite"
)

func init() {
	stores["sqlite"] = func(file string) (walletauth.TokenStore, error) {
		return openSQL("sqlite", "file:"+file+"?_pragma=journal_mode(WAL)&_pragma=busy_timeout(5000)")
	}
	stores["mariadb"] = func(dsn string) (walletauth.TokenStore, error) {
		_ = mysql.SetLogger(quiet{}) // it tells of each connection that breaks; only a nil one is refused
		return openSQL("mysql", dsn+"?interpolateParams=true&timeout=5s")
	}
}

type quiet struct{}

func (quiet) Print(...any) {}

func openSQL(driver, source string) (*sqlstore.Store, error) {
	db, err := sql.Open(driver, source)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(8)
	db.SetMaxIdleConns(8)
	return &sqlstore.Store{DB: db, Dialect: sqlstore.Dialect(driver), Lease: lease}, nil
}

// migrated opens a store and makes its table.
func migrated(t *testing.T, name, place string) *sqlstore.Store {
	t.Helper()
	store, err := stores[name](place)
	if err != nil {
		t.Fatal(err)
	}
	made := store.(*sqlstore.Store)
	if err := made.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return made
}

// TestSQLite: processes are killed and stopped in the middle of writing to one
// file, whose disk is full at times.
func TestSQLite(t *testing.T) {
	d := newDisk(t, "16m") // of which the log takes four
	file := d.path + "/app.db"
	c := begin(t, "sqlite", file, "", migrated(t, "sqlite", file))
	c.run(c.processFaults(), c.aimedFaults(), c.apiFaults(), []fault{{"disk full", func(r *rand.Rand) error {
		return d.full(someTime(r), func() {})
	}}})
}

// TestMariaDB: a full disk does not end mariadbd, which then refuses what needs
// room.
func TestMariaDB(t *testing.T) {
	d := newDisk(t, "128m")
	m, err := remotetest.NewMariaDBIn(d.path)
	if err != nil {
		t.Fatal(err)
	}
	filler := filler{dsn: m.DSN()}
	s := &server{
		start:   func() error { return m.Start("--skip-log-bin") },
		service: func() *remotetest.Service { return m.Service },
		disk:    d, proxy: newProxy(t, m.Socket), write: filler.fill,
	}
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.kill)
	c := begin(t, "mariadb", "root@tcp("+s.proxy.listener.Addr().String()+")/walletauth", "", migrated(t, "mariadb", m.DSN()))
	c.run(c.processFaults(), c.aimedFaults(), c.apiFaults(), s.faults(c))
	refused := filler.refusals()
	t.Logf("%d times the server refused to write as its disk was full, %d times it ended; it was away for %v at most",
		refused, s.ended, s.longest.Round(time.Millisecond))
	if refused+s.ended == 0 && !testing.Short() { // a single time it may be too slow to notice
		t.Error("the server never noticed that its disk was full: this proves nothing of it")
	}
}

// filler has MariaDB write to a table of its own what does not fit.
type filler struct {
	dsn string

	mu      sync.Mutex // guards refused
	refused int
}

func (f *filler) fill() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	db, err := sql.Open("mysql", f.dsn)
	if err != nil {
		return
	}
	defer db.Close()
	if _, err = db.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS much (data LONGBLOB)"); err == nil {
		_, err = db.ExecContext(ctx, "TRUNCATE TABLE much")
	}
	for range 100 { // after as many it has room
		if err != nil {
			break
		}
		_, err = db.ExecContext(ctx, "INSERT INTO much VALUES (repeat('x', 1048576))")
	}
	if err != nil && (strings.Contains(err.Error(), "is full") || strings.Contains(err.Error(), "No space")) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.refused++
	}
}

func (f *filler) refusals() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.refused
}
