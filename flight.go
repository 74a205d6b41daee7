package walletauth

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// flight is one refresh of one key, from waiting for the store's exclusion
// until the new session is stored. It runs detached from the requests that
// wait for it: its contexts carry the values of the first and end with none.
type flight struct {
	*keeper
	key   string
	stale *Session // what is to be replaced
	why   Reason

	failing  chan struct{} // closed when an attempt failed, so the result will take longer
	failOnce sync.Once

	// Written by the turn inside of the store's Update, read after it.
	stored   *Session        // what the store held
	began    time.Time       // when the first attempt was sent
	attempts int             // sent
	result   *Session        // what those who wait get
	err      error           // or why they get none
	bought   *unsavedSession // what the server gave, until it is stored
	waiting  *unsavedSession // what an earlier flight could not store
	hookErr  error           // OnEvent panicked
}

// fly makes the flight and returns what all who wait for it get.
func (f *flight) fly(ctx context.Context) (*Session, error) {
	defer f.land(f)
	f.conclude(ctx, f.update(ctx))
	if f.err != nil {
		return nil, f.err
	}
	return f.result, f.hookErr
}

// update takes the turn under the store's exclusion. RefreshTimeout bounds the
// wait for it, and afresh the saving; the refresh in between has its own.
func (f *flight) update(ctx context.Context) error {
	locked, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	entered := make(chan struct{})
	enter := sync.OnceFunc(func() { close(entered) })
	cancelAfter(locked, f.clock, f.timeout, cancel, entered)
	err := guarded("TokenStore.Update", func() error {
		return f.store.Update(locked, f.key, func(excl context.Context, current *Session) (*Session, error) {
			enter()
			defer cancelAfter(locked, f.clock, f.timeout, cancel, nil)
			return f.turn(ctx, excl, current)
		})
	})
	return tookTooLong(locked, err)
}

// turn is what happens under exclusion, and returns what the store is to hold.
// It looks at the session again and refreshes it only if nobody has replaced
// it meanwhile. A store may call it a second time, after a conflict for
// example: by then the refresh token is spent, and what it bought is all there
// is.
func (f *flight) turn(ctx, excl context.Context, current *Session) (*Session, error) {
	f.err = nil // of the call before
	if f.bought != nil {
		f.result = cmp.Or(f.bought.settle(current), f.result)
		return f.bought.settle(current), nil
	}
	f.stored = current
	newest := current
	if f.waiting = f.unsaved.of(f.key); f.waiting != nil {
		newest = f.waiting.settle(current)
	}
	if f.adoptable(newest) {
		f.result = newest
		return newest, nil
	}
	next, err := f.buy(ctx, excl, newest)
	if err == nil {
		f.result, f.bought = next, f.waiting.succeeded(next, newest)
		return next, nil
	}
	if f.result = f.lookAgain(ctx, newest, err); f.result != nil {
		return current, nil
	}
	f.err = err
	return nil, err
}

// adoptable reports whether somebody else has done the work already.
func (f *flight) adoptable(s *Session) bool {
	return s != nil && newer(s, f.stale, f.why) && f.valid(s)
}

// buy sends the refresh of s, and again while that may help and exclusion
// lasts. It never gives up on an attempt that was sent: the server may have
// rotated the token by then.
func (f *flight) buy(ctx, excl context.Context, s *Session) (*Session, error) {
	if err := f.refreshable(s); err != nil {
		return nil, err
	}
	if excl.Err() != nil {
		return nil, f.notBegun(excl, s)
	}
	f.began = f.clock.Now()
	f.tell(ctx, RefreshBegan, s, nil)
	ctx, cancel := withTimeout(ctx, f.clock, f.timeout)
	defer cancel()
	for {
		next, err := f.attempt(ctx, s)
		if err == nil {
			f.lifetime.measure(next, f.server.now())
			f.cooling.clear(f.key)
			return next, nil
		}
		f.failOnce.Do(func() { close(f.failing) })
		if !transient(err) || !f.waitToRetry(excl, err) {
			f.coolDown(err)
			return nil, err
		}
	}
}

// notBegun is the error of a refresh that the store would not have begin, with
// its reason if it gave one. A bare context.Canceled would mean to a caller that
// it had left itself.
func (f *flight) notBegun(excl context.Context, s *Session) error {
	err := errors.New("walletauth: the store's exclusion was lost before the refresh was sent")
	if cause := context.Cause(excl); cause != excl.Err() {
		err = fmt.Errorf("walletauth: the store would not have a refresh begin: %w", scrub(cause, f.stale, s))
	}
	return f.stall(err)
}

// refreshable says why no refresh of s can succeed.
func (f *flight) refreshable(s *Session) error {
	switch {
	case s == nil:
		return ErrNoSession
	case f.ended.cause(s) != nil:
		return f.ended.cause(s)
	case s.RefreshToken == "":
		return &RefreshError{Err: fmt.Errorf("the stored session has no refresh token: %w", ErrSessionExpired)}
	case !s.RefreshTokenExpiresAt.IsZero() && !s.RefreshTokenExpiresAt.After(f.server.atLeast()):
		return &RefreshError{Err: fmt.Errorf("its refresh token expired at %s: %w", s.RefreshTokenExpiresAt.Format(time.RFC3339), ErrSessionExpired)}
	default:
		return nil
	}
}

