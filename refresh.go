package walletauth

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/walletauth/walletauth/internal/api"
	"github.com/walletauth/walletauth/internal/drain"
	"github.com/walletauth/walletauth/internal/guard"
	"github.com/walletauth/walletauth/internal/policy"
	"github.com/walletauth/walletauth/internal/serverclock"
	"github.com/walletauth/walletauth/internal/throttle"
	"github.com/walletauth/walletauth/internal/timeout"
)

// refreshGroup is the refreshes of a Transport, and what they share.
type refreshGroup struct {
	store     *pendingStore
	refresher Refresher
	throttle  *throttle.Throttle
	states    *keyStates
	clock     Clock
	server    *serverclock.Clock
	lifetimes *policy.Lifetimes
	timeout   time.Duration // Transport.RefreshTimeout
	project   string        // Transport.ProjectID
	process   uint64        // tells this Transport from others that share the sessions
	onEvent   emitter
	work      *drain.Group
}

// refresh replaces one stale session: attempts, each under the store's lock,
// until one succeeds, no more may begin, or somebody else has done it.
type refresh struct {
	*refreshGroup
	*call
	ctx      context.Context // carries the values of the first request, and never ends
	events   *eventQueue
	began    time.Time // when the first attempt was sent
	attempts int       // sent
}

// outcome is how a refresh, or one attempt of it, ended.
type outcome struct {
	credentials *credentials // of the session that replaces the stale one
	err         error        // or why there is none
	session     *Session     // what err is about
	sent        bool         // the server was asked
	refreshed   bool         // credentials come from the server, not from the store
	heldBack    bool         // nothing was begun: the endpoint is down, or it is too late
	superseded  bool         // a login or logout came meanwhile
	loggedOut   bool         // ... in another process: credentials serve those who wait and nobody else
}

// run refreshes, and returns when OnEvent has returned from the last event.
func (g *refreshGroup) run(ctx context.Context, call *call) outcome {
	r := &refresh{refreshGroup: g, call: call, ctx: timeout.Detach(ctx)}
	r.events = newEventQueue(r.ctx, g.onEvent)
	o := r.refreshWithRetry()
	if errors.Is(o.err, ErrSessionExpired) && o.session != nil {
		call.setFailing() // who has a valid token need not wait for what follows
		o = r.recheckStore(o)
	}
	o.superseded = !r.finish(o)
	if err := r.events.close(); o.err == nil {
		o.err = err
	}
	return o
}

// refreshWithRetry tries again after failures that may pass, as long as
// RefreshTimeout has not passed since the first attempt. It holds no lock in
// between.
func (r *refresh) refreshWithRetry() outcome {
	permit := r.permit
	for start := r.clock.Now(); ; {
		o := r.attempt(permit)
		retryAt := r.coolDown(o)
		if retryAt.IsZero() || !transient(o.err) || retryAt.Sub(start) > r.timeout {
			return o
		}
		r.fail(o.err, retryAt, r.clock)
		select {
		case <-r.clock.After(retryAt.Sub(r.clock.Now())):
		case <-r.work.Closing():
			if neverSent(o.err) {
				return o
			}
			<-r.clock.After(retryAt.Sub(r.clock.Now())) // the server may have answered what got lost
		}
		var err error
		if permit, err = r.ask(r.stale, r.background); err != nil {
			return o
		}
	}
}

// ask asks for the permit to send s. The error is why the endpoint is taken for
// down.
func (g *refreshGroup) ask(s *Session, background bool) (*throttle.Call, error) {
	permit, err := g.throttle.Ask(policy.Hash(s.RefreshToken, 0), background)
	return permit, heldBackError(err)
}

// coolDown leaves a refresh token that failed alone for a while, and returns
// until when. Zero means that there is no reason to: the session is over, a
// panic is a bug and no overload, and what was not sent says nothing about the
// server.
func (r *refresh) coolDown(o outcome) (until time.Time) {
	var panicked *guard.Error
	if o.err == nil || !o.sent || errors.Is(o.err, ErrSessionExpired) || errors.As(o.err, &panicked) {
		return until
	}
	r.states.with(r.key, func(st *keyState) {
		st.fail(o.err, r.clock.Now())
		until = st.cooldown.Fail(o.session.RefreshToken, o.err, transient(o.err), retryAfterOf(o.err), r.clock.Now(), r.process)
	})
	return until
}

// attempt sends the refresh once, under the store's lock, if it is still needed.
func (r *refresh) attempt(permit *throttle.Call) (o outcome) {
	defer func() { permit.Done(endpointOutcome(o), sharedError(o.err), retryAfterOf(o.err)) }()
	waited, err := permit.Wait()
	if err == nil && waited && r.attempts == 0 && r.work.Closed() {
		err = errShutdown
	}
	if err != nil {
		return outcome{err: heldBackError(err), heldBack: true}
	}
	locked := timeout.New(r.ctx, r.clock, r.timeout)
	defer locked.Cancel()
	watch := r.watchStore(locked)
	emit := func(_ context.Context, e Event) { r.emit(e) }
	stored, err := r.store.update(locked, r.key, emit, func(ctx context.Context, current *Session) (*Session, error) {
		if !watch.end() {
			return current, nil
		}
		locked.Stop()
		defer locked.Start(r.timeout) // for saving
		o = r.refreshLocked(ctx, current, permit)
		if o.refreshed {
			return o.credentials.session, nil
		}
		return current, o.err
	})
	if o == (outcome{}) {
		return r.notLocked(err, watch)
	}
	r.states.peek(r.key, func(st *keyState) { st.lockRetryAt = time.Time{} })
	if err == nil && o.refreshed && !sameTokens(stored, o.credentials.session) {
		return r.replaced(o, stored)
	}
	return o
}

