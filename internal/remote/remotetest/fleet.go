//go:build linux

package remotetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

const lifetime = 4 * time.Second // of an access token

// Fleet has 20 processes, 5 in short runs, send requests with one session, whose
// access tokens live for 4 seconds, while meanwhile runs. No request fails, no
// refresh token is used twice, and there are refreshes per lifetime, not per
// process. With a lease other than 0, the default, the API forgives a token that
// comes twice. Fleets run in parallel, as they mostly wait.
func Fleet(t *testing.T, open Open, place string, lease time.Duration, meanwhile func(*testing.T, *Members)) {
	t.Parallel()
	store := open.store(t, place, lease)
	config := walletauthtest.Config{AccessTokenTTL: lifetime, TB: t}
	if lease != 0 { // shorter than a busy machine may take for a refresh, and then no store can keep a token from being sent again
		config.ReuseGrace = 30 * time.Second
	}
	srv := walletauthtest.NewServer(config)
	if err := walletauth.Save(t.Context(), store, "user", srv.Login("user")); err != nil {
		t.Fatal(err)
	}
	m := &Members{t: t, srv: srv}
	for range shortOr(5, 20) {
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
		len(m.list), sum.Requests, lifetimes, refreshes, sum.Failures, sum.Slowest, srv.Stats())
	switch {
	case sum.Failures > 0 && m.starved:
		t.Logf("%d of %d requests failed, the first: %s; the server was away for as long as a token lives", sum.Failures, sum.Requests, sum.Failure)
	case sum.Failures > 0:
		t.Errorf("%d of %d requests failed, the first: %s", sum.Failures, sum.Requests, sum.Failure)
	}
	if reuses := srv.Stats().Reuses; reuses > 0 {
		t.Errorf("%d times a refresh token was used again", reuses)
	}
	// A token is refreshed when four fifths of its lifetime are over, at the
	// earliest. One more per lifetime is not a matter of the number of processes.
	if refreshes < 1 || float64(refreshes) > 2*lifetimes+2 {
		t.Errorf("%d refreshes in %.1f lifetimes of an access token", refreshes, lifetimes)
	}
}

// Members are the processes of a fleet.
type Members struct {
	t    *testing.T
	list []*process
	srv  *walletauthtest.Server

	starved bool // no token could be refreshed for so long that requests had to fail
}

// AwaitRefreshes returns when n more refreshes have been granted.
func (m *Members) AwaitRefreshes(n int) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for want := m.srv.Stats().Refreshes + n; m.srv.Stats().Refreshes < want; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			m.t.Fatalf("%d of %d refreshes in %v", m.srv.Stats().Refreshes-want+n, n, patience)
		}
	}
}

// AwaitLifetimes has the fleet refresh 4 times, twice in short runs.
func (m *Members) AwaitLifetimes() { m.t.Helper(); m.AwaitRefreshes(shortOr(2, 4)) }

// WhileRestarted kills the server twice, once in short runs, while the fleet
// refreshes, and starts it again half a second later. A busy machine may need so
// long for it that the token expires and no request can succeed.
func (m *Members) WhileRestarted(kill func(), start func() error) {
	m.t.Helper()
	for range shortOr(1, 2) {
		m.AwaitRefreshes(1)
		<-time.After(rand.N(lifetime)) // at no particular moment of a lifetime
		killed := time.Now()
		kill()
		<-time.After(500 * time.Millisecond)
		if err := start(); err != nil {
			m.t.Fatal(err)
		}
		away := time.Since(killed)
		m.AwaitRefreshes(1)
		m.starved = m.starved || away > lifetime/2 || time.Since(killed) > 2*lifetime
	}
}

// WhilePaused stops 5 processes, two in short runs, one after the other, each
// for longer than the lease. See PauseInTurn.
func (m *Members) WhilePaused(lease time.Duration) {
	m.t.Helper()
	for i := range shortOr(2, 5) {
		m.pause(m.t.Context(), i, lease*3/2)
	}
	m.AwaitRefreshes(1)
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
// its lease, no store can keep the next one from sending the old token.
func (m *Members) PauseInTurn(ctx context.Context, pause time.Duration) (stopped int) {
	for ; ctx.Err() == nil; stopped++ {
		m.pause(ctx, stopped, pause)
	}
	return stopped
}

func (m *Members) pause(ctx context.Context, number int, pause time.Duration) {
	m.awaitQuiet(ctx)
	p := m.list[number%len(m.list)]
	p.signal(syscall.SIGSTOP)
	select {
	case <-time.After(pause):
	case <-ctx.Done():
	}
	p.signal(syscall.SIGCONT)
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

// ThousandKeys has the fns of 1,000 keys run at once: none returns before all
// were called. It logs how long that took, and how long an unrelated query took
// meanwhile.
func ThousandKeys(t *testing.T, store walletauth.TokenStore, query func(context.Context) error) {
	const keys = 1000
	done := make(chan struct{})
	slowest := make(chan time.Duration)
	go func() { slowest <- slowestQuery(t, query, done) }()
	began := time.Now()
	entered, leave, errs := make(chan struct{}, keys), make(chan struct{}), make(chan error, keys)
	for i := range keys {
		go func() {
			enter := sync.OnceFunc(func() { entered <- struct{}{} })
			errs <- store.Update(t.Context(), fmt.Sprintf("user-%d", i), func(context.Context, *walletauth.Session) (*walletauth.Session, error) {
				enter()
				<-leave // the refresh
				return Session("next"), nil
			})
		}()
	}
	leaveAll := sync.OnceFunc(func() { close(leave) })
	defer leaveAll()
	for n := range keys {
		select {
		case <-entered:
		case err := <-errs:
			t.Fatalf("an Update ended before its fn did: %v", err)
		case <-time.After(patience):
			t.Fatalf("the fns of %d keys run, and no other is called: Updates wait for each other", n)
		}
	}
	leaveAll()
	for range keys {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	took := time.Since(began)
	close(done)
	t.Logf("%d keys at once took %v; the slowest unrelated query meanwhile %v", keys, took, <-slowest)
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
