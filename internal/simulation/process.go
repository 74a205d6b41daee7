package simulation

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/walletauth/walletauth"
)

// process is a program that runs on some machine, and again after a crash.
type process struct {
	world *world
	id    int
	skew  time.Duration // of the machine's wall clock
	set   time.Time     // when that changed
	now   *incarnation  // nil while it is down
	times int           // it was started
}

// incarnation is a process from its start to its end. Each has a Transport and
// a handle of the store of its own; nothing in memory outlives it.
type incarnation struct {
	world     *world
	process   *process
	name      string
	nth       int // of its process
	transport *walletauth.Transport
	handle    *handle

	ctx  context.Context // ends when it dies
	kill context.CancelFunc

	// Guarded by the world's mu.
	dead        bool
	stopped     bool // after a Shutdown that stored everything
	pausedUntil time.Time
	turns       map[*keyTruth]*turn     // those whose function runs
	sending     map[*keyTruth]int       // refreshes that wait for a reply
	refused     map[string]bool         // refresh tokens that were called over by the server
	attempts    map[*keyTruth]time.Time // when the last attempt of a refresh began
	failing     map[*keyTruth]failure   // the first failure since a refresh succeeded
	left        map[*keyTruth]bool      // keys whose user has logged out here
	leaving     map[*keyTruth]*actor    // who does so, or did so last
	gone        map[*login]time.Time    // logins that this process knows to be gone
	over        map[pair]time.Time      // that a caller was told to be over
	called      map[pair]time.Time      // that an event told to be over
	lastRefused map[*keyTruth]pair
	used        map[*keyTruth]use
	rejections  map[*keyTruth][]*grant // what refreshes brought that were in vain
}

var (
	errCrashed = errors.New("the process has crashed")
	errReset   = errors.New("connection reset by peer")
)

// start brings p up. w.mu is not held.
func (p *process) start() {
	w := p.world
	p.times++
	inc := &incarnation{
		world: w, process: p, name: fmt.Sprintf("p%d.%d", p.id, p.times), nth: p.times,
		turns: make(map[*keyTruth]*turn), sending: make(map[*keyTruth]int),
		refused: make(map[string]bool), attempts: make(map[*keyTruth]time.Time), left: make(map[*keyTruth]bool), leaving: make(map[*keyTruth]*actor),
		failing: make(map[*keyTruth]failure), called: make(map[pair]time.Time), lastRefused: make(map[*keyTruth]pair),
		used: make(map[*keyTruth]use), rejections: make(map[*keyTruth][]*grant),
		gone: make(map[*login]time.Time), over: make(map[pair]time.Time),
	}
	inc.ctx, inc.kill = context.WithCancel(context.Background())
	inc.handle = newHandle(inc)
	inc.transport = &walletauth.Transport{
		Store: w.twist.storeOf(inc), Base: &network{inc}, BaseURL: "https://walletkit.test", ProjectID: project,
		RefreshBefore: w.cond.before, RefreshTimeout: w.cond.timeout,
		CaptureLogin: w.cond.capture, Clock: processClock{inc}, OnEvent: inc.onEvent,
	}
	if err := w.seams.Wrap(inc.transport, inc.attempting); err != nil {
		panic(err)
	}
	w.mu.Lock()
	p.now = inc
	w.note(inc.name, "starts", "", nil)
	w.mu.Unlock()
	if w.cond.keepAlive && p.id == 1 {
		for i, key := range w.keys {
			w.busy.Go(func() { inc.keepAlive(key, uint64(i)) })
		}
	}
}

// keepAlive runs KeepAlive, and again after a while when the session is over.
func (inc *incarnation) keepAlive(key *keyTruth, nth uint64) {
	w := inc.world
	for n := uint64(0); ; n++ {
		a := &actor{id: mix(uint64(inc.process.id)<<32 | uint64(inc.nth)<<16 | n<<8 | nth<<6 | 0x2b), at: inc, key: key, kind: keepsAlive}
		began := time.Now()
		err := inc.transport.KeepAlive(a.context(inc.ctx))
		w.mu.Lock()
		w.checkEnd(a, began, err)
		w.mu.Unlock()
		if inc.wait(a, nil, 3*time.Second, 6*time.Second) != nil || inc.isStopped() {
			return
		}
	}
}

// isStopped reports whether the process was told to end.
func (inc *incarnation) isStopped() bool {
	inc.world.mu.Lock()
	defer inc.world.mu.Unlock()
	return inc.dead || inc.process.now != inc
}