// replaced is the outcome of a refresh in whose place the store has kept stored,
// a login or logout that came meanwhile.
func (r *refresh) replaced(o outcome, stored *Session) outcome {
	if stored == nil {
		o.loggedOut = true
		return o
	}
	c, err := r.states.credentialsOf(r.key, stored, r.project)
	return outcome{credentials: c, err: err}
}

// refreshLocked is what happens under the lock. The session is looked at again,
// and refreshed only if nobody has replaced it meanwhile.
func (r *refresh) refreshLocked(ctx context.Context, current *Session, permit *throttle.Call) outcome {
	if current == nil {
		return outcome{err: ErrNoSession}
	}
	if c := r.adoptable(current); c != nil {
		return outcome{credentials: c}
	}
	if err := r.states.refusedError(r.key, current); err != nil {
		return outcome{err: err, session: current}
	}
	if current.RefreshToken == "" {
		err := &RefreshError{Err: fmt.Errorf("the stored session has no refresh token: %w", ErrSessionExpired)}
		return outcome{err: err, session: current}
	}
	if ctx.Err() != nil {
		return outcome{err: lockLostError(ctx, r.stale, current)}
	}
	permit.Sent()
	c, err := r.send(current)
	if errors.Is(err, ErrSessionExpired) {
		r.states.setRefused(r.key, current, err)
	}
	return outcome{credentials: c, err: err, session: current, sent: true, refreshed: err == nil}
}

// adoptable returns the credentials of s if somebody else has done the work
// already.
func (r *refresh) adoptable(s *Session) *credentials {
	if !newer(s, r.stale, r.why) {
		return nil
	}
	c, err := r.states.credentialsOf(r.key, s, r.project)
	if err != nil || c.left(r.server.LocalNow(), r.server) <= 0 {
		return nil
	}
	return c
}

// newer reports whether s may replace stale. After a 401 only another token
// will do; otherwise a later expiry of the same token is as good.
func newer(s, stale *Session, why Reason) bool {
	return s.AccessToken != stale.AccessToken ||
		why != Rejected && s.AccessTokenExpiresAt.After(stale.AccessTokenExpiresAt)
}

// send asks the Refresher once. It does not give up when the lock is lost: the
// server may have rotated the token by then.
func (r *refresh) send(s *Session) (*credentials, error) {
	if r.attempts == 0 {
		r.began = r.clock.Now()
		r.emit(newEvent(RefreshBegan, r.key, s, nil))
	}
	r.attempts++
	timed := timeout.New(r.ctx, r.clock, r.timeout)
	defer timed.Cancel()
	var reply *Session
	err := guard.Call("Refresher.Refresh", func() (err error) {
		reply, err = r.refresher.Refresh(timed, s)
		return err
	})
	if err != nil && timed.Err() != nil {
		err = &RefreshError{Err: fmt.Errorf("no reply within %s: %w", r.timeout, timed.Err())}
	}
	if err != nil {
		return nil, redactError(err, s, reply)
	}
	c, err := r.accept(s, reply)
	if err != nil {
		err = &RefreshError{StatusCode: 200, Err: fmt.Errorf("the reply is refused: %w", err)}
		return nil, redactError(err, s, reply)
	}
	r.states.with(r.key, func(st *keyState) { st.refreshed.Store(c) })
	r.emit(newEvent(RefreshSucceeded, r.key, c.session, nil))
	return c, nil
}

// accept takes the reply to a refresh of s, whoever made it. Times in it that
// look wrong are no reason to refuse it, since the server has issued it and its
// refresh token is the only good one by now: then the token is used for as long
// as the last one lived.
func (r *refresh) accept(s, reply *Session) (*credentials, error) {
	received := r.server.LocalNow()
	known := r.lifetimes.Known()
	lifetime := max(known, time.Minute)
	next, err := (*api.Session)(s).Renew((*api.Session)(reply), r.server.At(received).Add(lifetime))
	if err != nil {
		return nil, err
	}
	c, err := newCredentials((*Session)(next), r.project)
	if err != nil {
		return nil, err
	}
	if r.server.ObserveIssued(next.AccessTokenExpiresAt, received, lifetime) {
		r.lifetimes.Measure(next.AccessTokenExpiresAt.Sub(r.server.At(received)))
	} else {
		c.expiry = received.Add(lifetime)
	}
	// The measure of this very token counts: a lifetime that was merely seen in
	// passing may be a fraction of the real one.
	c.issued, c.trusted = received, max(known, r.lifetimes.Known())/2
	return c, nil
}

