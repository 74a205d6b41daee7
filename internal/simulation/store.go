package simulation

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/walletauth/walletauth"
)

// sharedStore is a server that keeps the sessions of all processes, with a
// lease and a fence for each key. What is in it is changed under the world's
// mu, in one step, as a script in Redis or a statement in PostgreSQL would.
type sharedStore struct {
	world   *world
	records map[*keyTruth]*record
}

type record struct {
	versions []version // of which the last is current
	fence    int       // given last
	saved    int       // the fence of the last save
	holder   *turn     // of the lease
	until    time.Time // the lease's end
	order    order     // of the last version, kept also by a store that forgets
}

type version struct {
	at      time.Time
	session *walletauth.Session // nil: deleted, or never there
	fence   int                 // under which it was stored
}

func (r *record) current() *walletauth.Session { return r.versions[len(r.versions)-1].session }

func (r *record) leased() bool { return r.holder != nil && time.Now().Before(r.until) }

// order tells which of two states of a key is newer: a later login or logout
// is, and within a login the later refresh.
type order struct{ serial, refreshes int }

func (o order) before(p order) bool {
	return o.serial < p.serial || o.serial == p.serial && o.refreshes < p.refreshes
}

// turn is one Update from the moment it was given the lease.
type turn struct {
	by      *actor
	inc     *incarnation
	key     *keyTruth
	fence   int
	granted time.Time // by the store
	sent    time.Time // the question, so that the holder thinks its lease shorter than it is
	current *walletauth.Session

	excl context.Context // what the function gets
	lose context.CancelCauseFunc

	// Guarded by the world's mu.
	robbed bool // the lease ended, or went to somebody else, before the turn was over
	paused bool // the process stood still while the function ran
}

// storeBugs are what stores get wrong. The search must find each.
type storeBugs struct {
	noExclusion   bool // the lease is given to whoever asks
	noCompare     bool // a save is taken, whoever has saved since
	lastWins      bool // of two states of a login the one that comes last stays, not the later one
	dropsLosers   bool // a save that meets another login or logout is confirmed and forgotten
	onlyMine      bool // a save is refused if the lease is not the saver's any more, and forgotten
	losesSaves    bool // one save in four is confirmed and forgotten
	noTombstone   bool // a deleted session leaves nothing to compare with
	staleRead     bool // Update gives its function the local copy
	mixesKeys     bool // Load answers with another key's session now and then
	emptyWhenDown bool // an unreachable server is taken for one that holds no session
}

// handle is a process's client of the store.
type handle struct {
	inc    *incarnation
	queues map[*keyTruth]chan struct{} // in front of the lease, one waiter per process
	seen   map[*keyTruth]int           // the version of the local copy, +1

	// Until when each of its ways to the server is down.
	loadsDown, callsDown time.Time
}

func newHandle(inc *incarnation) *handle {
	h := &handle{inc: inc, queues: make(map[*keyTruth]chan struct{}), seen: make(map[*keyTruth]int)}
	for _, key := range inc.world.keys {
		h.queues[key] = make(chan struct{}, 1)
	}
	return h
}

var errStoreDown = errors.New("the store's server does not answer")

var errLeaseEnded = errors.New("the lease has ended")

// Load answers from a local copy, which lags behind.
func (h *handle) Load(ctx context.Context, name string) (*walletauth.Session, error) {
	a := actorOf(ctx)
	d := a.roll(rollLoad)
	if err := h.inc.wait(a, ctx, time.Microsecond, 50*time.Microsecond); err != nil {
		return nil, err
	}
	w := h.inc.world
	w.mu.Lock()
	defer w.mu.Unlock()
	key := w.keyNamed(name)
	if w.bugs.mixesKeys && d.chance(0.05) {
		key = w.keys[d.below(len(w.keys))]
	}
	if !w.calm && (time.Now().Before(h.loadsDown) || d.chance(w.cond.loadFails)) {
		return h.loadWhileDown(a, key)
	}
	if s := h.copyOf(key); s != nil {
		a.noteLoad(w.walletkit.refresh[s.RefreshToken].login)
		return s, nil
	}
	a.loads++
	return nil, fmt.Errorf("%w (key %s)", walletauth.ErrNoSession, name)
}

