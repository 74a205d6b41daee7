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
	stores["sqlite"] = func(file string, lease time.Duration) (walletauth.TokenStore, error) {
		return openSQL("sqlite", "file:"+file+"?_pragma=journal_mode(WAL)&_pragma=busy_timeout(5000)", lease)
	}
	stores["mariadb"] = func(dsn string, lease time.Duration) (walletauth.TokenStore, error) {
		_ = mysql.SetLogger(quiet{}) // it tells of each connection that breaks; only a nil one is refused
		return openSQL("mysql", dsn+"?interpolateParams=true&timeout=5s", lease)
	}
}

type quiet struct{}

func (quiet) Print(...any) {}

func openSQL(driver, source string, lease time.Duration) (*sqlstore.Store, error) {
	db, err := sql.Open(driver, source)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(8)
	db.SetMaxIdleConns(8)
	return &sqlstore.Store{DB: db, Dialect: sqlstore.Dialect(driver), Lease: lease}, nil
}

// TestSQLite: processes are killed and stopped in the middle of writing to one
// file, whose disk is full at times.
func TestSQLite(t *testing.T) { haveAllFaults(t, newSQLite(t)) }

func TestMariaDB(t *testing.T) { haveAllFaults(t, newMariaDB(t)) }

func newSQLite(t *testing.T) *backend {
	onlyAtFullLength(t)
	d := newDisk(t, "16m") // of which the log takes four
	file := d.path + "/app.db"
	full := fault{"disk full", func(r *rand.Rand) error { return d.full(someTime(r), func() {}) }}
	b := newBackend(t, &backend{name: "sqlite", place: file, faults: func(*chaos) []fault { return []fault{full} }}, file)
	return migrated(t, b)
}

// newMariaDB is a server that a full disk does not end: it refuses what needs
// room.
func newMariaDB(t *testing.T) *backend {
	onlyAtFullLength(t)
	d := newDisk(t, "128m")
	m, err := remotetest.NewMariaDBIn(d.path)
	if err != nil {
		t.Fatal(err)
	}
	filler := &filler{dsn: m.DSN()}
	s := &server{
		start:   func() error { return m.Start("--skip-log-bin") },
		service: func() *remotetest.Service { return m.Service },
		disk:    d, proxy: newProxy(t, m.Socket), write: filler.fill, refused: filler.refusals,
	}
	s.keepUp(t)
	place := "root@tcp(" + s.proxy.listener.Addr().String() + ")/walletauth"
	return migrated(t, newBackend(t, &backend{name: "mariadb", place: place, server: s, faults: s.faults}, m.DSN()))
}

// onlyAtFullLength leaves a store to the long round: those of the short one stand
// for it.
func onlyAtFullLength(t *testing.T) {
	if testing.Short() {
		t.Skip("runs at full length only, in make proof")
	}
}

func migrated(t *testing.T, b *backend) *backend {
	if err := b.store.(*sqlstore.Store).Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return b
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