// recheckStore looks for a moment whether another process has stored a newer
// session than the one that the server calls over: it may have been first, with
// its save on the way. Only then the session is over.
func (r *refresh) recheckStore(o outcome) outcome {
	for pause := 50 * time.Millisecond; ; pause *= 2 {
		other, err := r.store.Load(r.ctx, r.key)
		if err == nil && newer(other, o.session, Rejected) {
			if c := r.adoptable(other); c != nil {
				return outcome{credentials: c}
			}
		}
		if pause > 400*time.Millisecond {
			return o
		}
		<-r.clock.After(pause)
	}
}

// finish notes the outcome in the key's state and reports it. It returns false if
// a login or logout came meanwhile.
func (r *refresh) finish(o outcome) (current bool) {
	switch {
	case o.loggedOut:
		r.states.forget(r.key, r.generation)
		return true
	case o.err == nil:
		r.states.with(r.key, func(st *keyState) {
			if st.cooldown = (policy.Cooldown{}); st.pending.Load() == nil {
				st.lastError = nil
			}
			if s := o.credentials.session; r.why == Rejected {
				st.rejections.Refreshed(s.AccessToken, s.AccessToken == r.stale.AccessToken, r.clock.Now())
			}
		})
		current = r.states.remember(r.key, r.generation, o.credentials)
		if !o.refreshed {
			r.emit(newEvent(SessionAdopted, r.key, o.credentials.session, nil))
		}
	case errors.Is(o.err, ErrSessionExpired):
		r.states.with(r.key, func(st *keyState) { st.fail(o.err, r.clock.Now()) })
		if o.session != nil && r.states.setExpired(r.key, o.session, r.why == Rejected && o.session.AccessToken == r.stale.AccessToken, o.err) {
			r.emit(newEvent(SessionOver, r.key, o.session, o.err))
		}
	case !o.heldBack && !errors.Is(o.err, ErrNoSession):
		r.states.with(r.key, func(st *keyState) { st.fail(o.err, r.clock.Now()) })
		r.emit(newEvent(RefreshFailed, r.key, r.stale, o.err))
	}
	return current
}

func (r *refresh) emit(e Event) {
	e.Reason, e.Attempts = r.why, r.attempts
	if !r.began.IsZero() && e.Type != RefreshBegan {
		e.Duration = r.clock.Now().Sub(r.began)
	}
	r.events.add(e)
}

// notLocked is the outcome where the store did not let the refresh begin.
func (r *refresh) notLocked(err error, watch *storeWatch) outcome {
	if found := watch.found.Load(); found != nil {
		return outcome{credentials: found}
	}
	if err == nil {
		return outcome{err: errors.New("walletauth: TokenStore.Update did not call its function")}
	}
	r.states.with(r.key, func(st *keyState) { st.lockRetryAt = r.clock.Now().Add(time.Second) })
	return outcome{err: &StoreError{Op: "exclusion", Err: redactError(err, r.stale)}}
}

// lockLostError is the error of a refresh that the store did not let begin, with
// its reason if it gave one.
func lockLostError(ctx context.Context, sessions ...*Session) error {
	if cause := context.Cause(ctx); cause != ctx.Err() {
		return &StoreError{Op: "exclusion", Err: fmt.Errorf("refresh not started: %w", redactError(cause, sessions...))}
	}
	return errLockLost
}

// storeWatch looks for a newer session in the store while a refresh waits for
// the lock: with many processes at one expiry, waiting for one's turn only to
// find that there is nothing to do takes longest.
type storeWatch struct {
	ended atomic.Bool // the lock was obtained or a session found, whichever came first
	found atomic.Pointer[credentials]
}

// end reports whether the lock was obtained before a newer session was found. If
// not, the refresh must not be sent any more.
func (w *storeWatch) end() bool { return w.ended.CompareAndSwap(false, true) }

// watchStore ends locked, and with it the wait for the lock, once the store has a
// newer session. It pauses 20 times as long as a look takes.
func (r *refresh) watchStore(locked *timeout.Context) *storeWatch {
	w := &storeWatch{}
	go func() {
		pause := 5 * time.Millisecond
		for timeout.Sleep(locked, r.clock, pause) && !w.ended.Load() {
			began := r.clock.Now()
			s, err := r.store.Load(locked, r.key)
			pause = min(max(20*r.clock.Now().Sub(began), 5*time.Millisecond), 250*time.Millisecond)
			if err != nil {
				continue
			}
			if c := r.adoptable(s); c != nil && w.end() {
				w.found.Store(c)
				locked.Cancel()
			}
		}
	}()
	return w
}

// endpointOutcome is what o has shown about the refresh endpoint.
func endpointOutcome(o outcome) throttle.Outcome {
	switch {
	case !o.sent:
		return throttle.Unknown
	case o.err == nil, errors.Is(o.err, ErrSessionExpired):
		return throttle.Answered
	case transient(o.err):
		return throttle.Failed
	default:
		return throttle.Unknown
	}
}
