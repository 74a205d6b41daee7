package walletauth

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/walletauth/walletauth/internal/drain"
	"github.com/walletauth/walletauth/internal/policy"
	"github.com/walletauth/walletauth/internal/serverclock"
)

// sessions decides which session a request gets, and when it is refreshed.
type sessions struct {
	store     *pendingStore
	states    *keyStates
	refreshes *refreshGroup
	clock     Clock
	server    *serverclock.Clock
	lifetimes *policy.Lifetimes
	before    time.Duration // Transport.RefreshBefore
	project   string        // Transport.ProjectID
	work      *drain.Group
	emit      func(context.Context, Event)
}

// valid returns what to send a request of key with at the local time, refreshed
// if it was due.
func (m *sessions) valid(ctx context.Context, key string, local time.Time) (*credentials, error) {
	m.states.SweepIfDue(local)
	st := m.states.Lookup(key)
	c, err := m.loadInto(ctx, key, st)
	if err != nil {
		return nil, err
	}
	left := c.left(local, m.server)
	if err, rejected := st.expiredError(c.session); err != nil {
		if rejected || left <= 0 {
			return nil, err
		}
		return c, nil // the access token serves until it expires or meets a 401
	}
	switch w := m.windows(c, left); w.State(left) {
	case policy.Fresh:
		return c, nil
	case policy.Early:
		if left <= w.Due(policy.Spread(c.session.ID, c.session.AccessToken, m.refreshes.process)) {
			_, _, _ = m.refreshes.join(ctx, key, c.session, Expiring, true) // why it may not begin concerns those who wait
		}
		return c, nil
	case policy.Late:
		return m.refreshOrUseCurrent(ctx, key, c)
	default:
		return m.refresh(ctx, key, c.session, Expired)
	}
}

// windows returns when sessions are due, after a look at c, which has left to
// live.
func (m *sessions) windows(c *credentials, left time.Duration) policy.Windows {
	m.lifetimes.Observe(left, c.sinceCreated)
	return m.lifetimes.Windows(m.before)
}

func (m *sessions) isValid(c *credentials) bool { return c.left(m.server.LocalNow(), m.server) > 0 }

// load returns the newest session of key that is known: what the store holds,
// or what it has not taken yet. While the store fails, the session that was last
// used serves on, but not where another one may be stored that cannot be read.
func (m *sessions) load(ctx context.Context, key string) (*credentials, error) {
	return m.loadInto(ctx, key, m.states.Lookup(key))
}

// loadInto is load for a key whose state is known, nil if it has none.
func (m *sessions) loadInto(ctx context.Context, key string, st *keyState) (*credentials, error) {
	generation := m.states.generationOf(st)
	s, err := m.store.loadOver(ctx, key, st)
	switch {
	case err == nil:
		return m.remember(st, key, generation, s)
	case errors.Is(err, ErrNoSession):
		m.states.forget(key, generation)
		return nil, err
	}
	var last *credentials
	if st = m.states.Lookup(key); st != nil {
		last = st.current.Load()
	}
	switch {
	case last == nil:
		return nil, storeError(ctx, "load", err)
	case errors.Is(err, ErrUnreadable), !m.isValid(last):
		return nil, storeError(ctx, "load", redactError(err, last.session))
	}
	return last, nil
}

// remember returns the credentials of s, which a Load brought that began in the
// given generation.
func (m *sessions) remember(st *keyState, key string, generation uint64, s *Session) (*credentials, error) {
	if st != nil {
		if c := st.current.Load(); c.is(s) {
			return c, nil
		}
	}
	c, err := m.states.credentialsOf(key, s, m.project)
	if err == nil {
		m.states.remember(key, generation, c)
	}
	return c, err
}

