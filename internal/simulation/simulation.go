// Package simulation searches for a history that breaks a promise of package
// walletauth: some processes over one store, a server that ends a session whose
// refresh token comes back, and all that can go wrong between them. A seed
// decides everything, so that what was found can be looked at again. The tests
// of package walletauth run it, and hand it what no user of the package gets at.
package simulation

import (
	"context"
	"flag"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walletauth/walletauth"
)

// Seams is what the simulation needs of a Transport beyond its exported methods.
type Seams struct {
	// Wrap puts wrap around the Refresher that t uses, and takes chance out of
	// t. It is called before t is used.
	Wrap func(t *walletauth.Transport, wrap func(walletauth.Refresher) walletauth.Refresher) error
	// Remembers counts what t holds of its keys: refreshes in progress, and
	// sessions that the store has not taken.
	Remembers func(t *walletauth.Transport) (calls, unsaved int)
}

// refresherFunc is a Refresher made of a function.
type refresherFunc func(ctx context.Context, s *walletauth.Session) (*walletauth.Session, error)

func (f refresherFunc) Refresh(ctx context.Context, s *walletauth.Session) (*walletauth.Session, error) {
	return f(ctx, s)
}

var (
	simSeed   = flag.Uint64("sim.seed", 0, "simulate this seed alone")
	simSeeds  = flag.Uint64("sim.seeds", 0, "how many seeds to simulate (default 1000, 200 under the race detector)")
	simFirst  = flag.Uint64("sim.first", 1, "the first seed to simulate")
	simEnough = flag.Int("sim.enough", 3, "how many failing seeds are enough")
	simV      = flag.Bool("sim.v", false, "with -sim.seed, print the history even if nothing is wrong")
)

// Search simulates many seeds, or the one of -sim.seed. What is promised is checked
// at every step: see checkSend, checkWrite, reused and recover above all.
func (s Seams) Search(t *testing.T) {
	if *simSeed != 0 {
		w := s.simulate(t, *simSeed, nil)
		if *simV || len(w.violations) > 0 {
			t.Logf("conditions: %+v\n%s", w.cond, strings.Join(w.lines(), "\n"))
		}
		report(t, w)
		return
	}
	seeds := *simSeeds
	if seeds == 0 {
		seeds = 1000
		if RaceDetector {
			seeds = 200
		}
		if testing.Short() {
			seeds /= 10
		}
	}
	began := time.Now()
	total, run, failed := s.search(t, *simFirst, seeds, *simEnough, nil)
	for _, w := range failed {
		t.Logf("seed %d: %+v\n%s", w.seed, w.cond, strings.Join(w.lines(), "\n"))
		report(t, w)
		t.Logf("again: go test -run '^TestSimulation$' -v . -sim.seed=%d -sim.v", w.seed)
	}
	t.Logf("%d seeds from %d in %v: %v", run, *simFirst, time.Since(began).Round(time.Second), total)
}

func report(t *testing.T, w *world) {
	for _, v := range w.violations {
		t.Errorf("seed %d: %s", w.seed, v)
	}
}

func (c counts) String() string {
	return fmt.Sprintf("%d requests, of which %d failed; %d refreshes sent, %d reached the server; %d logins, %d logouts; "+
		"%d crashes, %d pauses, %d leases lost by the store, %d clocks set; "+
		"sessions lost: %d to a lost reply, %d to a refresh that was given up and arrived late, %d to a crash between commit and save, %d to a lease or a save that failed in between, %d ended by the server itself, others: none; "+
		"saves that met another login or logout: %d; "+
		"longest answer %v, longest recovery %v, longest wait after an outage of the endpoint %v",
		c.requests, c.failed, c.refreshes, c.commits, c.logins, c.logouts, c.crashes, c.pauses, c.snatches, c.jumps,
		c.lostReply, c.lostLate, c.lostCrash, c.lostExclusion, c.revoked, c.merged, c.longest, c.recovery, c.served)
}

// search simulates seeds on all processors until enough of them have failed.
func (s Seams) search(t *testing.T, first, seeds uint64, enough int, change func(*world)) (total counts, run int, failed []*world) {
	var mu sync.Mutex
	var next atomic.Uint64
	next.Store(first)
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for {
				seed := next.Add(1) - 1
				mu.Lock()
				full := len(failed) >= enough
				mu.Unlock()
				if full || seed >= first+seeds {
					return
				}
				w := s.simulate(t, seed, change)
				mu.Lock()
				total.add(w.counts)
				run++
				if len(w.violations) > 0 {
					failed = append(failed, w)
				}
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	return total, run, failed
}

// simulate runs the world of a seed in a bubble of its own.
func (s Seams) simulate(t *testing.T, seed uint64, change func(*world)) (w *world) {
	defer func() {
		if p := recover(); p != nil { // a bubble that cannot end: its goroutines are stuck
			w.violations = append(w.violations, fmt.Sprint(p))
		}
	}()
	synctest.Test(t, func(*testing.T) {
		w = newWorld(seed, s, change)
		w.run()
	})
	return w
}

// Repeats measures how far a seed decides everything. What is not
// in its hands is the order in which the scheduler runs goroutines that become
// ready at the same instant of the bubble's time, and what the package leaves
// to chance itself: the order of a map, a select with two ready cases. Every actor
// throws dice of its own and every latency has nanoseconds, so that this
// rarely matters; but it does, and a failing seed may have to be replayed a
// few times.
func (s Seams) Repeats(t *testing.T) {
	seeds := uint64(100)
	if testing.Short() {
		seeds = 20
	}
	same := uint64(0)
	for seed := uint64(1); seed <= seeds; seed++ {
		first := strings.Join(s.simulate(t, seed, nil).lines(), "\n")
		if strings.Join(s.simulate(t, seed, nil).lines(), "\n") == first {
			same++
		}
	}
	t.Logf("%d of %d seeds had the same history twice", same, seeds)
	if same < seeds*8/10 {
		t.Errorf("only %d of %d seeds had the same history twice: something that was not drawn decides", same, seeds)
	}
}
