// Package throttle is client-side throttling of one endpoint that many sessions
// call: what one session learns of the endpoint, all of them know.
//
// An endpoint is healthy, failing or opening.
//
//   - Healthy: nobody is refused. 256 calls run at once, and more wait in order.
//   - Failing, once two different tokens have failed since the last answer: a
//     probe is sent four times a second at most, and everybody else is refused at
//     once with the last failure. One token alone never makes an endpoint fail: a
//     session that always gets a 500 says nothing about the others.
//   - Opening, once a call has an answer: 32 calls a second, doubling to 600, until
//     nobody has been refused for five seconds.
//
// The model is client-side throttling as in the SRE book (chapter 21), which
// drops requests beyond twice the accepted ones of the last two minutes. Its
// formula was not taken: it drops by chance, a lone user's requests too, and
// after an outage it goes on dropping until two minutes of history are
// outweighed. Probes need no history, and the number of calls in an outage does
// not depend on the number of sessions.
package throttle

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

const (
	maxRunning = 256 // calls that run at once, beside probes

	// How long after the last probe the next may begin; the first who asks then
	// sends it. Tokens whose last call failed ask later than the others: they may
	// have failed for a reason of their own.
	probeInterval      = 250 * time.Millisecond
	retriedInterval    = time.Second
	backgroundInterval = 2 * time.Second // for a call that nobody waits for

	unansweredAfter = 10 * time.Second // a call without an answer counts as a failure

	// Calls in a window of at least one second. Any second meets two windows at
	// most. While the endpoint keeps failing, a flapping one reaches the second
	// step at most: 32 + 64 calls in any second. When it is back, 600 + 600, and
	// no more than 600 that were let in before and wait for a place.
	firstStep = 32
	lastStep  = 600

	// How long nobody must have been refused before everybody is let go at once.
	// It is longer than a session pauses between two attempts: whoever was sent
	// away has had the time to ask again.
	quiet = 5 * time.Second

	downAfter = 5 * time.Second // failing for so long is worth an event

	maxFailed = 1024 // tokens remembered as failed; then all count as new again

	// A Retry-After of so many tokens within so long binds all, at most for so long.
	agreedTokens = 3
	agreeWithin  = 10 * time.Second
	maxBound     = time.Minute
)

// ErrUnanswered is the failure of a call that has had no answer for 10 s.
var ErrUnanswered = errors.New("no answer for 10 s")

var errUnnamed = errors.New("failed without an error") // a caller's mistake, but no reason to return none

// Clock is where a [Throttle] reads the time and waits for it. It is safe for
// concurrent use.
type Clock interface {
	Now() time.Time
	After(d time.Duration) <-chan time.Time
}

// Outcome is what a call has shown about the endpoint.
type Outcome int

const (
	// Unknown: nothing was sent, or the reply tells nothing about the endpoint,
	// like a firewall's page.
	Unknown Outcome = iota
	// Answered: the endpoint has answered in its own form, if only to refuse
	// this session.
	Answered
	// Failed: a network error, 408, 429 or 5xx.
	Failed
)

// Throttle decides whether a call may be sent now. All methods are safe for
// concurrent use. Its memory is bounded by the calls that wait and 1,024
// tokens, whatever the number of sessions.
type Throttle struct {
	// OnChange, if not nil, is called when the endpoint is taken for down, and
	// when it is back. It is taken for down by a failure after it has been failing
	// for 5 s, so that neither a blip nor a flapping endpoint makes an event of
	// every flap, and is back with the first answer. OnChange gets the last failure
	// and the number of calls refused since the endpoint was last back. It is called
	// without locks held, and not by Ask.
	OnChange func(down bool, err error, held int)

	clock  Clock
	places *semaphore.Weighted // for calls that run, but not for probes

	mu       sync.Mutex // guards what follows
	state    state
	admitted int             // calls that run or wait for a place
	waiting  context.Context // of those that wait; it ends when they are refused
	refuse   context.CancelCauseFunc

	failed      map[uint64]bool // tokens whose last call failed
	failedOnce  bool            // since the last answer
	firstFailed uint64          // the first token that did
	lastErr     error

	probed  time.Time // when the last probe went out, by a token that had not failed
	retried time.Time // and by one that had
	advice  []advice  // to the last different tokens since the last answer
	bound   time.Time // no token is sent before

	window time.Time // when the current one began
	sent   int       // calls admitted since then
	limit  int       // and how many may be, unless healthy

	refusedAt    time.Time
	failingSince time.Time
	down         bool // as OnChange was told
	held         int  // refused since OnChange was told that it is back
}