// crash ends inc where it stands: what it had in memory is gone, and nothing
// it does from here on has an effect. w.mu is held.
func (w *world) crash(inc *incarnation, where string) {
	if inc.dead {
		return
	}
	inc.dead = true
	if inc.process.now == inc {
		inc.process.now = nil
	}
	w.counts.crashes++
	w.note(inc.name, "CRASHES", where, nil)
	for _, key := range w.keys {
		if p := key.pending; p != nil && p.at == inc {
			key.pending = nil
			if !p.login.wasStored() {
				key.acked = p.acked
				key.mayBe(p.login)
				for l := range p.possible {
					key.mayBe(l)
				}
			}
		}
	}
	inc.kill()
	for _, t := range inc.turns {
		t.lose(errCrashed)
	}
	// What is left of it in the bubble are goroutines without effect. Shutdown
	// ends those that would try for ever.
	w.busy.Go(func() {
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		_ = inc.transport.Shutdown(ended)
	})
}

// shutDown ends inc as a well-behaved program does.
func (inc *incarnation) shutDown() {
	w := inc.world
	w.mu.Lock()
	if inc.process.now != inc {
		w.mu.Unlock()
		return
	}
	inc.process.now = nil
	w.note(inc.name, "shuts down", "", nil)
	w.mu.Unlock()
	err := inc.transport.Shutdown(inc.shutter().context(inc.ctx))
	w.mu.Lock()
	w.note(inc.name, "has shut down", "", err)
	if err == nil {
		inc.stopped = true
		w.mu.Unlock()
		if calls, unsaved := w.seams.Remembers(inc.transport); calls+unsaved > 0 {
			w.mu.Lock()
			w.violated(inc.name, "after Shutdown it remembers %d refreshes and %d unsaved sessions", calls, unsaved)
			w.mu.Unlock()
		}
		inc.kill()
		return
	}
	w.crash(inc, "with sessions unsaved")
	w.mu.Unlock()
	inc.kill()
}

// shutter is who saves what is left when inc is shut down.
func (inc *incarnation) shutter() *actor {
	return &actor{id: mix(uint64(inc.process.id)<<32 | uint64(inc.nth)<<16 | 0x5d), at: inc, kind: shutsDown, parts: make(map[*keyTruth]*actor)}
}

// wait lets time pass for inc: an operation's latency. It ends early with ctx,
// which may be nil, or with the process. A paused process comes back later.
func (inc *incarnation) wait(a *actor, ctx context.Context, lo, hi time.Duration) error {
	timer := time.NewTimer(a.roll(rollWait).between(lo, hi))
	defer timer.Stop()
	var done <-chan struct{}
	if ctx != nil {
		done = ctx.Done()
	}
	select {
	case <-timer.C:
	case <-done:
		return inc.ended(ctx)
	case <-inc.ctx.Done():
		return errCrashed
	}
	return inc.step(a, ctx, "")
}

// ended says why ctx has ended: a crash ends all contexts at once.
func (inc *incarnation) ended(ctx context.Context) error {
	if inc.ctx.Err() != nil {
		return errCrashed
	}
	return ctx.Err()
}

// step is where a process may crash or be paused: on its way into and out of
// everything that the world sees of it.
func (inc *incarnation) step(a *actor, ctx context.Context, where string) error {
	w := inc.world
	w.mu.Lock()
	if !w.calm {
		w.mayStumble(inc, a, where)
	}
	left := time.Until(inc.pausedUntil)
	w.mu.Unlock()
	if left > 0 { // not all at the same instant
		return inc.resume(a, ctx, left+a.roll(rollWait).between(0, time.Millisecond))
	}
	if inc.ctx.Err() != nil {
		return errCrashed
	}
	return nil
}

// mayStumble crashes or pauses inc, if the seed says so. The steps around a
// refresh, which have names, are where it hurts. w.mu is held.
func (w *world) mayStumble(inc *incarnation, a *actor, where string) {
	if w.cond.crash == 0 && w.cond.pause == 0 {
		return
	}
	weight := 1.0
	if where != "" {
		weight = 20
	}
	d := a.rollLocked(rollStep)
	if d.chance(w.cond.crash*weight) && w.counts.crashes < 6 {
		w.crash(inc, where)
	}
	if d.chance(w.cond.pause*weight) && w.counts.pauses < 6 {
		w.pause(inc, d.between(time.Second, 3*w.cond.lease))
		if where != "" && d.chance(0.4) {
			w.busy.Go(func() { w.takeOver(inc.process, a.key, d) })
		}
	}
}

// takeOver has the user of key log in or out elsewhere while the holder of the
// lease stands still.
func (w *world) takeOver(from *process, key *keyTruth, d *dice) {
	time.Sleep(d.between(0, time.Second))
	p, n := w.processes[(from.id+1)%len(w.processes)], d.next()>>24
	if d.chance(0.5) {
		w.logIn(p, key, d, n)
		return
	}
	w.logOut(p, key, d, n)
}

// pause stops inc for a while, as a debugger, a laptop's lid or a starved
// machine does. w.mu is held.
func (w *world) pause(inc *incarnation, length time.Duration) {
	w.counts.pauses++
	inc.pausedUntil = time.Now().Add(length)
	for _, t := range inc.turns {
		t.paused = true
	}
	w.note(inc.name, "is paused", length.String(), nil)
}

