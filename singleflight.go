package walletauth

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"
)

// keeper keeps the sessions of one Transport: it answers with a session fit
// for use, has at most one refresh per key under way, and remembers of a key
// only what is still of consequence.
type keeper struct {
	store     TokenStore
	refresher Refresher
	clock     Clock
	server    *serverClock
	before    time.Duration // Transport.RefreshBefore
	timeout   time.Duration // Transport.RefreshTimeout
	onEvent   func(context.Context, Event)

	lifetime lifetime
	last     atomic.Pointer[bearer] // what the last request went out with

	cooling  pauses[*failure] // after a failed refresh
	stalled  pauses[*failure] // after the store did not give exclusion
	unproven pauses[string]   // by key: the access token that a 401 led to, until a request got through with it
	refusals pauses[string]   // by endpoint: the access token that it refused though it was new
	ended    endings
	unsaved  unsaved

	flights singleflight.Group
	work    *work

	mu     sync.Mutex // guards flying
	flying map[string]*flight
}

type failure struct{ err error }

// fit returns a session to send a request with at the time local, refreshed
// if it is due.
func (k *keeper) fit(ctx context.Context, key string, local time.Time) (*Session, error) {
	s, err := k.load(ctx, key)
	if err != nil {
		return nil, err
	}
	now := k.server.at(local)
	switch k.policy(s, now).judge(s.AccessTokenExpiresAt, now) {
	case fresh:
		return s, nil
	case early:
		k.refreshBehind(ctx, key, s)
		return s, nil
	case late:
		return k.refreshOrMakeDo(ctx, key, s)
	default:
		return k.refresh(ctx, key, s, Expired)
	}
}

func (k *keeper) policy(s *Session, now time.Time) policy {
	if !k.lifetime.isMeasured() {
		k.lifetime.sight(s, now)
	}
	return k.lifetime.policy(k.before)
}

func (k *keeper) valid(s *Session) bool { return s.AccessTokenExpiresAt.After(k.server.now()) }

// load returns the newest session of key that is known: what the store holds,
// or what could not be stored yet. While the store fails, the session that was
// last used serves on.
func (k *keeper) load(ctx context.Context, key string) (*Session, error) {
	s, err := k.ask(ctx, key)
	if mine := k.unsaved.of(key); mine != nil {
		s, err = mine.instead(s, err)
	}
	if err == nil || errors.Is(err, ErrNoSession) {
		return s, err
	}
	last := k.last.Load()
	if last == nil || last.key != key {
		return nil, fmt.Errorf("walletauth: load the session: %w", err)
	}
	if !k.valid(last.session) {
		return nil, fmt.Errorf("walletauth: load the session: %w", scrub(err, last.session))
	}
	return last.session, nil
}

// ask calls the store's Load, on the goroutine of the request: another one for
// each request would cost more than the rest of it.
func (k *keeper) ask(ctx context.Context, key string) (s *Session, err error) {
	defer recovered("TokenStore.Load", &err)
	s, err = k.store.Load(ctx, key)
	if s == nil && err == nil {
		err = fmt.Errorf("walletauth: TokenStore.Load returned nil and no error: %w", ErrNoSession)
	}
	return s, err
}

// refreshBehind starts a refresh that nobody waits for. While the store gives no
// exclusion, one a second is enough.
func (k *keeper) refreshBehind(ctx context.Context, key string, s *Session) {
	k.mu.Lock()
	under := k.flying[key] != nil
	k.mu.Unlock()
	if _, left := k.stalled.active(key); under || left > 0 {
		return
	}
	_, _, _ = k.join(ctx, key, s, Expiring) // what keeps it from starting concerns the request that has to wait
}

