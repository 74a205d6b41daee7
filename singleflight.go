package walletauth

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/walletauth/walletauth/internal/throttle"
)

// maxWaitAfterFailure is how long requests wait for a refresh whose first attempt
// has failed. The refresh goes on without them.
const maxWaitAfterFailure = 5 * time.Second

// call is a refresh of one stale session of one key, and what those who wait for
// it share. It is detached from all of them.
type call struct {
	key        string
	stale      *Session
	why        Reason
	background bool   // started by a request that does not wait
	generation uint64 // of the key, when it began

	permit *throttle.Call // to send the first attempt

	failing chan struct{} // closed once an attempt has failed
	gaveUp  chan struct{} // closed once waiting is pointless
	ended   chan struct{}
	outcome outcome // read it after ended

	failedAt   time.Time // of the first failure; used by the refresh alone
	giveUp     func()    // closes gaveUp
	setFailing func()    // closes failing
	lastErr    atomic.Pointer[error]
}

func newCall(key string, stale *Session, why Reason, background bool, generation uint64, permit *throttle.Call) *call {
	c := &call{
		key: key, stale: stale, why: why, background: background, generation: generation, permit: permit,
		failing: make(chan struct{}), gaveUp: make(chan struct{}), ended: make(chan struct{}),
	}
	c.giveUp = sync.OnceFunc(func() { close(c.gaveUp) })
	c.setFailing = sync.OnceFunc(func() { close(c.failing) })
	return c
}

// join returns the call that refreshes stale, a new one if there is none. Calls
// are joined by key and stale token, so that nobody gets the answer to another
// question: the store's lock keeps those of one key apart. The error says why
// no refresh may begin.
func (g *refreshGroup) join(ctx context.Context, key string, stale *Session, why Reason, background bool) (*call, <-chan singleflight.Result, error) {
	g.states.Lock()
	defer g.states.Unlock()
	st := g.states.State(key)
	c := st.calls[stale.AccessToken]
	if c == nil {
		permit, err := g.mayBegin(st, stale, background)
		if err != nil {
			return nil, nil, err
		}
		c = newCall(key, stale, why, background, st.generation.Load(), permit)
		if st.calls == nil {
			st.calls, st.group = make(map[string]*call), &singleflight.Group{}
		}
		st.calls[stale.AccessToken] = c
	} else if background {
		return c, nil, nil
	}
	result := st.group.DoChan(stale.AccessToken, func() (any, error) {
		defer g.leave(st, c)
		c.outcome = g.run(ctx, c)
		return c.outcome, nil
	})
	return c, result, nil
}

// mayBegin says why no refresh of stale may begin now, and otherwise announces
// it and returns the permit to send it. While the endpoint is down, most are
// refused here, before they cost a goroutine or the store's lock. The lock of
// g.states is held.
func (g *refreshGroup) mayBegin(st *keyState, stale *Session, background bool) (*throttle.Call, error) {
	now := g.clock.Now()
	if err := st.cooldown.Active(stale.RefreshToken, now); err != nil {
		return nil, err
	}
	if background && now.Before(st.lockRetryAt) {
		return nil, errLockLost
	}
	if !g.work.Begin() {
		return nil, errShutdown
	}
	permit, err := g.ask(stale, background)
	if err != nil {
		g.work.End()
	}
	return permit, err
}

// leave ends c. Forget comes with it in one step: who joins from here on starts
// a new call and never gets the result of this one.
func (g *refreshGroup) leave(st *keyState, c *call) {
	g.states.Lock()
	defer g.states.Unlock()
	delete(st.calls, c.stale.AccessToken)
	st.group.Forget(c.stale.AccessToken)
	if len(st.calls) == 0 {
		st.calls, st.group = nil, nil
	}
	close(c.ended)
	g.work.End()
}

// fail notes that an attempt failed and that the next begins at retryAt. Those
// who wait leave 5 s after the first failure, or at once if the server asked to
// send nothing before.
func (c *call) fail(err error, retryAt time.Time, clock Clock) {
	c.lastErr.Store(&err)
	if c.failedAt.IsZero() {
		c.failedAt = clock.Now()
		c.setFailing()
		leave := clock.After(maxWaitAfterFailure)
		go func() {
			select {
			case <-leave:
				c.giveUp()
			case <-c.ended:
			}
		}()
	}
	if retryAfterOf(err) > 0 && retryAt.Sub(c.failedAt) >= maxWaitAfterFailure {
		c.giveUp()
	}
}