func (inc *incarnation) resume(a *actor, ctx context.Context, after time.Duration) error {
	timer := time.NewTimer(after)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-inc.ctx.Done():
		return errCrashed
	}
	if ctx != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return inc.step(a, ctx, "")
}

// attempting notes when an attempt of a refresh begins, and lets a twist do it.
func (inc *incarnation) attempting(refresher walletauth.Refresher) walletauth.Refresher {
	return refresherFunc(func(ctx context.Context, s *walletauth.Session) (*walletauth.Session, error) {
		key := actorOf(ctx).key
		inc.world.mu.Lock()
		inc.attempts[key] = time.Now()
		inc.mixFailures(actorOf(ctx))
		inc.world.mu.Unlock()
		next, err := inc.world.twist.refresh(inc, refresher, ctx, s)
		inc.world.mu.Lock()
		defer inc.world.mu.Unlock()
		inc.noteFailure(actorOf(ctx), err)
		return next, err
	})
}

// failure is the first since a refresh succeeded. It is mixed if more than one
// refresh of the key has failed since.
type failure struct {
	at    time.Time
	by    *actor
	mixed bool
}

// noteFailure is called with the outcome of an attempt. w.mu is held.
func (inc *incarnation) noteFailure(by *actor, err error) {
	_, failing := inc.failing[by.key]
	switch {
	case errors.Is(err, walletauth.ErrSessionExpired):
	case err == nil:
		delete(inc.failing, by.key)
	case !failing:
		inc.failing[by.key] = failure{at: time.Now(), by: by}
	}
}

// mixFailures notes that a has to do with a refresh of its key. w.mu is held.
func (inc *incarnation) mixFailures(a *actor) {
	if f, failing := inc.failing[a.key]; failing && f.by != a {
		f.mixed = true
		inc.failing[a.key] = f
	}
}

// onEvent notes what the Transport reports, and checks that a session is over
// when it says so.
func (inc *incarnation) onEvent(ctx context.Context, e walletauth.Event) {
	w := inc.world
	a := actorOf(ctx).on(w.keyNamed(e.Key))
	if w.cond.usesStore && (e.Type == walletauth.SessionOver || e.Type == walletauth.RefreshSucceeded) {
		defer inc.useStore(ctx, a)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	inc.mixFailures(a)
	switch e.Type {
	case walletauth.RefreshBegan:
		a.reason = e.Reason
		a.refreshes++
	case walletauth.RefreshSucceeded, walletauth.RefreshFailed:
		a.refreshes -= min(e.Attempts, 1)
	case walletauth.SessionOver:
		a.refreshes -= min(e.Attempts, 1)
		inc.called[inc.lastRefused[a.key]] = time.Now()
	}
	w.note(a.String(), "event: "+string(e.Type), e.Key+" "+e.SessionID+" "+string(e.Reason), e.Err)
	if e.Key != a.key.name {
		w.violated(a.String(), "an event for %s names the key %s", a.key.name, e.Key)
	}
	if l := w.walletkit.loginOf(e.SessionID); l != nil && e.Type == walletauth.SaveFailed {
		l.waited = true
	}
	if e.Type == walletauth.SessionOver && !inc.dead {
		if l := w.walletkit.loginOf(e.SessionID); l == nil || l.ended == "" {
			w.violated(a.String(), "a session that the server honours was called over: %s: %v", e.SessionID, e.Err)
		}
	}
	if e.Err != nil {
		w.checkText(a, e.Err)
	}
}

// processClock is the machine's clock: its wall clock may be wrong, and its
// timers are right but late while the process is paused.
type processClock struct{ inc *incarnation }

func (c processClock) Now() time.Time {
	w := c.inc.world
	w.mu.Lock()
	defer w.mu.Unlock()
	return systemTime(time.Now(), c.inc.process.skew)
}

func (c processClock) After(d time.Duration) <-chan time.Time {
	due := make(chan time.Time, 1)
	time.AfterFunc(d, func() { c.fire(due, max(d, 0)%time.Millisecond) })
	return due
}

// fire lets a timer go off, after the pause if there is one. Two timers that
// were due in the same pause still go off one after the other.
func (c processClock) fire(due chan<- time.Time, apart time.Duration) {
	w := c.inc.world
	w.mu.Lock()
	left := time.Until(c.inc.pausedUntil)
	dead := c.inc.dead
	w.mu.Unlock()
	if left > 0 && !dead {
		time.AfterFunc(left+apart, func() { c.fire(due, apart) })
		return
	}
	due <- c.Now()
}

// afterPause calls f now, or when inc goes on.
func (inc *incarnation) afterPause(f func()) {
	inc.world.mu.Lock()
	left := time.Until(inc.pausedUntil)
	inc.world.mu.Unlock()
	if left > 0 {
		time.AfterFunc(left+time.Millisecond, f)
		return
	}
	f()
}
