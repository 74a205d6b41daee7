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
//
// There is no goroutine and no timer behind it: the state is brought up to date
// by whoever calls next, and only those who wait in the queue watch the clock.
package throttle

import (
	"cmp"
	"container/list"
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

const (
	maxRunning = 256 // calls that run at once, beside the probes of a hanging endpoint

	// How long after the last probe the next may begin; the first who asks then
	// sends it. Tokens whose last call failed ask later than the others: they may
	// have failed for a reason of their own.
	probeInterval      = 250 * time.Millisecond
	retriedInterval    = time.Second
	backgroundInterval = 2 * time.Second // for a call that nobody waits for
	// While the last probe has no answer. Users who ask once a second so send one
	// in 4 s to an endpoint that hangs too, and 20 in the 30 s that one may take.
	hangingInterval = 3 * time.Second

	unansweredAfter = 10 * time.Second // a call without an answer counts as a failure

	// Calls in a window of at least one second. Any second meets two windows at
	// most. While the endpoint keeps failing, a flapping one reaches the second
	// step at most: 32 + 64 calls in any second. When it is back, 600 + 600, and
	// no more than 600 that were let in before and had to queue.
	firstStep = 32
	lastStep  = 600

	// How long nobody must have been refused before everybody is let go at once.
	// It is longer than a session pauses between two attempts (4.8 s): whoever was
	// sent away has had the time to ask again.
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

// Throttle decides whether a call may be sent now. A Throttle with a Clock is
// ready to use; fields are not changed after first use. All methods are safe for
// concurrent use. Its memory is bounded by the callers that wait and 1,024
// tokens, whatever the number of sessions.
type Throttle struct {
	Clock Clock // required

	// OnChange, if not nil, is called when the endpoint is taken for down, and
	// when it is back. It is taken for down once it has been failing for 5 s, so
	// that neither a blip nor a flapping endpoint makes an event of every flap, and
	// is back with the first answer to a call sent since then. OnChange gets the
	// last failure and the number of calls refused since it was last called. It is
	// called by the Acquire, Done or RetryAt that noticed, without locks held.
	OnChange func(down bool, err error, held int)

	mu    sync.Mutex
	state state

	failed      map[uint64]struct{} // tokens whose last call failed
	failedOnce  bool                // since the last answer
	firstFailed uint64              // the first token that did
	lastErr     error
	advice      []advice  // to the last different tokens since the last answer
	bound       time.Time // no token is sent before

	running int
	queue   list.List // of *waiter, unless failing
	begun   list.List // of *Call: sent, unanswered and not overdue, oldest first

	fresh   probe // the last one by a token that had not failed
	retried probe // and by one that had

	window time.Time // when the current one began
	sent   int       // calls let in since then
	limit  int       // and how many may be, unless healthy

	refusedAt    time.Time
	failingSince time.Time
	outage       int      // counts the times it began to fail
	down         bool     // as OnChange was told
	held         int      // refused since OnChange was told
	changes      []func() // for unlock to tell
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

type probe struct {
	call *Call // until it is done
	at   time.Time
}

type waiter struct {
	token uint64
	entry *list.Element // in queue
	ready chan struct{} // closed once one of the two is set
	call  *Call
	err   error
}

func (w *waiter) settle(c *Call, err error) {
	w.call, w.err = c, err
	close(w.ready)
}

// Call is the permission to send one call. It ends with Done.
type Call struct {
	t       *Throttle
	token   uint64
	outage  int // Throttle.outage when it was let go
	begunAt time.Time
	entry   *list.Element // in begun
	done    bool
}

// New returns a Throttle that takes the endpoint for healthy.
func New(clock Clock) *Throttle { return &Throttle{Clock: clock} }

// Acquire asks to send one call for token, an opaque id of what is sent; a call
// in the background is one that nobody waits for. Acquire waits until fewer than
// 256 calls run, in order: background calls are not overtaken, since a request
// may come to wait for one. Every Call that it returns must end with Done.
//
// It returns the cause of ctx if that ends first. While the endpoint is failing
// it never waits, and unless this call may be sent it returns the last failure
// as Done got it, or [ErrUnanswered]; so do those that wait when the endpoint is
// taken for down, and those beyond what an opening endpoint gets. A refused call
// has learned nothing about its own session, so the session should not back off:
// it may ask again at once. RetryAt tells when that may help.
func (t *Throttle) Acquire(ctx context.Context, token uint64, background bool) (*Call, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	c, w, err := t.ask(token, background)
	if w == nil {
		return c, err
	}
	for {
		select {
		case <-w.ready:
			return w.call, w.err
		case <-t.nextOverdue(): // nobody else watches the time
		case <-ctx.Done():
			t.leave(w, context.Cause(ctx))
		}
	}
}

// ask returns what Acquire does, or a waiter in the queue.
func (t *Throttle) ask(token uint64, background bool) (*Call, *waiter, error) {
	t.mu.Lock()
	defer t.unlock()
	now := t.Clock.Now()
	t.observe(now)
	if !t.admits(now, token, background) {
		t.refused(now, 1)
		t.checkDown(now)
		return nil, nil, t.lastErr
	}
	t.sent++
	if t.state == failing || t.running < maxRunning { // then nobody waits
		return t.start(now, token), nil, nil
	}
	w := &waiter{token: token, ready: make(chan struct{})}
	w.entry = t.queue.PushBack(w)
	return nil, w, nil
}

// leave gives up waiting, unless w was served at the same moment.
func (t *Throttle) leave(w *waiter, err error) {
	t.mu.Lock()
	defer t.unlock()
	if w.call == nil && w.err == nil {
		t.queue.Remove(w.entry)
		w.settle(nil, err)
	}
}

// nextOverdue returns a channel that gets something when the running calls may
// prove to hang.
func (t *Throttle) nextOverdue() <-chan time.Time {
	t.mu.Lock()
	defer t.unlock()
	now := t.Clock.Now()
	t.observe(now)
	return t.Clock.After(t.untilOverdue(now))
}

// RetryAt returns the time from which a call for token may be sent, as far as
// is known now; the zero time if that is now. Others may be first.
func (t *Throttle) RetryAt(token uint64) time.Time {
	t.mu.Lock()
	defer t.unlock()
	now := t.Clock.Now()
	t.observe(now)
	if t.state == healthy || t.admits(now, token, false) {
		return time.Time{}
	}
	at := now
	if t.sent >= t.limit {
		at = t.window.Add(time.Second)
	}
	if t.state == failing {
		at = latest(at, latest(t.bound, t.nextProbe(token, false)))
	}
	return at
}

// Began tells that the call is sent now. If it has no answer 10 s later, that
// counts as a failure, but the call is not cut: the server may have acted on it.
func (c *Call) Began() {
	c.t.mu.Lock()
	defer c.t.unlock()
	if c.done || c.entry != nil {
		return
	}
	c.begunAt = c.t.Clock.Now()
	c.entry = c.t.begun.PushBack(c)
}

// Done ends the call, also one that was never sent: only the first Done counts,
// so that it may be deferred with Unknown for the case of a panic. Of a failure
// it takes the error that others will get, and the Retry-After if there was one.
func (c *Call) Done(o Outcome, err error, retryAfter time.Duration) {
	t := c.t
	t.mu.Lock()
	defer t.unlock()
	if c.done {
		return
	}
	now := t.Clock.Now()
	t.finish(c) // first, so that an answer after 10 s is no failure
	t.observe(now)
	switch o {
	case Answered:
		t.answered(now, c)
	case Failed:
		t.obey(now, c.token, retryAfter)
		t.fail(now, c.token, err)
	}
	t.startQueued(now)
}

// unlock tells of changes once the lock is free, so that OnChange may call back.
func (t *Throttle) unlock() {
	changes := t.changes
	t.changes = nil
	t.mu.Unlock()
	for _, tell := range changes {
		tell()
	}
}

// untilOverdue is how long it takes at least until a running call is overdue.
func (t *Throttle) untilOverdue(now time.Time) time.Duration {
	if oldest := t.begun.Front(); oldest != nil {
		return oldest.Value.(*Call).begunAt.Add(unansweredAfter).Sub(now)
	}
	return unansweredAfter
}

// observe brings the state up to date with the time that has passed.
func (t *Throttle) observe(now time.Time) {
	for t.begun.Len() > 0 && t.untilOverdue(now) <= 0 {
		c := t.begun.Remove(t.begun.Front()).(*Call)
		t.fail(now, c.token, ErrUnanswered)
	}
	if passed(now, t.window, time.Second) {
		t.window, t.sent = now, 0
		if t.state == opening {
			t.limit = min(2*t.limit, lastStep)
		}
	}
	t.endOpening(now)
}

// admits reports whether a call for token may be sent now or as soon as there
// is room.
func (t *Throttle) admits(now time.Time, token uint64, background bool) bool {
	switch t.state {
	case failing:
		return t.sent < t.limit && reached(now, t.bound, maxBound) &&
			reached(now, t.nextProbe(token, background), hangingInterval)
	case opening:
		limit := t.limit
		if background {
			limit /= 2 // the first to be put off
		}
		return t.sent < limit && t.running+t.queue.Len() < lastStep
	}
	return true
}

// nextProbe returns the time from which token may be a probe. Those that were
// tried never keep one from it that was not: they may all be sessions that always
// get a 500.
func (t *Throttle) nextProbe(token uint64, background bool) time.Time {
	interval := retriedInterval
	switch {
	case background:
		interval = backgroundInterval
	case !t.tried(token):
		return t.fresh.next(probeInterval)
	}
	return latest(t.fresh.next(interval), t.retried.next(interval))
}

func (t *Throttle) tried(token uint64) bool {
	_, tried := t.failed[token]
	return tried
}

func (p probe) next(interval time.Duration) time.Time {
	if p.call != nil {
		interval = hangingInterval
	}
	return p.at.Add(interval)
}

func (t *Throttle) start(now time.Time, token uint64) *Call {
	c := &Call{t: t, token: token, outage: t.outage}
	t.running++
	switch {
	case t.state != failing:
	case t.tried(token):
		t.retried = probe{c, now}
	default:
		t.fresh = probe{c, now}
	}
	return c
}

// startQueued lets go those who wait, as far as there is room.
func (t *Throttle) startQueued(now time.Time) {
	for t.running < maxRunning && t.queue.Len() > 0 {
		w := t.queue.Remove(t.queue.Front()).(*waiter)
		w.settle(t.start(now, w.token), nil)
	}
}

func (t *Throttle) finish(c *Call) {
	c.done = true
	t.running--
	if c.entry != nil {
		t.begun.Remove(c.entry) // does nothing to one that was overdue
	}
	for _, p := range []*probe{&t.fresh, &t.retried} {
		if p.call == c {
			p.call = nil
			if c.entry == nil {
				p.at = time.Time{} // nothing was sent: the next one is the probe
			}
		}
	}
}

// answered takes in that the endpoint works. While a Retry-After binds everybody
// it is not opened: an answer that was under way does not revoke what the server
// has asked of the others.
func (t *Throttle) answered(now time.Time, c *Call) {
	delete(t.failed, c.token)
	t.failedOnce = false
	t.advice = nil
	if t.state == failing && reached(now, t.bound, maxBound) {
		t.state = opening
	}
	t.endOpening(now)
	if t.state != failing && c.outage == t.outage {
		t.report(false)
	}
}

// endOpening ends the opening once nobody is refused any more.
func (t *Throttle) endOpening(now time.Time) {
	if t.state == opening && passed(now, t.refusedAt, quiet) {
		t.state = healthy
		t.report(false)
	}
}

// fail takes in that a call for token failed, or has had no answer for too long.
func (t *Throttle) fail(now time.Time, token uint64, err error) {
	err = cmp.Or(err, errUnnamed)
	t.lastErr = err
	if t.failed == nil || len(t.failed) >= maxFailed {
		t.failed = make(map[uint64]struct{})
	}
	t.failed[token] = struct{}{}
	if !t.failedOnce {
		t.failedOnce, t.firstFailed = true, token
	}
	switch {
	case t.state == failing:
		t.checkDown(now)
		return
	case token == t.firstFailed:
		return
	case t.state == healthy:
		t.sent = 0
	}
	t.state, t.limit = failing, firstStep
	t.failingSince = now
	t.outage++
	t.fresh, t.retried = probe{}, probe{} // the next who asks may be one at once
	t.refused(now, t.queue.Len())
	for t.queue.Len() > 0 {
		t.queue.Remove(t.queue.Front()).(*waiter).settle(nil, err)
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

func (t *Throttle) refused(now time.Time, calls int) {
	if calls > 0 {
		t.held += calls
		t.refusedAt = now
	}
}

// checkDown is called when there is a sign that the endpoint still fails. That
// time has passed is none: if nobody asks, nobody knows.
func (t *Throttle) checkDown(now time.Time) {
	if t.state == failing && passed(now, t.failingSince, downAfter) {
		t.report(true)
	}
}

func (t *Throttle) report(down bool) {
	if t.down == down {
		return
	}
	err, held := t.lastErr, t.held
	t.down, t.held = down, 0
	if t.OnChange != nil {
		t.changes = append(t.changes, func() { t.OnChange(down, err, held) })
	}
}

// passed reports whether d has passed since then.
func passed(now, then time.Time, d time.Duration) bool { return reached(now, then.Add(d), d) }

// reached reports whether it is time. What is further away than it can have been
// was set by a clock that has been set back since, and binds nobody.
func reached(now, at time.Time, furthest time.Duration) bool {
	left := at.Sub(now)
	return left <= 0 || left > furthest
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
