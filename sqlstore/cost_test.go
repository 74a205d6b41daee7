//go:build linux

package sqlstore_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/sqlstore"
)

// cost is how many statements a store has sent to its database.
type cost struct{ pragmas, looks, others int }

// spy is a driver that counts what passes on its way to another one.
type spy struct {
	to     driver.Driver
	source string
	before func(statement string) // is called with each, if it is not nil

	mu   sync.Mutex // guards cost
	cost cost
}

// openSpied is openStore with a spy between the store and its database.
func openSpied(t *testing.T, place string, conns int) (*sqlstore.Store, *spy) {
	t.Helper()
	s := openStore(t, place, conns)
	_, source, _ := parse(place)
	spy := &spy{to: s.DB.Driver(), source: source}
	_ = s.DB.Close() // it has no connection
	s.DB = sql.OpenDB(spy)
	s.DB.SetMaxOpenConns(conns)
	s.DB.SetMaxIdleConns(conns)
	t.Cleanup(func() { _ = s.DB.Close() })
	t.Cleanup(func() { _ = s.Close() })
	return s, spy
}

func (s *spy) Driver() driver.Driver { return s.to }

func (s *spy) Connect(context.Context) (driver.Conn, error) {
	conn, err := s.to.Open(s.source)
	if err != nil {
		return nil, err
	}
	return spied{conn, s}, nil
}

func (s *spy) count(statement string) {
	if s.before != nil {
		s.before(statement)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case isPragma(statement):
		s.cost.pragmas++
	case isLook(statement):
		s.cost.looks++
	default:
		s.cost.others++
	}
}

func isPragma(statement string) bool { return statement == "PRAGMA data_version" }

func isLook(statement string) bool { return strings.Contains(statement, "updated_at > ?") }

// during returns what is sent while the time of a bubble passes.
func (s *spy) during(d time.Duration) cost {
	s.mu.Lock()
	s.cost = cost{}
	s.mu.Unlock()
	time.Sleep(d)
	synctest.Wait()
	return s.sent()
}

func (s *spy) sent() cost {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cost
}

// awaitLooks returns when the store has looked for changes n times from now on.
func (s *spy) awaitLooks(t *testing.T, n int) {
	t.Helper()
	want := s.sent().looks + n
	for deadline := time.Now().Add(time.Minute); s.sent().looks < want; <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("in a minute the store has not looked for changes %d times", n)
		}
	}
}

// spied is a connection.
type spied struct {
	driver.Conn
	spy *spy
}

func (c spied) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	c.spy.count(query)
	return c.Conn.(driver.QueryerContext).QueryContext(ctx, query, args)
}

func (c spied) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	c.spy.count(query)
	return c.Conn.(driver.ExecerContext).ExecContext(ctx, query, args)
}

// look has a subscription of s look for changes until the test ends, and returns
// a function that says of how many it has been told.
func look(t *testing.T, s *sqlstore.Store) (told func() int) {
	t.Helper()
	sub, err := sqlstore.ServerOf(s).Subscribe(t.Context(), "reader")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	var reader sync.WaitGroup
	reader.Go(func() {
		for {
			if _, err := sub.Next(t.Context()); err != nil {
				return // or the test fails, as nothing is counted any more
			}
			n++
		}
	})
	t.Cleanup(sub.Close)
	t.Cleanup(reader.Wait)
	return func() int { synctest.Wait(); return n }
}

// between is when no look is: in a bubble they are at multiples of 10 ms, and
// counting begins and ends between two.
const between = 5 * time.Millisecond

const insertNow = "INSERT INTO TABLE_NAME (key_hash, updated_at, version) VALUES (?, CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER), 1)"

// TestSQLiteIsReadOnlyAfterACommit: the pragma is asked fifty times a second, and
// the table is read once after each commit of another connection, whatever was
// changed by it.
func TestSQLiteIsReadOnlyAfterACommit(t *testing.T) {
	place := migrated(t, inSQLite(t))
	synctest.Test(t, func(t *testing.T) {
		s, spy := openSpied(t, place, 4)
		other := openStore(t, place, 1)
		exec(t, other, "CREATE TABLE theirs (n)")
		told := look(t, s)
		time.Sleep(between)
		for _, c := range []struct {
			when   string
			change func()
			took   time.Duration
			want   cost
			told   int
		}{
			{"at first", func() {}, time.Second, cost{pragmas: 50, looks: 1}, 0},
			{"while nobody writes", func() {}, 10 * time.Second, cost{pragmas: 500}, 0},
			{"after a commit of a session", func() { exec(t, other, insertNow, hashOf("1")) }, time.Second, cost{pragmas: 50, looks: 1}, 1},
			{"after a commit of something else", func() { exec(t, other, "INSERT INTO theirs VALUES (1)") }, time.Second, cost{pragmas: 50, looks: 1}, 1},
			{"while somebody reads", func() { exec(t, other, "SELECT * FROM TABLE_NAME") }, 10 * time.Second, cost{pragmas: 500}, 1},
			{"after a transaction that was not committed", func() { rollBack(t, other) }, time.Second, cost{pragmas: 50}, 1},
			{"after another commit of a session", func() { exec(t, other, insertNow, hashOf("2")) }, time.Second, cost{pragmas: 50, looks: 1}, 2},
		} {
			c.change()
			if got := spy.during(c.took); got != c.want {
				t.Errorf("%s, in %v: %+v, want %+v", c.when, c.took, got, c.want)
			}
			if n := told(); n != c.told {
				t.Errorf("%s: %d changes have been told, want %d", c.when, n, c.told)
			}
		}
	})
}

