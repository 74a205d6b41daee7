//go:build linux

package sqlstore_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/walletauth/walletauth/internal/remote/remotetest"
)

// TestFleet: on a SQLite file too no request fails, by "database is locked" or
// otherwise, and there are refreshes per lifetime, not per process.
func TestFleet(t *testing.T) {
	waits(t)
	quiet := func(_ *testing.T, m *remotetest.Members) { m.AwaitLifetimes() }
	each(t, func(t *testing.T, newPlace func(testing.TB) string) {
		remotetest.Fleet(t, open, migrated(t, newPlace(t)), 0, quiet)
	})
	t.Run("SQLite without WAL and a busy timeout", func(t *testing.T) {
		remotetest.Fleet(t, open, migrated(t, inBareSQLite(t)), 0, quiet)
	})
}

func TestFleetWhileMariaDBIsRestarted(t *testing.T) {
	s := ownServer(t)
	remotetest.Fleet(t, open, migrated(t, "mysql|"+s.DSN()+"|"), 0, func(_ *testing.T, m *remotetest.Members) {
		m.WhileRestarted(s.Crash, func() error { return s.Start() })
	})
}

// TestFleetWhileProcessesAreStopped is not for SQLite: there a process may be
// stopped while it has the file locked, past everybody's lease. What becomes of a
// stopped holder of a lease is in TestHistories.
func TestFleetWhileProcessesAreStopped(t *testing.T) {
	const lease = time.Second
	remotetest.Fleet(t, open, migrated(t, inMariaDB(t)), lease, func(_ *testing.T, m *remotetest.Members) { m.WhilePaused(lease) })
}

func TestVisibility(t *testing.T) {
	waits(t)
	each(t, func(t *testing.T, newPlace func(testing.TB) string) {
		waits(t)
		remotetest.Visibility(t, open, migrated(t, newPlace(t)), 20)
	})
}

func BenchmarkVisibility(b *testing.B) {
	b.Run("SQLite", func(b *testing.B) { remotetest.BenchmarkVisibility(b, open, migrated(b, inSQLite(b))) })
	b.Run("MariaDB", func(b *testing.B) { remotetest.BenchmarkVisibility(b, open, migrated(b, inMariaDB(b))) })
}

func TestThousandKeys(t *testing.T) {
	s := openStore(t, migrated(t, inMariaDB(t)), 4)
	remotetest.ThousandKeys(t, s, func(ctx context.Context) error { return s.DB.PingContext(ctx) })
}

// BenchmarkRefreshes reports how many sessions a second one process refreshes, 256
// at once, on databases that wait for their disk. What a refresh itself would
// take is left out.
func BenchmarkRefreshes(b *testing.B) {
	for name, newPlace := range map[string]func() string{
		"SQLite": func() string { return strings.Replace(inSQLite(b), "synchronous(OFF)", "synchronous(FULL)", 1) },
		"MariaDB": func() string {
			return "mysql|" + ownServer(b, "--innodb-flush-log-at-trx-commit=1").DSN() + "?interpolateParams=true|"
		},
	} {
		place := migrated(b, newPlace())
		for _, conns := range []int{4, 16} {
			b.Run(fmt.Sprintf("%s, pool of %d", name, conns), func(b *testing.B) {
				s := openStore(b, place, conns)
				remotetest.BenchmarkRefreshes(b, func(b *testing.B, key string) { save(b, s, key, "refreshed") })
			})
		}
	}
}