type state int

const (
	healthy state = iota
	failing
	opening
)

// advice is a Retry-After that a token got.
type advice struct {
	token     uint64
	at, until time.Time
}

// Call is the permission to send one call. It ends with Done.
type Call struct {
	t       *Throttle
	token   uint64
	waiting context.Context // nil for a probe, which needs no place
	placed  bool
	ended   chan struct{}
}

// New returns a Throttle that takes the endpoint for healthy.
func New(clock Clock) *Throttle {
	t := &Throttle{clock: clock, places: semaphore.NewWeighted(maxRunning), failed: make(map[uint64]bool)}
	t.waiting, t.refuse = context.WithCancelCause(context.Background())
	return t
}

// Ask asks to send one call for token, an opaque id of what is sent; a call in
// the background is one that nobody waits for. Every Call that Ask returns must
// end with Done, and is sent after Wait. Ask itself never waits.
//
// While the endpoint is failing, unless this call may be sent as a probe, Ask
// returns the last failure as Done got it, or [ErrUnanswered]; so it does beyond
// what an opening endpoint gets. A refused call has learned nothing about its own
// session, so the session should not back off: it may ask again at once. RetryAt
// tells when that may help.
func (t *Throttle) Ask(token uint64, background bool) (*Call, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.clock.Now()
	t.advance(now)
	if !t.admits(now, token, background) {
		t.refusedAt = now
		t.held++
		return nil, t.lastErr
	}
	t.sent++
	t.admitted++
	c := &Call{t: t, token: token, ended: make(chan struct{})}
	switch {
	case t.state != failing:
		c.waiting = t.waiting
	case t.failed[token]:
		t.retried = now
	default:
		t.probed = now
	}
	return c, nil
}

// Wait waits until fewer than 256 calls run, in order: background calls are not
// overtaken, since a request may come to wait for one. The error is the failure
// with which the endpoint was taken for failing meanwhile.
func (c *Call) Wait() (waited bool, err error) {
	if c.waiting == nil {
		return false, nil
	}
	if c.placed = c.waiting.Err() == nil && c.t.places.TryAcquire(1); c.placed {
		return false, nil
	}
	if c.t.places.Acquire(c.waiting, 1) != nil {
		c.t.mu.Lock()
		defer c.t.mu.Unlock()
		c.t.refusedAt = c.t.clock.Now()
		c.t.held++
		return true, context.Cause(c.waiting)
	}
	c.placed = true
	return true, nil
}

// RetryAt returns the time from which a call for token may be sent, as far as
// is known now; the zero time if that is now. Others may be first.
func (t *Throttle) RetryAt(token uint64) (at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.clock.Now()
	t.advance(now)
	if t.admits(now, token, false) {
		return at
	}
	if t.sent >= t.limit {
		at = t.window.Add(time.Second)
	}
	if t.state == failing {
		at = latest(at, latest(t.bound, t.nextProbe(token, false)))
	}
	return latest(at, now)
}

// Sent tells that the call is sent now. If it has no answer 10 s later, that
// counts as a failure, but the call is not cut: the server may have acted on it.
func (c *Call) Sent() {
	overdue := c.t.clock.After(unansweredAfter)
	go func() {
		select {
		case <-overdue:
			c.t.result(c.token, Failed, ErrUnanswered, 0)
		case <-c.ended:
		}
	}()
}

// Done ends the call, also one that was never sent. Of a failure it takes the
// error that others will get, and the Retry-After if there was one.
func (c *Call) Done(o Outcome, err error, retryAfter time.Duration) {
	close(c.ended)
	c.t.mu.Lock()
	c.t.admitted--
	c.t.mu.Unlock()
	c.t.result(c.token, o, err, retryAfter)
	if c.placed {
		c.t.places.Release(1)
	}
}