func rollBack(t *testing.T, s *sqlstore.Store) {
	t.Helper()
	tx, err := s.DB.BeginTx(t.Context(), nil)
	if err == nil {
		_, err = tx.Exec("DELETE FROM " + tableOf(s))
		err = errors.Join(err, tx.Rollback())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestSlowLooksAreFew: where something is committed before each look, looks take a
// tenth of the time at most, but for ten a second that there are in any case.
func TestSlowLooksAreFew(t *testing.T) {
	place := migrated(t, inSQLite(t))
	for took, want := range map[time.Duration]int{0: 500, time.Millisecond: 500, 4 * time.Millisecond: 250, 50 * time.Millisecond: 100} {
		synctest.Test(t, func(t *testing.T) {
			s, spy := openSpied(t, place, 4)
			other := openStore(t, place, 1)
			exec(t, other, "CREATE TABLE IF NOT EXISTS theirs (n)")
			spy.before = func(statement string) {
				switch {
				case isPragma(statement):
					exec(t, other, "INSERT INTO theirs VALUES (1)")
				case isLook(statement):
					time.Sleep(took)
				}
			}
			look(t, s)
			time.Sleep(time.Second + between)
			if got := spy.during(10 * time.Second); got != (cost{pragmas: want, looks: want}) {
				t.Errorf("looks that take %v, in 10 s: %+v, want %d", took, got, want)
			}
		})
	}
}

// TestSteadyState: what a process with copies asks does not depend on how many
// there are and how often they are loaded. In SQLite it reads the table once for
// each probe that nothing is missed, every 5/3 seconds.
func TestSteadyState(t *testing.T) {
	const keys, loads = 100, 100_000
	want := map[sqlstore.Dialect]cost{sqlstore.MySQL: {looks: 600}, sqlstore.SQLite: {pragmas: 3000, looks: 36}}
	each(t, func(t *testing.T, newPlace func(testing.TB) string) {
		place := migrated(t, newPlace(t))
		synctest.Test(t, func(t *testing.T) {
			s, spy := openSpied(t, place, 4)
			for i := range keys {
				save(t, s, fmt.Sprint(i), fmt.Sprint(i))
			}
			time.Sleep(5 * time.Second)
			loadOften(t, s, keys, keys) // what was saved before the store looked for changes is read again
			time.Sleep(6*time.Second + between)
			var all sync.WaitGroup
			all.Go(func() { loadOften(t, s, keys, loads) })
			if got := spy.during(time.Minute); got != want[s.Dialect] {
				t.Errorf("%d Loads of %d keys in a minute: %+v, want %+v", loads, keys, got, want[s.Dialect])
			}
			all.Wait()
		})
	})
}

// loadOften takes less than a minute.
func loadOften(t *testing.T, s *sqlstore.Store, keys, loads int) {
	for i := range loads {
		if got, err := s.Load(t.Context(), fmt.Sprint(i%keys)); err != nil || got.ID != fmt.Sprint(i%keys) {
			t.Errorf("Load: %v, %v", got, err)
			return
		}
		if i%100 == 99 {
			time.Sleep(50 * time.Millisecond)
		}
	}
}

// TestNoCopiesNoLooks: a process looks for changes, and holds a connection for
// it, only while it has copies.
func TestNoCopiesNoLooks(t *testing.T) {
	each(t, func(t *testing.T, newPlace func(testing.TB) string) {
		place := migrated(t, newPlace(t))
		for name, until := range map[string]func(*testing.T, *sqlstore.Store){
			"before a session was asked for": func(t *testing.T, s *sqlstore.Store) {},
			"where none is kept": func(t *testing.T, s *sqlstore.Store) {
				s.CacheFor = -1
				save(t, s, "0", "0")
				loadOften(t, s, 1, 100)
			},
			"once there is none any more": func(t *testing.T, s *sqlstore.Store) {
				if _, err := s.Load(t.Context(), "nobody"); !errors.Is(err, walletauth.ErrNoSession) {
					t.Error(err)
				}
				time.Sleep(2 * time.Minute)
			},
			"once they have not been used for long": func(t *testing.T, s *sqlstore.Store) {
				save(t, s, "user", "1")
				time.Sleep(21 * time.Minute)
			},
		} {
			synctest.Test(t, func(t *testing.T) {
				s, spy := openSpied(t, place, 4)
				until(t, s)
				if got := spy.during(time.Hour); got != (cost{}) || s.DB.Stats().InUse != 0 {
					t.Errorf("%s, in an hour: %+v, and %d connections are held", name, got, s.DB.Stats().InUse)
				}
			})
		}
	})
}
