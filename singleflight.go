package walletauth

import (
	"context"
	"errors"
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
func (m *sessions) join(ctx context.Context, key string, stale *Session, why Reason, background bool) (*call, <-chan singleflight.Result, error) {
	m.states.Lock()
	defer m.states.Unlock()
	st := m.states.State(key)
	c := st.calls[stale.AccessToken]
	if c == nil {
		permit, err := m.mayBegin(st, stale, background)
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
		defer m.leave(st, c)
		c.outcome = m.refreshes.run(ctx, c)
		return c.outcome, nil
	})
	return c, result, nil
}

// refreshOrUseCurrent waits for a refresh as long as that costs nothing: c is
// still valid, and serves when the refresh fails, has to be retried, or takes too
// long.
func (m *sessions) refreshOrUseCurrent(ctx context.Context, key string, c *credentials) (*credentials, error) {
	call, result, err := m.join(ctx, key, c.session, Expiring, false)
	if errors.Is(err, errShutdown) {
		return nil, err
	}
	if err != nil {
		return c, nil
	}
	select {
	case r := <-result:
		next, err := m.result(ctx, call, r)
		if err != nil && m.isValid(c) && !errors.Is(err, ErrNoSession) && !errors.Is(err, errOtherUser) {
			return c, nil
		}
		return next, err
	case <-call.failing:
		if !m.isValid(c) {
			return m.refresh(ctx, key, c.session, Expired)
		}
		return c, nil
	case <-m.latestDeparture(ctx, c):
		return c, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// latestDeparture fires when a request that waits has to leave if c is to arrive
// in time, and the answer before the request's own deadline. It never does if it
// is too late for c already: only a new token will do then.
func (m *sessions) latestDeparture(ctx context.Context, c *credentials) <-chan time.Time {
	left := c.left(m.server.LocalNow(), m.server)
	wait := m.windows(c, left).WaitAtMost(left)
	if wait <= 0 {
		return nil
	}
	if deadline, ok := ctx.Deadline(); ok {
		wait = min(wait, deadline.Sub(m.clock.Now())/2)
	}
	return m.clock.After(wait)
}

// refresh waits for the session that replaces stale.
func (m *sessions) refresh(ctx context.Context, key string, stale *Session, why Reason) (*credentials, error) {
	call, result, err := m.join(ctx, key, stale, why, false)
	if err != nil {
		return nil, err
	}
	select {
	case r := <-result:
		return m.result(ctx, call, r)
	case <-call.gaveUp:
		return nil, *call.lastErr.Load()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// result is what a request gets that has waited for c. It never gets the session
// of another user than the one it began with.
func (m *sessions) result(ctx context.Context, c *call, r singleflight.Result) (*credentials, error) {
	o := r.Val.(outcome)
	if o.err != nil {
		return nil, o.err
	}
	next := o.credentials
	if o.superseded {
		latest, err := m.load(ctx, c.key)
		if err != nil {
			return nil, err
		}
		if latest.session.UserID == c.stale.UserID {
			next = latest
		}
	}
	if next.session.UserID != c.stale.UserID {
		return nil, errOtherUser
	}
	return next, nil
}

// mayBegin says why no refresh of stale may begin now, and otherwise announces
// it and returns the permit to send it. While the endpoint is down, most are
// refused here, before they cost a goroutine or the store's lock. the lock of m.states is
// held.
func (m *sessions) mayBegin(st *keyState, stale *Session, background bool) (*throttle.Call, error) {
	now := m.clock.Now()
	if err := st.cooldown.Active(stale.RefreshToken, now); err != nil {
		return nil, err
	}
	if background && now.Before(st.lockRetryAt) {
		return nil, errLockLost
	}
	if !m.work.Begin() {
		return nil, errShutdown
	}
	permit, err := m.refreshes.ask(stale, background)
	if err != nil {
		m.work.End()
	}
	return permit, err
}

// leave ends c. Forget comes with it in one step: who joins from here on starts
// a new call and never gets the result of this one.
func (m *sessions) leave(st *keyState, c *call) {
	m.states.Lock()
	defer m.states.Unlock()
	delete(st.calls, c.stale.AccessToken)
	st.group.Forget(c.stale.AccessToken)
	if len(st.calls) == 0 {
		st.calls, st.group = nil, nil
	}
	close(c.ended)
	m.work.End()
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
