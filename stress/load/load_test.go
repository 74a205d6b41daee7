package load_test

import (
	"cmp"
	"context"
	"flag"
	"runtime"
	"testing"
	"time"
)

var (
	lasts    = flag.Duration("load.for", 0, "for how long the load lasts, at least (default 1 min, 5 s with -short)")
	sessions = flag.Int("load.sessions", 0, "how many sessions there are, 1000 at least (default 50,000, 5,000 with -short)")
)

const (
	// ttl is for how long a token lives: longer than a busy machine keeps a request
	// waiting. Callers rest for as long after each round, so that they find their
	// tokens ended however fast the machine is.
	ttl = 5 * time.Second

	callers = 32  // at once
	busy    = 100 // sessions that all callers use, all the time
	rounds  = 2   // through all sessions, at least: a slow machine takes longer
)

// shortOrFull sets the flags that are not given.
func shortOrFull() {
	forTime, number := time.Minute, 50_000
	if testing.Short() {
		forTime, number = 5*time.Second, 5000
	}
	*lasts, *sessions = cmp.Or(*lasts, forTime), cmp.Or(*sessions, number)
}

func TestManySessionsUnderLoad(t *testing.T) {
	shortOrFull()
	if *sessions < 1000 {
		t.Fatal("-load.sessions is too small to keep the callers apart")
	}
	api := startStandIn(t, *sessions, ttl)
	before := runtime.NumGoroutine()
	d := newDrive(t, api)
	began := time.Now()
	d.start(t)
	marks := watch(d, began)
	d.stop()
	took := time.Since(began)
	checkNothingKept(t, d, before)
	checkLevel(t, marks)
	result := api.end(t)
	d.check(t, result)
	report(t, d, result, marks, took)
}

// checkNothingKept shuts the Transport down and looks at what is left of it:
// the store is not, nor are the connections.
func checkNothingKept(t *testing.T, d *drive, goroutines int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := d.transport.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	d.client.CloseIdleConnections()
	left := awaitGoroutines(ctx, goroutines)
	if left > goroutines {
		t.Errorf("after Shutdown there are %d goroutines, before there were %d", left, goroutines)
	}
	kept := keptByTransport(d)
	if kept > 4<<20 { // the sessions used last, up to 4,096, whatever the number of sessions
		t.Errorf("after Shutdown the Transport keeps %d bytes", kept)
	}
	t.Logf("after Shutdown: %d goroutines of %d before, %d bytes in the Transport and its Base", left, goroutines, kept)
}

// watch marks what the process holds sixteen times, or more often if it takes
// longer until every session has had its rounds.
func watch(d *drive, began time.Time) (marks []mark) {
	tick := time.NewTicker(*lasts / 16)
	defer tick.Stop()
	for len(marks) < 16 || d.rounds() < rounds && d.failed.Load() == 0 {
		<-tick.C
		marks = append(marks, d.mark(began))
	}
	return marks
}

// awaitGoroutines waits until there are no more goroutines than there were, as
// those of closed connections take a moment, and returns how many there are.
func awaitGoroutines(ctx context.Context, before int) int {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for runtime.NumGoroutine() > before && ctx.Err() == nil {
		<-tick.C
	}
	return runtime.NumGoroutine()
}

// keptByTransport is what is freed with the Transport: its store is not.
func keptByTransport(d *drive) int64 {
	with := heap()
	d.transport, d.client = nil, nil
	without := heap()
	runtime.KeepAlive(d)
	return with - without
}
