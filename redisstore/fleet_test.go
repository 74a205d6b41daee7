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

	"github.com/walletauth/walletauth/internal/remote/remotetest"
)

func TestFleet(t *testing.T) {
	remotetest.Fleet(t, open, place(t), 0, func(*testing.T, *remotetest.Members) {
		<-time.After(6 * time.Second)
	})
}

func TestFleetWhileRedisIsRestarted(t *testing.T) {
	r := ownServer(t)
	remotetest.Fleet(t, open, r.URL()+" fleet:", 0, func(t *testing.T, _ *remotetest.Members) {
		for range 2 {
			<-time.After(3500 * time.Millisecond)
			r.Stop(syscall.SIGKILL)
			<-time.After(500 * time.Millisecond)
			if err := r.Start("always"); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestFleetWhileProcessesAreStopped(t *testing.T) {
	const lease = time.Second
	remotetest.Fleet(t, open, place(t), lease, func(t *testing.T, m *remotetest.Members) {
		ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
		defer cancel()
		t.Logf("%d times a process was stopped past its lease", m.PauseInTurn(ctx, lease*3/2))
	})
}

func TestVisibility(t *testing.T) { remotetest.Visibility(t, open, place(t), 20) }

func BenchmarkVisibility(b *testing.B) { remotetest.BenchmarkVisibility(b, open, place(b)) }

func TestThousandKeys(t *testing.T) {
	s := newStore(t)
	client := newClient(t, 4)
	s.Client = client
	remotetest.ThousandKeys(t, s, func(ctx context.Context) error { return client.Ping(ctx).Err() })
}

// TestSteadyState counts at the server what Loads cost.
func TestSteadyState(t *testing.T) {
	const keys, loads = 100, 100_000
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
	before, began := commands(t), time.Now()
	for i := range loads {
		if _, err := s.Load(t.Context(), fmt.Sprint(i%keys)); err != nil {
			t.Fatal(err)
		}
	}
	took, cost := time.Since(began), commands(t)-before
	t.Logf("%d Loads of %d keys in %v: %d commands at the server", loads, keys, took, cost)
	if cost > loads/1000 {
		t.Errorf("%d Loads cost %d commands at the server", loads, cost)
	}
}

// commands counts all that the shared Redis was asked so far.
func commands(t *testing.T) (n int) {
	t.Helper()
	info, err := newClient(t, 1).Info(t.Context(), "commandstats").Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Fields(info) {
		if _, rest, ok := strings.Cut(line, "calls="); ok {
			calls, _, _ := strings.Cut(rest, ",")
			c, err := strconv.Atoi(calls)
			if err != nil {
				t.Fatal(err)
			}
			n += c
		}
	}
	return n
}
