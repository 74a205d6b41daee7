package walletauth

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/walletauth/walletauth/internal/drain"
	"github.com/walletauth/walletauth/internal/guard"
	"github.com/walletauth/walletauth/internal/policy"
	"github.com/walletauth/walletauth/internal/timeout"
)

// pendingWrite is a change of a session that the store has not taken yet, and
// what of the stored state it may replace.
type pendingWrite struct {
	session *Session      // nil: a logout
	states  []*Session    // replaces these states of a session; nil is a state too: there is none
	login   *Session      // replaces every state of this login
	before  time.Time     // replaces every login before this time
	forced  *atomic.Bool  // while true, replaces whatever is stored; nil is false
	failed  atomic.Bool   // the store refused it: SaveFailed was reported
	under   *pendingWrite // of another login, applied first; nil if there is none
}

// replaces reports whether w may replace current. A nil w replaces nothing.
func (w *pendingWrite) replaces(current *Session) bool {
	if w == nil {
		return false
	}
	if w.forced != nil && w.forced.Load() || slices.ContainsFunc(w.states, func(s *Session) bool { return sameTokens(s, current) }) {
		return true
	}
	return current != nil && (w.login != nil && sameLogin(current, w.login) || current.CreatedAt.Before(w.before))
}

// apply returns the state that is to be stored where current is.
func (w *pendingWrite) apply(current *Session) *Session {
	if w == nil {
		return current
	}
	if current = w.under.apply(current); w.replaces(current) {
		return w.session
	}
	return current
}

// overlay returns what a Load that returned s and err should have returned.
func (w *pendingWrite) overlay(s *Session, err error) (*Session, error) {
	switch {
	case w == nil:
		return s, err
	case err == nil, errors.Is(err, ErrNoSession):
		s = w.apply(s)
	case errors.Is(err, ErrUnreadable) && !w.isLoginOrLogout():
		return nil, err // it may be another user's login
	default:
		s = w.session
	}
	if s == nil {
		return nil, ErrNoSession
	}
	return s, nil
}

func (w *pendingWrite) isLoginOrLogout() bool {
	return w.login != nil || w.forced != nil || !w.before.IsZero()
}

// next returns the write of session, which was made from seen: what w laid over
// stored. It replaces what w would have replaced.
func (w *pendingWrite) next(stored, seen, session *Session) *pendingWrite {
	n := &pendingWrite{session: session, states: []*Session{seen, stored}}
	for ; w != nil; w = w.under {
		if sameTokens(w.session, seen) || sameTokens(w.session, session) {
			n.inherit(w)
		}
	}
	return n
}

// inherit lets w replace what an earlier write would have replaced.
func (w *pendingWrite) inherit(earlier *pendingWrite) {
	w.states = append(w.states, earlier.states...)
	w.login = cmp.Or(w.login, earlier.login)
	if w.before.Before(earlier.before) {
		w.before = earlier.before
	}
}

// pendingStore is the user's TokenStore with the pending writes laid over it. It
// is a TokenStore itself, whose Load and Update see and change what will be
// stored, and which keeps what the user's store does not take.
type pendingStore struct {
	store   TokenStore
	states  *keyStates
	clock   Clock
	timeout time.Duration
	work    *drain.Group
	emit    func(context.Context, Event)
}

var _ TokenStore = (*pendingStore)(nil)

func (p *pendingStore) pendingOf(key string) *pendingWrite {
	if st := p.states.Lookup(key); st != nil {
		return st.pending.Load()
	}
	return nil
}

// Load is the user's Load, with what is pending laid over it.
func (p *pendingStore) Load(ctx context.Context, key string) (*Session, error) {
	return p.loadOver(ctx, key, p.states.Lookup(key))
}

// loadOver is Load for a key whose state is known, nil if it has none.
func (p *pendingStore) loadOver(ctx context.Context, key string, st *keyState) (*Session, error) {
	s, err := p.load(ctx, key)
	if st == nil {
		return s, err
	}
	return st.pending.Load().overlay(s, err)
}

// load runs on the caller's goroutine: another one for each request would cost
// more than the rest of it.
func (p *pendingStore) load(ctx context.Context, key string) (s *Session, err error) {
	defer guard.Recover("TokenStore.Load", &err)
	s, err = p.store.Load(ctx, key)
	if s == nil && err == nil {
		err = errNilSession
	}
	return s, err
}

// Update runs fn once, whatever the user's store does, and keeps what it
// returned if that cannot be stored: it may be a refreshed session, which must
// not be lost. A login or logout that comes while fn runs wins over its result.
func (p *pendingStore) Update(ctx context.Context, key string, fn func(context.Context, *Session) (*Session, error)) error {
	_, err := p.update(ctx, key, p.emit, fn)
	return err
}

