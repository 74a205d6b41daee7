//go:build linux

package remotetest

import (
	"context"
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

const (
	processes = 20
	lifetime  = 2 * time.Second // of an access token
)

// Fleet has 20 processes send requests with one session, whose access tokens
// live for 2 seconds, while meanwhile runs. No request fails, no refresh token is spent
// twice, and there are refreshes per lifetime, not per process.
func Fleet(t *testing.T, open Open, place string, lease time.Duration, meanwhile func(*testing.T, *Members)) {
	store := open.store(t, place, lease)
	srv := walletauthtest.NewServer(walletauthtest.Config{AccessTokenTTL: lifetime, TB: t})
	if err := walletauth.Save(t.Context(), store, "user", srv.Login("user")); err != nil {
		t.Fatal(err)
	}
	m := &Members{srv: srv}
	for range processes {
		m.list = append(m.list, start(t, order{
			Do: "request", Place: place, Lease: lease, Key: "user", URL: srv.URL, Every: 40 * time.Millisecond,
		}))
	}
	for _, p := range m.list {
		p.ready()
	}
	began, before := time.Now(), srv.Stats().Refreshes
	meanwhile(t, m)
	lifetimes := float64(time.Since(began)) / float64(lifetime)
	refreshes := srv.Stats().Refreshes - before
	sum := m.finish()
	t.Logf("%d processes, %d requests in %.1f lifetimes: %d refreshes, %d failures, slowest request %v, all counts: %+v",
		processes, sum.Requests, lifetimes, refreshes, sum.Failures, sum.Slowest, srv.Stats())
	if sum.Failures > 0 {
		t.Errorf("%d of %d requests failed, the first: %s", sum.Failures, sum.Requests, sum.Failure)
	}
	if reuses := srv.Stats().Reuses; reuses > 0 {
		t.Errorf("%d times a refresh token was spent again", reuses)
	}
	// A refresh is due at four fifths of a lifetime. One more per lifetime is
	// not a matter of the number of processes.
	if refreshes < 1 || float64(refreshes) > 2*lifetimes+2 {
		t.Errorf("%d refreshes in %.1f lifetimes of an access token", refreshes, lifetimes)
	}
}

// Members are the processes of a fleet.
type Members struct {
	list []*process
	srv  *walletauthtest.Server
}

func (m *Members) finish() (sum tally) {
	for _, p := range m.list {
		p.end()
	}
	for _, p := range m.list {
		var t tally
		p.finish(&t)
		sum.Requests += t.Requests
		sum.Slowest = max(sum.Slowest, t.Slowest)
		if sum.Failures == 0 {
			sum.Failure = t.Failure
		}
		sum.Failures += t.Failures
	}
	return sum
}

// PauseInTurn stops one process at a time for pause, until ctx ends.
//
// None is stopped while a refresh is on its way: if the API has rotated the
// token and the process that knows the new one stands still for longer than
// its lease, no store can keep the next one from spending the old token.
func (m *Members) PauseInTurn(ctx context.Context, pause time.Duration) (stopped int) {
	for ctx.Err() == nil {
		m.awaitQuiet(ctx)
		p := m.list[stopped%len(m.list)]
		p.signal(syscall.SIGSTOP)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		p.signal(syscall.SIGCONT)
		stopped++
	}
	return stopped
}

// awaitQuiet returns when no refresh has been granted for 100 ms.
func (m *Members) awaitQuiet(ctx context.Context) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	last, since := m.srv.Stats().Refreshes, time.Now()
	for time.Since(since) < 100*time.Millisecond && ctx.Err() == nil {
		<-tick.C
		if now := m.srv.Stats().Refreshes; now != last {
			last, since = now, time.Now()
		}
	}
}

// Visibility has 8 processes see each of some Updates of another one, and returns
// how long that took, from before the save on. It fails if one is not seen.
func Visibility(tb testing.TB, open Open, place string, updates int) (delays []time.Duration) {
	tb.Helper()
	const watchers = 8
	store := open.store(tb, place, 0)
	save := func() {
		tb.Helper()
		if err := walletauth.Save(tb.Context(), store, "seen", Session(time.Now().Format(time.RFC3339Nano))); err != nil {
			tb.Fatal(err)
		}
	}
	save()
	list := make([]*process, watchers)
	for i := range list {
		list[i] = start(tb, order{Do: "watch", Place: place, Key: "seen", Every: time.Millisecond})
	}
	for _, p := range list {
		p.ready()
	}
	for range updates {
		save()
		for _, p := range list { // before the next save, so that no process can skip one
			var delay time.Duration
			p.hear(&delay)
			delays = append(delays, delay)
		}
	}
	for _, p := range list {
		var sights int
		if p.finish(&sights); sights != updates {
			tb.Errorf("a process saw %d of %d Updates", sights, updates)
		}
	}
	return delays
}

// BenchmarkVisibility reports the median and the 99th percentile of how long it
// takes until another process sees an Update.
func BenchmarkVisibility(b *testing.B, open Open, place string) {
	delays := Visibility(b, open, place, b.N)
	slices.Sort(delays)
	b.ReportMetric(0, "ns/op") // which holds the start of processes
	b.ReportMetric(float64(delays[len(delays)/2].Microseconds()), "median-µs")
	b.ReportMetric(float64(delays[len(delays)*99/100].Microseconds()), "p99-µs")
}

// ThousandKeys updates 1,000 keys at once, 200 ms each, and logs how long that
// took and how long an unrelated query took meanwhile.
func ThousandKeys(t *testing.T, store walletauth.TokenStore, query func(context.Context) error) {
	const keys, fn = 1000, 200 * time.Millisecond
	done := make(chan struct{})
	slowest := make(chan time.Duration)
	go func() { slowest <- slowestQuery(t, query, done) }()
	began := time.Now()
	errs := make(chan error, keys)
	for i := range keys {
		go func() {
			errs <- store.Update(t.Context(), fmt.Sprintf("user-%d", i), func(context.Context, *walletauth.Session) (*walletauth.Session, error) {
				<-time.After(fn) // the refresh
				return Session("next"), nil
			})
		}()
	}
	for range keys {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	took := time.Since(began)
	close(done)
	t.Logf("%d keys at once, %v each, took %v; the slowest unrelated query meanwhile %v", keys, fn, took, <-slowest)
	if took > keys*fn/10 {
		t.Errorf("%d Updates took %v: they wait for each other", keys, took)
	}
}

func slowestQuery(t *testing.T, query func(context.Context) error, done <-chan struct{}) (slowest time.Duration) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		began := time.Now()
		if err := query(context.Background()); err != nil {
			t.Error(err)
		}
		slowest = max(slowest, time.Since(began))
		select {
		case <-tick.C:
		case <-done:
			return slowest
		}
	}
}
