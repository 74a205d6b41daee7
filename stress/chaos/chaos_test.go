//go:build linux

package chaos_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/walletauth/walletauth"
)

const (
	workers = 4
	users   = 60

	// patience bounds every wait. Nothing takes as long unless something hangs.
	patience = time.Minute
)

// chaos is a store, the workers that share it, and what befalls them.
type chaos struct {
	t      *testing.T
	seed   uint64
	store  walletauth.TokenStore // the same, by a way without faults
	ledger *ledger
	api    *api
	fleet  *fleet
	faults counts

	faulty context.Context // ends when there are to be no more faults
	logins sync.WaitGroup
}

// begin logs all users in and starts the workers.
func begin(t *testing.T, name, place, twist string, store walletauth.TokenStore) *chaos {
	t.Helper()
	c := &chaos{t: t, seed: *seed, store: store, ledger: newLedger()}
	if c.seed == 0 {
		c.seed = rand.Uint64()
	}
	c.api = newAPI(c.ledger)
	t.Cleanup(c.api.Close)
	var keys []string
	for i := range users {
		keys = append(keys, fmt.Sprintf("user-%02d", i+1))
	}
	c.fleet = &fleet{ledger: c.ledger, places: make([]*process, workers),
		order: order{Store: name, Place: place, Twist: twist, URL: c.api.socket.URL, Keys: keys}}
	t.Cleanup(c.fleet.abandon)
	c.api.fleet = c.fleet
	c.api.lost = func(key string) { c.logins.Go(func() { c.login(key) }) }
	for _, key := range keys {
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

// login logs a user in, as a program does when a session is over. It is tried
// until the store has it, once: by the second attempt somebody may have
// refreshed what the first has stored after all.
func (c *chaos) login(key string) {
	login := c.api.Login(key)
	c.ledger.login(login)
	for end := time.Now().Add(patience); ; <-time.After(100 * time.Millisecond) {
		err := c.store.Update(context.Background(), key, func(_ context.Context, current *walletauth.Session) (*walletauth.Session, error) {
			if current != nil && current.ID == login.ID {
				return current, nil
			}
			return login, nil
		})
		if err == nil {
			return
		}
		if time.Now().After(end) {
			c.t.Errorf("a login of %s could not be saved: %v", key, err)
			return
		}
	}
}

// run has faults for as long as the flag says, and then checks that all is
// well.
func (c *chaos) run(lanes ...[]fault) {
	ctx, cancel := context.WithTimeout(context.Background(), faultTime())
	defer cancel()
	c.faulty = ctx
	var all sync.WaitGroup
	for i, deck := range lanes {
		all.Go(func() { c.lane(uint64(i), deck) })
	}
	all.Wait()
	took := time.Since(c.ledger.began)
	c.check()
	c.report(took)
}

// check demands that without faults everything works again, in all processes,
// and that the store then holds what was issued last.
func (c *chaos) check() {
	c.t.Helper()
	c.awaitSettled()
	if err := c.fleet.tell("check", "works", patience); err != nil {
		c.t.Error("after the faults: ", err)
	}
	if err := c.fleet.stop(patience); err != nil {
		c.t.Error("after the faults: ", err)
	}
	c.logins.Wait()
	for _, key := range c.fleet.order.Keys {
		if !c.settled(key) {
			c.t.Errorf("%s: the store does not hold what was issued last", key)
		}
	}
}

// awaitSettled waits until each lost session has been noticed and replaced.
func (c *chaos) awaitSettled() {
	c.t.Helper()
	end := time.Now().Add(patience)
	for _, key := range c.fleet.order.Keys {
		for !c.settled(key) {
			if time.Now().After(end) {
				c.t.Errorf("%s: for %v the store has not held what was issued last", key, patience)
				return
			}
			<-time.After(20 * time.Millisecond)
		}
	}
}

// settled reports whether the store holds what the stand-in has issued last.
func (c *chaos) settled(key string) bool {
	var stored string
	err := c.store.Update(context.Background(), key, func(_ context.Context, s *walletauth.Session) (*walletauth.Session, error) {
		if s != nil {
			stored = s.RefreshToken
		}
		return s, nil
	})
	live := c.api.Sessions(key)
	return err == nil && len(live) == 1 && live[0].RefreshToken == stored
}
