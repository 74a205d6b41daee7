//go:build linux

package pgxstore_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/walletauth/walletauth/internal/remote/remotetest"
	"github.com/walletauth/walletauth/pgxstore"
)

func TestFleet(t *testing.T) {
	remotetest.Fleet(t, open, place(t, postgresURL(t)), 0, func(*testing.T, *remotetest.Members) {
		<-time.After(6 * time.Second)
	})
}

func TestFleetWhilePostgresIsRestarted(t *testing.T) {
	s := ownServer(t)
	remotetest.Fleet(t, open, place(t, s.URL()), 0, func(t *testing.T, _ *remotetest.Members) {
		for range 2 {
			<-time.After(3500 * time.Millisecond)
			s.Crash()
			<-time.After(500 * time.Millisecond)
			if err := s.Start(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestFleetWhileProcessesAreStopped(t *testing.T) {
	const lease = time.Second
	remotetest.Fleet(t, open, place(t, postgresURL(t)), lease, func(t *testing.T, m *remotetest.Members) {
		ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
		defer cancel()
		t.Logf("%d times a process was stopped past its lease", m.PauseInTurn(ctx, lease*3/2))
	})
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
			var all sync.WaitGroup
			var next atomic.Int64
			for range 256 {
				all.Go(func() {
					for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
						save(b, s, fmt.Sprint(i%1000), "refreshed")
					}
				})
			}
			all.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "refreshes/s")
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

// TestSteadyState counts at the server what Loads cost.
func TestSteadyState(t *testing.T) {
	const keys, loads = 100, 100_000
	s := newStore(t)
	for i := range keys {
		save(t, s, fmt.Sprint(i), fmt.Sprint(i))
	}
	before, began := reads(t, s), time.Now()
	for i := range loads {
		if _, err := s.Load(t.Context(), fmt.Sprint(i%keys)); err != nil {
			t.Fatal(err)
		}
	}
	took, cost := time.Since(began), reads(t, s)-before
	t.Logf("%d Loads of %d keys in %v: %d reads of the table", loads, keys, took, cost)
	if cost > loads/1000 {
		t.Errorf("%d Loads cost %d reads of the table", loads, cost)
	}
}

// reads counts how often the table was read through its index, once what other
// connections counted has had the second in which they report it.
func reads(t *testing.T, s *pgxstore.Store) (n int) {
	t.Helper()
	<-time.After(1200 * time.Millisecond)
	row := s.Pool.QueryRow(t.Context(), "SELECT idx_scan FROM pg_stat_user_tables WHERE relname = $1", s.Table)
	if err := row.Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}