// noteLoad notes that a was given a session of l. w.mu is held.
func (a *actor) noteLoad(l *login) {
	if a.loads++; a.loads == 1 {
		a.began = l
	}
	if a.loaded != nil {
		a.loaded[l], l.loggedOut = true, true
	}
}

// noteLocked notes that a Logout by a finds s under the lease: it removes it. w.mu
// is held.
func (a *actor) noteLocked(s *walletauth.Session) {
	if a.loaded == nil {
		a = a.at.leaving[a.key] // it removes what any Update of its process finds
	}
	if a == nil || a.returned || s == nil {
		return
	}
	l := a.at.world.walletkit.refresh[s.RefreshToken].login
	l.loggedOut = true
	if _, known := a.loaded[l]; !known {
		a.loaded[l] = false
	}
}

func (h *handle) loadWhileDown(a *actor, key *keyTruth) (*walletauth.Session, error) {
	w := h.inc.world
	if w.bugs.emptyWhenDown {
		return nil, walletauth.ErrNoSession
	}
	if n := h.seen[key]; w.cond.copiesServe && n > 0 {
		if s := w.store.records[key].versions[n-1].session; s != nil {
			a.noteLoad(w.walletkit.refresh[s.RefreshToken].login)
			return s, nil
		}
	}
	if a.loads++; a.loaded != nil { // it forgets whatever there is
		a.loadFailed = true
		for _, l := range w.walletkit.logins {
			l.loggedOut = l.loggedOut || l.key == key
		}
	}
	return nil, errStoreDown
}

// copyOf returns the local copy, which is as old as the world's conditions say
// but never older than what this process has seen. A missing session is not
// kept: the server is asked.
func (h *handle) copyOf(key *keyTruth) *walletauth.Session {
	r := h.inc.world.store.records[key]
	n := max(1, h.seen[key])
	heard := time.Now().Add(-h.inc.world.cond.lag)
	for n < len(r.versions) && (!r.versions[n].at.After(heard) || r.versions[n-1].session == nil) {
		n++
	}
	h.seen[key] = n
	return r.versions[n-1].session
}

// Update gets the lease, runs fn while renewing it, and saves with the fence.
func (h *handle) Update(ctx context.Context, name string, fn func(context.Context, *walletauth.Session) (*walletauth.Session, error)) error {
	key := h.inc.world.keyNamed(name)
	a := actorOf(ctx).on(key)
	select {
	case h.queues[key] <- struct{}{}:
		defer func() { <-h.queues[key] }()
	case <-ctx.Done():
		return h.inc.ended(ctx)
	}
	t, err := h.acquire(ctx, a, key)
	if err != nil {
		return err
	}
	next, err := h.run(ctx, t, fn)
	if err != nil || next == t.current {
		_ = h.call(a, "release", func() { t.record().release(t) }) // or it lapses
		return err
	}
	return h.save(ctx, t, next, fn)
}

func (t *turn) record() *record { return t.inc.world.store.records[t.key] }

func (r *record) release(t *turn) {
	if r.holder == t {
		r.holder = nil
	}
}