// result takes in what a call for token has shown.
func (t *Throttle) result(token uint64, o Outcome, err error, retryAfter time.Duration) {
	t.mu.Lock()
	now := t.clock.Now()
	t.advance(now)
	down := t.down
	switch o {
	case Answered:
		t.answered(now, token)
	case Failed:
		t.obey(now, token, retryAfter)
		t.fail(now, token, err)
	}
	changed, lastErr, held := t.down != down, t.lastErr, t.held
	if down = t.down; changed && !down {
		t.held = 0
	}
	t.mu.Unlock()
	if changed && t.OnChange != nil {
		t.OnChange(down, lastErr, held)
	}
}

// advance brings the state up to date with the time that has passed.
func (t *Throttle) advance(now time.Time) {
	if now.Sub(t.window) >= time.Second {
		t.window, t.sent = now, 0
		if t.state == opening {
			t.limit = min(2*t.limit, lastStep)
		}
	}
	if t.state == opening && now.Sub(t.refusedAt) >= quiet {
		t.state = healthy
	}
}

// admits reports whether a call for token may be sent now or as soon as there
// is a place.
func (t *Throttle) admits(now time.Time, token uint64, background bool) bool {
	switch t.state {
	case failing:
		return t.sent < t.limit && !now.Before(t.bound) && !now.Before(t.nextProbe(token, background))
	case opening:
		limit := t.limit
		if background {
			limit /= 2 // the first to be put off
		}
		return t.sent < limit && t.admitted < lastStep
	}
	return true
}

// nextProbe returns the time from which token may be a probe. Those that were
// tried never keep one from it that was not: they may all be sessions that always
// get a 500.
func (t *Throttle) nextProbe(token uint64, background bool) time.Time {
	switch last := latest(t.probed, t.retried); {
	case background:
		return last.Add(backgroundInterval)
	case t.failed[token]:
		return last.Add(retriedInterval)
	default:
		return t.probed.Add(probeInterval)
	}
}

// answered takes in that the endpoint works. While a Retry-After binds everybody
// it is not opened: an answer that was under way does not revoke what the server
// has asked of the others.
func (t *Throttle) answered(now time.Time, token uint64) {
	delete(t.failed, token)
	t.failedOnce, t.advice = false, nil
	if t.state != failing || now.Before(t.bound) {
		return
	}
	t.state, t.down = opening, false
	t.advance(now) // healthy at once if nobody was refused
}

// fail takes in that a call for token failed, or has had no answer for too long.
func (t *Throttle) fail(now time.Time, token uint64, err error) {
	t.lastErr = cmp.Or(err, errUnnamed)
	if len(t.failed) >= maxFailed {
		clear(t.failed)
	}
	t.failed[token] = true
	if !t.failedOnce {
		t.failedOnce, t.firstFailed = true, token
	}
	switch {
	case t.state == failing:
		t.down = t.down || now.Sub(t.failingSince) >= downAfter
	case token != t.firstFailed:
		t.state, t.limit, t.failingSince = failing, firstStep, now
		t.probed, t.retried = time.Time{}, time.Time{} // the next who asks may be one at once
		t.refuse(t.lastErr)
		t.waiting, t.refuse = context.WithCancelCause(context.Background())
	}
}

// obey binds everybody to what three different tokens were told one after the
// other: until the first of the three times, which all of them agree on.
func (t *Throttle) obey(now time.Time, token uint64, after time.Duration) {
	if after <= 0 {
		return
	}
	t.advice = slices.DeleteFunc(t.advice, func(a advice) bool {
		return a.token == token || now.Sub(a.at) > agreeWithin
	})
	t.advice = append(t.advice, advice{token, now, now.Add(min(after, maxBound))})
	if len(t.advice) < agreedTokens {
		return
	}
	t.advice = t.advice[len(t.advice)-agreedTokens:]
	first := slices.MinFunc(t.advice, func(a, b advice) int { return a.until.Compare(b.until) })
	t.bound = latest(t.bound, first.until)
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
