//go:build linux

package pgxstore_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/walletauth/walletauth/internal/remote/remotetest"
	"github.com/walletauth/walletauth/pgxstore"
)

func TestFleet(t *testing.T) {
	remotetest.Fleet(t, open, place(t, postgresURL(t)), 0, func(_ *testing.T, m *remotetest.Members) { m.AwaitLifetimes() })
}

func TestFleetWhilePostgresIsRestarted(t *testing.T) {
	s := ownServer(t)
	remotetest.Fleet(t, open, place(t, s.URL()), 0, func(_ *testing.T, m *remotetest.Members) {
		m.WhileRestarted(s.Crash, func() error { return s.Start() })
	})
}

func TestFleetWhileProcessesAreStopped(t *testing.T) {
	const lease = time.Second
	remotetest.Fleet(t, open, place(t, postgresURL(t)), lease, func(_ *testing.T, m *remotetest.Members) { m.WhilePaused(lease) })
}

func TestVisibility(t *testing.T) { remotetest.Visibility(t, open, place(t, postgresURL(t)), 20) }

func BenchmarkVisibility(b *testing.B) {
	remotetest.BenchmarkVisibility(b, open, place(b, postgresURL(b)))
}

func TestThousandKeys(t *testing.T) {
	s := openStore(t, place(t, postgresURL(t)), 4)
	fill(t, s.Pool)
	remotetest.ThousandKeys(t, s, func(ctx context.Context) error { return s.Pool.Ping(ctx) })
}

// TestPostgresThatStandsStill stops all processes of a server.
func TestPostgresThatStandsStill(t *testing.T) {
	p := ownServer(t)
	shared := place(t, p.URL())
	another := openStore(t, shared, 4)
	another.CacheFor = -1
	remotetest.Stall(t, openStore(t, shared, 4), another,
		func() { p.Signal(syscall.SIGSTOP) }, func() { p.Signal(syscall.SIGCONT) })
}

// BenchmarkRefreshes reports how many sessions a second one process refreshes, 256
// at once, on a PostgreSQL that waits for its disk. What a refresh itself would
// take is left out.
func BenchmarkRefreshes(b *testing.B) {
	p, err := remotetest.NewPostgres()
	if err == nil {
		err = p.Start("-c", "fsync=on")
	}
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(p.Crash)
	for _, conns := range []int32{4, 16} {
		b.Run(fmt.Sprint("pool of ", conns), func(b *testing.B) {
			s := openStore(b, place(b, p.URL()), conns)
			remotetest.BenchmarkRefreshes(b, func(b *testing.B, key string) { save(b, s, key, "refreshed") })
		})
	}
}

// fill has the pool open all its connections, as it has in a program that runs.
func fill(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	for range pool.Config().MaxConns {
		conn, err := pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Release()
	}
}

// TestSteadyState counts what Loads ask PostgreSQL: for each copy once in 5 seconds
// at most, where no message can vouch for it.
func TestSteadyState(t *testing.T) {
	const keys = 100
	loads := 100_000
	if testing.Short() {
		loads = 10_000
	}
	s, asked := newStore(t), new(reads)
	config := s.Pool.Config()
	config.ConnConfig.Tracer = asked
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	s.Pool = pool
	for i := range keys {
		save(t, s, fmt.Sprint(i), fmt.Sprint(i))
	}
	awaitListeners(t, s, 1)
	for i := range keys { // those saved before are read once more
		if _, err := s.Load(t.Context(), fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	before, began := asked.Load(), time.Now()
	for i := range loads {
		if _, err := s.Load(t.Context(), fmt.Sprint(i%keys)); err != nil {
			t.Fatal(err)
		}
	}
	took, cost := time.Since(began), asked.Load()-before
	t.Logf("%d Loads of %d keys in %v: %d reads of the table", loads, keys, took, cost)
	if most := keys * int64(1+took/(5*time.Second)); cost > most {
		t.Errorf("%d Loads cost %d reads of the table, at most %d are explained", loads, cost, most)
	}
}

// reads counts the statements that read a session.
type reads struct{ atomic.Int64 }

func (r *reads) TraceQueryStart(ctx context.Context, _ *pgx.Conn, query pgx.TraceQueryStartData) context.Context {
	if strings.HasPrefix(query.SQL, "SELECT stamp") {
		r.Add(1)
	}
	return ctx
}

func (*reads) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// awaitListeners returns when n connections listen for changes of the table.
func awaitListeners(t *testing.T, s *pgxstore.Store, n int) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for listening := -1; listening != n; <-tick.C {
		row := s.Pool.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity
			WHERE query LIKE 'LISTEN "walletauth_' || to_regclass($1)::oid || '%'`, pgx.QueryExecModeExec, s.Table)
		if err := row.Scan(&listening); err != nil {
			t.Fatal(err)
		}
	}
}