// update is Update with its events going to emit. It returns what is stored now,
// which may be newer than what fn returned.
func (p *pendingStore) update(ctx context.Context, key string, emit func(context.Context, Event), fn func(context.Context, *Session) (*Session, error)) (*Session, error) {
	u := update{pending: p, key: key, emit: emit, fn: fn}
	err := guard.Call("TokenStore.Update", func() error { return p.store.Update(ctx, key, u.run) })
	switch {
	case err == nil:
		p.stored(ctx, key, &u)
	case u.result != nil:
		p.keep(key, &u)
		p.reportFailure(ctx, key, storeError(ctx, "update", u.redact(err)), emit)
	}
	return u.stored, u.redact(err)
}

// update is one Update of the user's store.
type update struct {
	pending *pendingStore
	key     string
	emit    func(context.Context, Event)
	fn      func(context.Context, *Session) (*Session, error)

	ran     bool
	current *Session      // what the store held at first
	laid    *pendingWrite // laid over it
	seen    *Session      // by fn
	result  *pendingWrite // what fn made of it, nil if it left it
	stored  *Session      // what the store is to hold
}

// redact takes the tokens out of err that the store may have printed.
func (u *update) redact(err error) error {
	sessions := []*Session{u.current, u.seen}
	for _, w := range [...]*pendingWrite{u.laid, u.result} {
		for ; w != nil; w = w.under {
			sessions = append(sessions, w.session)
		}
	}
	return redactError(err, sessions...)
}

// run is the function that the user's store calls, which may be more than once.
func (u *update) run(ctx context.Context, current *Session) (*Session, error) {
	if u.ran && current == nil && u.current != nil {
		u.stored = nil // a logout came in between, and stays
		return nil, nil
	}
	if !u.ran {
		if err := u.runOnce(ctx, current); err != nil {
			return nil, err
		}
	}
	if latest := u.pending.pendingOf(u.key); latest != u.laid && u.losesTo(latest) {
		u.laid, u.result = latest, nil
	}
	if u.stored = u.laid.apply(current); u.result != nil {
		u.stored = u.result.apply(current)
	}
	return u.stored, nil
}

func (u *update) runOnce(ctx context.Context, current *Session) error {
	u.ran, u.current, u.laid = true, current, u.pending.noteSeen(u.key, current)
	u.seen = u.laid.apply(current)
	next, err := u.fn(ctx, u.seen)
	if err == nil && next != u.seen {
		u.result = u.laid.next(current, u.seen, next)
	}
	return err
}

// losesTo reports whether latest, which came while fn ran, replaces what fn made.
func (u *update) losesTo(latest *pendingWrite) bool {
	return latest != nil && (u.result == nil || latest.replaces(u.seen) || latest.replaces(u.result.session))
}

// keep lays the result of u over the store, unless a login or logout came
// meanwhile, which replaces it.
func (p *pendingStore) keep(key string, u *update) {
	p.states.with(key, func(st *keyState) {
		if latest := st.pending.Load(); latest == u.laid || !u.losesTo(latest) {
			st.pending.Store(u.result)
		}
	})
}

// noteSeen returns what is pending of key. If that is forced on current, it may
// replace current later on too, when it is forced no more.
func (p *pendingStore) noteSeen(key string, current *Session) (w *pendingWrite) {
	p.states.peek(key, func(st *keyState) {
		w = st.pending.Load()
		if w == nil || w.forced == nil || !w.forced.Load() {
			return
		}
		w = &pendingWrite{
			session: w.session, states: append(slices.Clone(w.states), current),
			login: w.login, before: w.before, forced: w.forced, under: w.under,
		}
		st.pending.Store(w)
	})
	return w
}

// stored forgets the pending write that the store has taken, or that something
// newer in the store replaces.
func (p *pendingStore) stored(ctx context.Context, key string, u *update) {
	w := u.laid
	if w == nil || !p.drop(key, w) {
		return
	}
	if w.failed.Load() && (u.result != nil || sameTokens(u.stored, w.session)) {
		u.emit(ctx, newEvent(SavedLater, key, u.stored, nil))
	}
}

func (p *pendingStore) drop(key string, w *pendingWrite) (dropped bool) {
	p.states.peek(key, func(st *keyState) {
		if dropped = st.pending.CompareAndSwap(w, nil); dropped {
			st.lastError = nil
		}
	})
	return dropped
}