// refreshOrUseCurrent waits for a refresh as long as that costs nothing: c is
// still valid, and serves when the refresh fails, has to be retried, or takes too
// long.
func (m *sessions) refreshOrUseCurrent(ctx context.Context, key string, c *credentials) (*credentials, error) {
	call, result, err := m.refreshes.join(ctx, key, c.session, Expiring, false)
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
	call, result, err := m.refreshes.join(ctx, key, stale, why, false)
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

// afterUnauthorized returns what to send a request to t again with that got a 401
// with rejected, nil if the 401 stands, and whether a refresh brought it. The error
// is that the session is over, or the error of ctx.
//
// The 401 is compared with the session as it is now first: a refresh may have
// come between.
func (m *sessions) afterUnauthorized(ctx context.Context, key string, t policy.Target, rejected *credentials) (next *credentials, refreshed bool, err error) {
	next, refreshed, err = m.renew(ctx, key, t, rejected.session)
	switch {
	case err == nil && next.session.UserID == rejected.session.UserID:
		return next, refreshed, nil
	case ctx.Err() != nil:
		return nil, false, ctx.Err()
	case errors.Is(err, ErrSessionExpired):
		return nil, false, err
	}
	return nil, false, nil
}

// renew returns a session newer than rejected, which t refused, and whether a
// refresh brought it.
func (m *sessions) renew(ctx context.Context, key string, t policy.Target, rejected *Session) (c *credentials, refreshed bool, err error) {
	now, err := m.load(ctx, key)
	if errors.Is(err, ErrNoSession) {
		return nil, false, err
	}
	if err == nil && newer(now.session, rejected, Rejected) && m.isValid(now) {
		return now, false, nil
	}
	if err := m.states.rejectExpired(key, rejected); err != nil {
		return nil, false, err
	}
	if !m.allowsRefresh(key, t, rejected, m.hasExpired(key, rejected)) {
		return nil, false, errRejected
	}
	next, err := m.refresh(ctx, key, rejected, Rejected)
	if errors.Is(err, ErrSessionExpired) {
		m.states.setExpired(key, rejected, true, err)
		_ = m.states.rejectExpired(key, rejected) // the refresh may have set it before
	}
	if err == nil && next.session.AccessToken == rejected.AccessToken {
		m.states.with(key, func(st *keyState) { st.rejections.Refused(t, m.clock.Now()) })
		err = errRejected
	}
	return next, err == nil, err
}

// hasExpired reports whether the access token of s is past its time.
func (m *sessions) hasExpired(key string, s *Session) bool {
	c, err := m.states.credentialsOf(key, s, m.project)
	return err == nil && !m.isValid(c)
}

func (m *sessions) allowsRefresh(key string, t policy.Target, rejected *Session, expired bool) (allowed bool) {
	m.states.with(key, func(st *keyState) {
		allowed = st.rejections.Allows(t, rejected.AccessToken, expired, m.clock.Now())
	})
	return allowed
}

// afterReplay notes how t answered the request that was sent again with next.
// Where no refresh brought the token, a good answer does not show that one was
// right: the old token may have been refused because it had been replaced. The
// error is that the session is over, and its access token now refused as well.
func (m *sessions) afterReplay(ctx context.Context, key string, t policy.Target, next *credentials, refreshed, accepted bool) error {
	var verified string
	if refreshed {
		verified = next.session.AccessToken
	}
	m.states.with(key, func(st *keyState) {
		if accepted {
			st.rejections.Accepted(t, verified)
		} else {
			st.rejections.Refused(t, m.clock.Now())
		}
	})
	if !accepted {
		return m.states.rejectExpired(key, next.session)
	}
	m.emit(ctx, newEvent(RequestReplayed, key, next.session, nil))
	return nil
}

// capture stores w, the answer to a login or logout. If that fails, SaveFailed
// reports it.
func (m *sessions) capture(ctx context.Context, key string, w *pendingWrite) {
	if m.work.Begin() {
		defer m.work.End()
	}
	var c *credentials
	if w.session != nil {
		defer w.force()()
		c, _ = newCredentials(w.session, m.project) // nil if it cannot be sent, which the next request says
	}
	_ = m.store.write(ctx, key, w, c)
}

// shutdown starts nothing new, waits for what is in progress, and stores what is
// not stored yet.
func (m *sessions) shutdown(ctx context.Context) error {
	m.work.Close()
	if !m.work.Wait(ctx) {
		return fmt.Errorf("walletauth: Shutdown ended before a refresh or save that is under way: %w", ctx.Err())
	}
	return m.store.flushAll(ctx)
}

func (m *sessions) status(key string, c *credentials) (s Status) {
	now := m.clock.Now()
	m.states.peek(key, func(st *keyState) {
		s.Unsaved = st.pending.Load() != nil
		s.LastError = st.lastError
		if c != nil {
			s.Over, _ = st.expiredError(c.session)
			if st.cooldown.Active(c.session.RefreshToken, now) != nil {
				s.RetryAt = st.cooldown.Until()
			}
		}
	})
	if c == nil {
		return s
	}
	own := *c.session
	s.Session = &own
	if at := m.refreshes.throttle.RetryAt(policy.Hash(own.RefreshToken, 0)); at.After(s.RetryAt) {
		s.RetryAt = at
	}
	return s
}