// attempt asks the Refresher once, and takes only an answer that can be right.
func (f *flight) attempt(ctx context.Context, s *Session) (next *Session, err error) {
	f.attempts++
	err = guarded("Refresher.Refresh", func() (err error) {
		next, err = f.refresher.Refresh(ctx, s)
		return err
	})
	if err == nil {
		if err = checkReply(s, next, f.server.atLeast()); err != nil {
			err = &RefreshError{StatusCode: 200, Err: fmt.Errorf("the reply is refused: %w", err)}
		}
	}
	if err != nil && timedOut(ctx) {
		err = &RefreshError{Err: fmt.Errorf("no reply within %s: %w", f.timeout, context.DeadlineExceeded)}
	}
	return next, presentable(err, s, next)
}

// waitToRetry waits before the next attempt, if there is time for one.
func (f *flight) waitToRetry(excl context.Context, err error) bool {
	delay := retryDelay(f.attempts, err)
	left := f.timeout - f.clock.Now().Sub(f.began)
	return delay < left && sleep(excl, f.clock, delay)
}

// coolDown leaves the key alone after a failed refresh: 1 s doubling to 30 s, or
// as long as the server asks, up to an hour. Not after a panic, which is a bug
// and no overload, and not where the session is over anyway.
func (f *flight) coolDown(err error) {
	if crashed(err) || errors.Is(err, ErrSessionExpired) {
		return
	}
	var asked time.Duration
	var refused *RefreshError
	if errors.As(err, &refused) {
		asked = min(refused.RetryAfter, time.Hour)
	}
	f.cooling.fail(f.key, &failure{err}, func(n int) time.Duration {
		return max(asked, backoff(n, time.Second, 30*time.Second))
	})
}

// lookAgain returns the session that another process has stored instead of s,
// whose refresh failed with err, if err is an end: where exclusion failed, the
// end may only mean that the other was first, and its save is on the way.
func (f *flight) lookAgain(ctx context.Context, s *Session, err error) *Session {
	if !errors.Is(err, ErrSessionExpired) || f.ended.cause(s) != nil {
		return nil
	}
	for pause := 50 * time.Millisecond; ; pause *= 2 {
		other, err := f.ask(ctx, f.key)
		if err == nil && newer(other, s, Rejected) && f.valid(other) && !f.tradedIn(other) {
			return other
		}
		if pause > 400*time.Millisecond {
			break
		}
		<-f.clock.After(pause)
	}
	f.ended.add(s, err)
	f.tell(ctx, SessionOver, s, err)
	return nil
}

// tradedIn reports whether s is in the store only because what it was traded in
// for could not be stored.
func (f *flight) tradedIn(s *Session) bool { return f.waiting != nil && f.waiting.outdated(s) }

// conclude draws together what the turn did and what the store's Update
// returned.
func (f *flight) conclude(ctx context.Context, err error) {
	err = scrub(err, f.stale, f.stored, f.result)
	if err == nil {
		f.stalled.clear(f.key)
	}
	switch {
	case f.bought != nil:
		f.concludeRefresh(ctx, err)
	case f.result != nil:
		f.tell(ctx, SessionAdopted, f.result, nil)
	case f.err == nil:
		f.err = f.noTurn(err)
	}
	if f.result != nil && err == nil {
		f.concludeWaiting(ctx)
	}
	if f.err != nil && !errors.Is(f.err, ErrSessionExpired) && !errors.Is(f.err, ErrNoSession) {
		f.tell(ctx, RefreshFailed, f.stale, f.err)
	}
}

func (f *flight) concludeRefresh(ctx context.Context, err error) {
	f.tell(ctx, RefreshSucceeded, f.result, nil)
	if err != nil {
		f.tell(ctx, SaveFailed, f.result, err)
		f.saveLater(ctx, f.key, f.bought)
	}
}

// noTurn says why there was none.
func (f *flight) noTurn(err error) error {
	if err == nil {
		return errors.New("walletauth: TokenStore.Update did not call its function")
	}
	return f.stall(fmt.Errorf("walletauth: no refresh without the store's exclusion: %w", err))
}

// stall returns err. While the store gives no exclusion, once a second is
// enough to try behind requests.
func (f *flight) stall(err error) error {
	f.stalled.fail(f.key, &failure{err}, func(int) time.Duration { return time.Second })
	return err
}

// concludeWaiting forgets what an earlier flight could not store, now that the
// store holds it, its successor, or what somebody else had put in its place.
func (f *flight) concludeWaiting(ctx context.Context) {
	if f.waiting == nil || !f.unsaved.drop(f.key, f.waiting) {
		return
	}
	if f.bought != nil || f.result == f.waiting.session {
		f.tell(ctx, SavedLater, f.result, nil)
	}
}

// tell makes an event, and remembers if OnEvent panicked.
func (f *flight) tell(ctx context.Context, what EventType, s *Session, err error) {
	e := eventOf(what, f.key, s, err)
	e.Reason, e.Attempts = f.why, f.attempts
	if !f.began.IsZero() && what != RefreshBegan {
		e.Duration = f.clock.Now().Sub(f.began)
	}
	if hookErr := f.emit(ctx, e); f.hookErr == nil {
		f.hookErr = hookErr
	}
}