// force lets w replace whatever the store holds until the function that it
// returns is called.
func (w *pendingWrite) force() (end func()) {
	w.forced = &atomic.Bool{}
	w.forced.Store(true)
	return func() { w.forced.Store(false) }
}

// write lays w over the store at once, in a new generation of the key, and then
// stores it. c are the credentials of its session, nil for a logout. The error
// says why storing failed; it is tried again in the background.
func (p *pendingStore) write(ctx context.Context, key string, w *pendingWrite, c *credentials) error {
	p.states.with(key, func(st *keyState) {
		if earlier := st.pending.Load(); earlier != nil && w.replaces(earlier.session) {
			w.inherit(earlier)
		} else {
			w.under = earlier
		}
		st.pending.Store(w)
		st.current.Store(c)
		p.states.raise(st)
	})
	return p.flush(ctx, key)
}

// flush tries once to store what is pending of key.
func (p *pendingStore) flush(ctx context.Context, key string) error {
	w := p.pendingOf(key)
	if w == nil {
		return nil
	}
	timed := timeout.New(ctx, p.clock, p.timeout)
	defer timed.Cancel()
	err := p.Update(timed, key, func(_ context.Context, current *Session) (*Session, error) { return current, nil })
	if r, ok := p.store.(Replacer); ok && errors.Is(err, ErrUnreadable) && w.isLoginOrLogout() {
		err = guard.Call("TokenStore.Replace", func() error { return r.Replace(timed, key, w.session) })
		if err == nil {
			p.stored(ctx, key, &update{laid: w, stored: w.session, emit: p.emit})
		}
	}
	if err = storeError(ctx, "update", redactError(err, w.session)); err != nil {
		p.reportFailure(ctx, key, err, p.emit)
	}
	return err
}

// reportFailure tells, once for each write, that what is pending of key could
// not be stored, and has it tried again.
func (p *pendingStore) reportFailure(ctx context.Context, key string, err error, emit func(context.Context, Event)) {
	var w *pendingWrite
	var start bool
	p.states.with(key, func(st *keyState) {
		st.fail(err, p.clock.Now())
		if w = st.pending.Load(); w != nil && !st.flushing {
			start = p.work.Begin()
			st.flushing = start
		}
	})
	if w != nil && !w.failed.Swap(true) {
		emit(ctx, newEvent(SaveFailed, key, w.session, err))
	}
	if start {
		go p.keepFlushing(context.WithoutCancel(ctx), key)
	}
}

// keepFlushing tries to store what is pending of key, waiting 100 ms doubling to
// 10 s in between, until nothing is or Shutdown takes over.
func (p *pendingStore) keepFlushing(ctx context.Context, key string) {
	defer p.work.End()
	for failures := 1; p.keepsFlushing(key); failures++ {
		select {
		case <-p.clock.After(policy.Backoff(failures, 100*time.Millisecond, 10*time.Second)):
			_ = p.flush(ctx, key) // the next round sees whether it worked
		case <-p.work.Closing():
			return
		}
	}
}

// keepsFlushing ends the flushing of key in one step with finding that nothing is
// pending: who adds something later starts it again.
func (p *pendingStore) keepsFlushing(key string) (more bool) {
	p.states.peek(key, func(st *keyState) {
		more = st.pending.Load() != nil
		st.flushing = more
	})
	return more
}

// flushAll tries until everything is stored, ctx ends, or the timeout has
// passed: a caller that gave no deadline still wants its program to end.
func (p *pendingStore) flushAll(ctx context.Context) error {
	timed := timeout.New(ctx, p.clock, p.timeout)
	defer timed.Cancel()
	for failures := 1; ; failures++ {
		left, err := p.flushOnce(timed)
		if err == nil {
			return nil
		}
		if !timeout.Sleep(timed, p.clock, policy.Backoff(failures, 100*time.Millisecond, 10*time.Second)) {
			return wrapError(fmt.Sprintf("walletauth: sessions that could not be stored: %d, the last because: ", left), err)
		}
	}
}

// flushOnce tries once for each key with something pending, and again for what
// came meanwhile, as the answer to a login may. It returns how many are left and
// the last error.
func (p *pendingStore) flushOnce(ctx context.Context) (left int, last error) {
	for keys := p.keys(); last == nil && len(keys) > 0; keys = p.keys() {
		for _, key := range keys {
			if err := p.flush(ctx, key); err != nil {
				last = err
			}
		}
	}
	return len(p.keys()), last
}

func (p *pendingStore) keys() (keys []string) {
	p.states.All(func(key string, st *keyState) {
		if st.pending.Load() != nil {
			keys = append(keys, key)
		}
	})
	return keys
}