// refreshOrMakeDo waits for a refresh as long as that costs nothing: s is still
// valid, and will do when the refresh fails, has to be retried, or takes too
// long.
func (k *keeper) refreshOrMakeDo(ctx context.Context, key string, s *Session) (*Session, error) {
	done, f, err := k.join(ctx, key, s, Expiring)
	if errors.Is(err, errShutdown) {
		return nil, err
	}
	if err != nil {
		return s, nil
	}
	select {
	case r := <-done:
		next, err := landed(r)
		if err != nil && k.valid(s) && !errors.Is(err, ErrNoSession) {
			return s, nil
		}
		return next, err
	case <-f.failing:
		if !k.valid(s) {
			return k.refresh(ctx, key, s, Expired)
		}
		return s, nil
	case <-k.lastCall(s):
		return s, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// lastCall fires when a request that waits has to leave if s is to arrive in
// time. It never does if that is so already: only a new token will do then.
func (k *keeper) lastCall(s *Session) <-chan time.Time {
	now := k.server.now()
	left := k.policy(s, now).lastCall(s.AccessTokenExpiresAt, now)
	if left <= 0 {
		return nil
	}
	return k.clock.After(left)
}

// refresh waits for a session newer than stale. A flight that was up already
// may have been after an older session and land with stale itself; then the
// next one brings a newer. Not so if it has asked the server: what that gave
// is the answer, even where it is the token that it was to replace.
func (k *keeper) refresh(ctx context.Context, key string, stale *Session, why Reason) (*Session, error) {
	next, f, err := k.await(ctx, key, stale, why)
	if err == nil && f.bought == nil && !newer(next, stale, why) {
		next, _, err = k.await(ctx, key, stale, why)
	}
	return next, err
}

func (k *keeper) await(ctx context.Context, key string, stale *Session, why Reason) (*Session, *flight, error) {
	done, f, err := k.join(ctx, key, stale, why)
	if err != nil {
		return nil, nil, err
	}
	select {
	case r := <-done:
		next, err := landed(r)
		return next, f, err
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
}

// replacement returns the session to send a request to endpoint again with that
// got a 401 with rejected, or nil if there is none. The 401 is compared with
// the session as it is now first: a refresh may have come between.
func (k *keeper) replacement(ctx context.Context, key, endpoint string, rejected *Session) *Session {
	now, err := k.load(ctx, key)
	if errors.Is(err, ErrNoSession) {
		return nil
	}
	if err == nil && newer(now, rejected, Rejected) && k.valid(now) {
		return now
	}
	if k.refreshIsNoHelp(key, endpoint, rejected) {
		return nil
	}
	next, err := k.refresh(ctx, key, rejected, Rejected)
	if err != nil {
		return nil
	}
	if !newer(next, rejected, Rejected) { // traded in for itself
		k.refuses(key, endpoint, next, refusedAgain)
		return nil
	}
	k.unproven.fail(key, next.AccessToken, func(int) time.Duration { return unprovenFor })
	return next
}

// unprovenFor is how long a new access token that is refused at once is not
// traded in: until it is known that it works anywhere, the fault is more
// likely the endpoint's, and a hundred requests that overlap would each
// refresh what the one before has got.
const unprovenFor = 5 * time.Second

// refreshIsNoHelp reports whether a 401 from endpoint with rejected stands
// because new tokens were refused lately. What is remembered of one endpoint
// is no reason to leave the 401 of another: there the token may have been
// revoked.
func (k *keeper) refreshIsNoHelp(key, endpoint string, rejected *Session) bool {
	token, left := k.unproven.active(key)
	if left > 0 && token == rejected.AccessToken {
		return true
	}
	_, left = k.refusals.active(key + endpoint)
	return left > 0
}

// refusedAgain and refusedUnseen say for how long a 401 of an endpoint stands
// after the n-th new access token in a row that did not help: because it was
// refused too, or because the request could not be sent again, so that nobody
// knows. The doubt costs nothing the first time.
func refusedAgain(n int) time.Duration { return backoff(n, 5*time.Second, 5*time.Minute) }

func refusedUnseen(n int) time.Duration {
	if n == 1 {
		return 0
	}
	return refusedAgain(n - 1)
}

// refuses remembers that endpoint was no better off with s.
func (k *keeper) refuses(key, endpoint string, s *Session, pause func(n int) time.Duration) {
	k.refusals.fail(key+endpoint, s.AccessToken, pause)
}

// proven forgets what was held against s: a request to endpoint got through
// with it.
func (k *keeper) proven(key, endpoint string) {
	k.unproven.clear(key)
	k.refusals.clear(key + endpoint)
}

// newer reports whether s may replace stale. After a 401 only another token
// will do; otherwise a later expiry of the same token is as good.
func newer(s, stale *Session, why Reason) bool {
	return s.AccessToken != stale.AccessToken ||
		why != Rejected && s.AccessTokenExpiresAt.After(stale.AccessTokenExpiresAt)
}

// join gets on the flight of key, starting it if there is none. It fails at
// once where a refresh is known to be no use.
func (k *keeper) join(ctx context.Context, key string, stale *Session, why Reason) (<-chan singleflight.Result, *flight, error) {
	if err := k.ended.cause(stale); err != nil {
		return nil, nil, err
	}
	if failed, left := k.cooling.active(key); left > 0 {
		return nil, nil, failed.err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	f := k.flying[key]
	if f == nil {
		if !k.work.begin() {
			return nil, nil, errShutdown
		}
		f = &flight{keeper: k, key: key, stale: stale, why: why, failing: make(chan struct{})}
		k.flying[key] = f
	}
	return k.flights.DoChan(key, func() (any, error) { return f.fly(context.WithoutCancel(ctx)) }), f, nil
}

// land ends f. Forget comes with it in one step: who joins from here on starts
// a new flight and never gets the result of this one.
func (k *keeper) land(f *flight) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.flying, f.key)
	k.flights.Forget(f.key)
	k.work.end()
}

// landed is the typed result of a flight.
func landed(r singleflight.Result) (*Session, error) {
	s, _ := r.Val.(*Session)
	return s, r.Err
}

// emit calls OnEvent. The error is that it panicked.
func (k *keeper) emit(ctx context.Context, e Event) error {
	if k.onEvent == nil {
		return nil
	}
	return guarded("Transport.OnEvent", func() error {
		k.onEvent(ctx, e)
		return nil
	})
}
