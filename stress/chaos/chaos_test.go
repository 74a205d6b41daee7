//go:build linux

package chaos_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/walletauth/walletauth"
)

// patience bounds every wait. Nothing takes as long on a busy machine either,
// unless something hangs.
const patience = 3 * time.Minute

// shortOr is the number for a short round, or the other one.
func shortOr(short, full int) int {
	if testing.Short() {
		return short
	}
	return full
}

// chaos is a store, the workers that share it, and what befalls them.
type chaos struct {
	t      *testing.T
	seed   uint64
	store  walletauth.TokenStore // the same, by a way without faults
	lease  time.Duration         // of the workers
	grace  time.Duration         // of the API, for used refresh tokens
	ledger *ledger
	api    *api
	fleet  *fleet
	faults counts

	took     time.Duration // until the last fault was over
	recovery time.Duration // from the last fault until every key worked in every process

	logins sync.WaitGroup // after lost sessions; under way as long as the API is open

	enough []func() bool // of what there must have been before the faults may end
	until  time.Time     // faults go on at least so long,
	atMost time.Time     // and no longer, though there was not enough,
	failed atomic.Bool   // nor after one that could not be had
}

// begin logs so many users in and starts so many workers.
func begin(t *testing.T, b *backend, users, workers int, o order, grace time.Duration) *chaos {
	t.Helper()
	c := &chaos{t: t, seed: *seed, store: b.store, lease: o.Lease, grace: grace, ledger: newLedger(o.Lease, grace)}
	if b.server == nil {
		c.ledger.lease = 0
	}
	if c.seed == 0 {
		c.seed = rand.Uint64()
	}
	go c.ledger.watch(t.Context())
	c.api = newAPI(c.ledger, grace)
	o.Store, o.Place, o.URL, o.Every = b.name, b.place, c.api.socket.URL, time.Duration(shortOr(1000, 500))*time.Millisecond
	for i := range users {
		o.Keys = append(o.Keys, fmt.Sprintf("user-%02d", i+1))
	}
	c.fleet = &fleet{ledger: c.ledger, places: make([]*process, workers), order: o}
	t.Cleanup(c.end)
	c.api.fleet = c.fleet
	c.api.lost = func(key string) { c.logins.Go(func() { c.login(key) }) }
	for _, key := range o.Keys {
		c.login(key)
	}
	for place := range workers {
		if err := c.fleet.start(place); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.fleet.await("ready", patience); err != nil {
		t.Fatal(err)
	}
	return c
}

// end returns when nothing goes on any more that could report to the test. The
// API comes before the logins, which begin in it.
func (c *chaos) end() {
	c.fleet.abandon()
	c.api.Close()
	c.logins.Wait()
}

// login logs a user in, as a program does when a session is over. It is tried
// until the store has it, once: by the second attempt somebody may have
// refreshed what the first has stored after all.
func (c *chaos) login(key string) {
	login := c.api.Login(key)
	c.ledger.login(login)
	for end := time.Now().Add(patience); ; <-time.After(100 * time.Millisecond) {
		err := c.store.Update(c.t.Context(), key, func(_ context.Context, current *walletauth.Session) (*walletauth.Session, error) {
			if current != nil && current.ID == login.ID {
				return current, nil
			}
			return login, nil
		})
		if err == nil || c.t.Context().Err() != nil { // the test has ended, with a failure
			return
		}
		if time.Now().After(end) {
			c.t.Errorf("a login of %s could not be saved: %v", key, err)
			return
		}
	}
}

// run has faults for as long as the flag says, and until there was enough of all,
// and then checks that all is well.
func (c *chaos) run(lanes ...[]fault) {
	users := len(c.fleet.order.Keys)
	c.enough = append(c.enough, func() bool { return c.api.Stats().Refreshes >= users })
	c.until = time.Now().Add(faultTime())
	c.atMost = c.until.Add(patience)
	var all sync.WaitGroup
	for i, deck := range lanes {
		all.Go(func() { c.lane(uint64(i), deck) })
	}
	all.Wait()
	c.took = time.Since(c.ledger.began)
	defer c.conclude()
	if !c.failed.Load() {
		c.check()
	}
}

// conclude reports also what led to a failure. It looks at the ledger before
// workers are killed, which would explain much.
func (c *chaos) conclude() {
	v := c.ledger.judge()
	c.end()
	c.report(v)
}

// faulty reports whether there are to be more faults.
func (c *chaos) faulty() bool {
	if c.failed.Load() {
		return false
	}
	now := time.Now()
	unfinished := func(enough func() bool) bool { return !enough() }
	return now.Before(c.until) || now.Before(c.atMost) && slices.ContainsFunc(c.enough, unfinished)
}

// check demands that without faults everything works again, in all processes,
// and that the store then holds what was issued last.
func (c *chaos) check() {
	c.t.Helper()
	began := time.Now()
	c.awaitSettled()
	if err := c.fleet.tell("check", "works", patience); err != nil {
		c.t.Fatal("after the faults: ", err)
	}
	c.recovery = time.Since(began)
	if err := c.fleet.stop(patience); err != nil {
		c.t.Fatal("after the faults: ", err)
	}
	c.end()
	c.awaitSettled()
}

// awaitSettled waits until each lost session has been noticed and replaced, and
// the store holds for every key what was issued last.
func (c *chaos) awaitSettled() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	for _, key := range c.fleet.order.Keys {
		err := c.settled(ctx, key)
		for err != nil && pause(ctx, 20*time.Millisecond) {
			err = c.settled(ctx, key)
		}
		if err != nil {
			c.t.Fatalf("%s: for %v the store has not held what was issued last: %v", key, patience, err)
		}
	}
}

// settled returns nil if the store holds what the stand-in has issued last.
func (c *chaos) settled(ctx context.Context, key string) error {
	var stored string
	err := c.store.Update(ctx, key, func(_ context.Context, s *walletauth.Session) (*walletauth.Session, error) {
		if s != nil {
			stored = s.RefreshToken
		}
		return s, nil
	})
	live := c.api.Sessions(key)
	switch {
	case err != nil:
		return err
	case len(live) != 1:
		return fmt.Errorf("%d sessions are alive", len(live))
	case live[0].RefreshToken != stored:
		return errors.New("it holds another token")
	}
	return nil
}