// acquire asks for the lease until it gets it or ctx ends.
func (h *handle) acquire(ctx context.Context, a *actor, key *keyTruth) (*turn, error) {
	for {
		sent := time.Now()
		var t *turn
		if err := h.call(a, "acquire", func() { t = h.inc.world.store.grant(a, key) }); err != nil {
			return nil, err
		}
		if t != nil {
			t.sent = sent
			h.inc.world.mu.Lock()
			h.seen[key] = max(1, len(t.record().versions))
			h.inc.world.mu.Unlock()
			return t, nil
		}
		if err := h.inc.wait(a, ctx, 20*time.Millisecond, 250*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

// grant gives the lease away if it is free. w.mu is held.
func (s *sharedStore) grant(a *actor, key *keyTruth) *turn {
	r, w := s.records[key], s.world
	if r.leased() && !w.bugs.noExclusion {
		return nil
	}
	if r.holder != nil && !r.leased() {
		r.holder.robbed = true
	}
	r.fence++
	t := &turn{by: a, inc: a.at, key: key, fence: r.fence, granted: time.Now(), current: r.current(), lose: func(error) {}}
	if w.bugs.staleRead {
		t.current = a.at.handle.copyOf(key)
	}
	r.holder, r.until = t, time.Now().Add(w.cond.lease)
	w.note(a.String(), "gets the lease of", fmt.Sprintf("%s with fence %d and %s", key.name, t.fence, w.walletkit.describe(t.current)), nil)
	return t
}

// run calls fn while it renews the lease beside it.
func (h *handle) run(ctx context.Context, t *turn, fn func(context.Context, *walletauth.Session) (*walletauth.Session, error)) (*walletauth.Session, error) {
	w := h.inc.world
	t.excl, t.lose = context.WithCancelCause(ctx)
	defer t.lose(nil)
	if time.Since(t.sent) >= w.cond.lease { // paused on the way back
		t.lose(errLeaseEnded)
	}
	w.mu.Lock()
	h.inc.turns[t.key] = t
	t.by.noteLocked(t.current)
	w.mu.Unlock()
	stop, renewed := make(chan struct{}), make(chan struct{})
	go h.renew(t, stop, renewed)
	defer func() {
		close(stop)
		<-renewed
		w.mu.Lock()
		delete(h.inc.turns, t.key)
		w.mu.Unlock()
	}()
	return fn(t.excl, t.current)
}

// renew keeps the lease, and ends the turn's context when it may be lost: when
// the server says so, or when it has not confirmed the lease for as long as
// that lasts.
func (h *handle) renew(t *turn, stop <-chan struct{}, renewed chan<- struct{}) {
	defer close(renewed)
	w := h.inc.world
	lease := w.cond.lease
	lost := func() { t.lose(errLeaseEnded) }
	guard := time.AfterFunc(time.Until(t.sent.Add(lease)), func() { h.inc.afterPause(lost) })
	defer guard.Stop()
	for next := lease / 3; ; {
		select {
		case <-time.After(next):
		case <-stop:
			return
		case <-t.excl.Done():
			return
		}
		sent, ok := time.Now(), false
		err := h.callAs(t.by, rollRenew, "renew", func() { ok = t.record().renew(t) })
		switch {
		case err != nil:
			next = lease / 10
		case !ok:
			lost()
			return
		default:
			next = lease / 3
			guard.Reset(time.Until(sent.Add(lease)))
		}
	}
}

func (r *record) renew(t *turn) bool {
	if r.holder != t || !r.leased() {
		t.robbed = true
		return false
	}
	r.until = time.Now().Add(t.inc.world.cond.lease)
	return true
}

// save stores what fn returned and gives the lease back. If another login or
// logout is stored by now, that stays, and fn is asked again.
func (h *handle) save(ctx context.Context, t *turn, next *walletauth.Session, fn func(context.Context, *walletauth.Session) (*walletauth.Session, error)) error {
	for {
		lost, err := h.saveOnce(t, next)
		if err != nil || !lost {
			return err
		}
		h.inc.world.mu.Lock()
		t.current = t.record().current()
		t.by.noteLocked(t.current)
		h.inc.world.counts.merged++
		h.inc.world.mu.Unlock()
		if next, err = fn(ctx, t.current); err != nil || next == t.current {
			_ = h.call(t.by, "release", func() { t.record().release(t) })
			return err
		}
	}
}

func (h *handle) saveOnce(t *turn, next *walletauth.Session) (lost bool, err error) {
	w := h.inc.world
	for tries := 1; ; tries++ {
		err := h.call(t.by, "save", func() { lost = t.record().save(t, next) }, func() { w.walletkit.missed(next) })
		if err == nil || !w.cond.saveAgain || tries == 4 || h.inc.ctx.Err() != nil {
			return lost, err
		}
		if h.inc.wait(t.by, nil, 100*time.Millisecond, 500*time.Millisecond) != nil {
			return lost, err
		}
	}
}

// save stores next, and reports whether it lost to another login or logout that
// t has not seen. Of two states of one login the later stays. A repeated save is
// taken once. w.mu is held.
func (r *record) save(t *turn, next *walletauth.Session) (lost bool) {
	w := t.inc.world
	w.walletkit.arrived(next)
	mine, current := r.holder == t, r.current()
	if !mine || !r.leased() {
		t.robbed = true
	}
	unseen := !sameSession(current, t.current) && !w.bugs.noCompare && (current != nil || !w.bugs.noTombstone)
	switch {
	case r.saved == t.fence && sameSession(current, next):
		r.release(t)
		return false
	case unseen && sameLogin(current, next):
		if !r.isLater(t, next) && !w.bugs.lastWins {
			w.note(t.by.String(), "comes too late with", w.walletkit.describe(next), nil)
			r.release(t)
			return false
		}
	case unseen && !w.bugs.dropsLosers:
		w.note(t.by.String(), "loses to another login or logout with", w.walletkit.describe(next), nil)
		return true
	case unseen:
		return false
	}
	r.release(t)
	switch {
	case w.bugs.onlyMine && !mine:
		return false
	case w.bugs.losesSaves && t.by.rollLocked(rollStep).chance(0.25):
		return false
	}
	w.checkWrite(t, r, next)
	r.saved = t.fence
	r.versions = append(r.versions, version{time.Now(), next, t.fence})
	t.inc.handle.seen[t.key] = len(r.versions)
	w.note(t.by.String(), "stores", t.key.name+" "+w.walletkit.describe(next), nil)
	return false
}

// isLater reports whether next, which t saves, is a later state of the login that
// is stored.
func (r *record) isLater(t *turn, next *walletauth.Session) bool {
	last := r.versions[len(r.versions)-1]
	if order := next.AccessTokenExpiresAt.Compare(last.session.AccessTokenExpiresAt); order != 0 {
		return order > 0
	}
	return t.fence > last.fence
}

func sameLogin(a, b *walletauth.Session) bool {
	return a != nil && b != nil && (a.ID == b.ID || a.UserID == b.UserID && a.CreatedAt.Equal(b.CreatedAt))
}

// call asks the server to do something, which takes a while and may fail on the
// way there or back.
func (h *handle) call(a *actor, what string, effect func(), missed ...func()) error {
	return h.callAs(a, rollCall, what, effect, missed...)
}

func (h *handle) callAs(a *actor, kind rollKind, what string, effect func(), missed ...func()) error {
	inc := h.inc
	w := inc.world
	if err := inc.step(a, nil, "before "+what); err != nil {
		return err
	}
	d := a.roll(kind)
	there, back := d.between(100*time.Microsecond, 4*time.Millisecond), d.between(100*time.Microsecond, 4*time.Millisecond)
	outlives := d.chance(0.5)
	fails := w.cond.callFails
	if kind == rollRenew {
		fails = w.cond.renewFails
	}
	lost, forgotten, limit := d.chance(fails), d.chance(w.cond.callForgets), d.between(time.Millisecond, 2*time.Second)
	answered := make(chan error, 1)
	go func() {
		time.Sleep(there)
		answered <- h.arrive(a, what, lost, outlives, effect, missed)
	}()
	err := inc.await(answered)
	if err == nil {
		err = inc.wait(a, nil, back, back)
	}
	if err == nil && forgotten && !w.isCalm() {
		err = errStoreDown
	}
	if err == errStoreDown {
		if waited := inc.wait(a, nil, limit, limit); waited != nil {
			return waited
		}
	}
	if err != nil {
		return err
	}
	return inc.step(a, nil, "after "+what)
}

// arrive is what happens at the server. What a process sent that has crashed
// since may be on its way still.
func (h *handle) arrive(a *actor, what string, lost, outlives bool, effect func(), missed []func()) error {
	w := h.inc.world
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.calm && (lost || time.Now().Before(h.callsDown)) {
		w.note(a.String(), "cannot "+what, a.key.name, nil)
		for _, miss := range missed {
			miss()
		}
		return errStoreDown
	}
	if !h.inc.dead || outlives {
		effect()
	}
	return nil
}

// await waits for an answer or the end of the process.
func (inc *incarnation) await(answered <-chan error) error {
	select {
	case err := <-answered:
		return err
	case <-inc.ctx.Done():
		return errCrashed
	}
}

func (w *world) isCalm() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.calm
}

func (w *world) keyNamed(name string) *keyTruth {
	for _, key := range w.keys {
		if key.name == name {
			return key
		}
	}
	panic("a key that nobody used: " + name)
}

func sameSession(a, b *walletauth.Session) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.AccessToken == b.AccessToken && a.RefreshToken == b.RefreshToken
}
