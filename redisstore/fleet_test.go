//go:build linux

package redisstore_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/walletauth/walletauth/internal/remote/remotetest"
	"github.com/walletauth/walletauth/redisstore"
)

func TestFleet(t *testing.T) {
	remotetest.Fleet(t, open, place(t), 0, func(_ *testing.T, m *remotetest.Members) { m.AwaitLifetimes() })
}

func TestFleetWhileRedisIsRestarted(t *testing.T) {
	r := ownServer(t)
	remotetest.Fleet(t, open, r.URL()+" fleet:", 0, func(_ *testing.T, m *remotetest.Members) {
		m.WhileRestarted(func() { r.Stop(syscall.SIGKILL) }, func() error { return r.Start("always") })
	})
}

func TestFleetWhileProcessesAreStopped(t *testing.T) {
	const lease = time.Second
	remotetest.Fleet(t, open, place(t), lease, func(_ *testing.T, m *remotetest.Members) { m.WhilePaused(lease) })
}

func TestVisibility(t *testing.T) { remotetest.Visibility(t, open, place(t), 20) }

func BenchmarkVisibility(b *testing.B) { remotetest.BenchmarkVisibility(b, open, place(b)) }

func TestThousandKeys(t *testing.T) {
	s := newStore(t)
	client := newClient(t, 4)
	s.Client = client
	remotetest.ThousandKeys(t, s, func(ctx context.Context) error { return client.Ping(ctx).Err() })
}

func TestRedisThatStandsStill(t *testing.T) {
	r := ownServer(t)
	options, err := redis.ParseURL(r.URL())
	if err != nil {
		t.Fatal(err)
	}
	options.PoolSize = 4
	s, another := &redisstore.Store{Client: redis.NewClient(options)}, openStore(t, r.URL()+" ")
	defer s.Close()
	another.CacheFor = -1
	remotetest.Stall(t, s, another,
		func() { r.Signal(syscall.SIGSTOP) }, func() { r.Signal(syscall.SIGCONT) })
}

// TestSteadyState counts at the server what Loads cost: a read of each copy in 5
// seconds at most, where no message can vouch for it.
func TestSteadyState(t *testing.T) {
	const keys = 100
	loads := 100_000
	if testing.Short() {
		loads = 10_000
	}
	s := newStore(t)
	for i := range keys {
		save(t, s, fmt.Sprint(i), remotetest.Session(fmt.Sprint(i)))
	}
	awaitSubscribers(t, s.Client, s.Prefix, 1)
	for i := range keys { // those saved before are read once more
		if _, err := s.Load(t.Context(), fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	before, began := scriptRuns(t), time.Now()
	for i := range loads {
		if _, err := s.Load(t.Context(), fmt.Sprint(i%keys)); err != nil {
			t.Fatal(err)
		}
	}
	took, cost := time.Since(began), scriptRuns(t)-before
	t.Logf("%d Loads of %d keys in %v: %d scripts at the server", loads, keys, took, cost)
	if most := keys * int(1+took/(5*time.Second)); cost > most {
		t.Errorf("%d Loads cost %d scripts at the server, at most %d are explained", loads, cost, most)
	}
}

// scriptRuns counts the scripts that the shared Redis has run so far.
func scriptRuns(t *testing.T) (n int) {
	t.Helper()
	info, err := newClient(t, 1).Info(t.Context(), "commandstats").Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Fields(info) {
		if stats, ok := strings.CutPrefix(line, "cmdstat_evalsha:calls="); ok {
			calls, _, _ := strings.Cut(stats, ",")
			if n, err = strconv.Atoi(calls); err != nil {
				t.Fatal(err)
			}
		}
	}
	return n
}
