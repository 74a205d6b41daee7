package walletauth

import (
	"crypto/sha256"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/walletauth/walletauth/internal/policy"
)

// keyState is all that a Transport remembers of one key.
type keyState struct {
	// Read by every request, so they need no lock to read. Written under
	// keyStates.mu.
	current    atomic.Pointer[credentials]  // what requests were last sent with, nil if unknown
	refreshed  atomic.Pointer[credentials]  // what a refresh of this process last brought
	expired    atomic.Pointer[expiredState] // nil while no session of the key is known to be over
	pending    atomic.Pointer[pendingWrite] // what the store has not taken yet
	generation atomic.Uint64                // raised by every login, logout and adoption
	used       atomic.Uint32                // the epoch of the last use

	// Guarded by keyStates.mu.
	calls       map[string]*call    // refreshes in progress, by stale access token
	group       *singleflight.Group // of the calls; nil if there are none
	cooldown    policy.Cooldown
	lockRetryAt time.Time // the store gave no exclusion: no background refresh before
	rejections  policy.Rejections
	lastError   error     // of the last refresh or save
	failedAt    time.Time // when it happened
	flushing    bool      // what is pending is being stored in the background
}

// expiredState says that a session is over, by hashes of its tokens: they may
// be kept for long.
type expiredState struct {
	refreshToken [sha256.Size]byte
	accessToken  [sha256.Size]byte
	rejected     bool          // the API refuses the access token too
	confirmed    bool          // and the store holds nothing newer, see recheckStore
	earlier      *expiredState // of the login before: a store's copy may be that old
	err          error
}

const (
	rememberedSessions = 1 << 10 // at least this many of the sessions last used are remembered
	rememberedExpired  = 1 << 16 // at most this many keys whose session is over
	sweepInterval      = time.Minute
	lastErrorMemory    = time.Hour
)

// keyStates is what is remembered of all keys: one map, one lock, one sweep.
// The sessions used last are remembered for an outage of the store, at most
// four times rememberedSessions of them. All other memory ends by itself: a
// sweep drops what has no more effect.
type keyStates struct {
	clock Clock

	byKey   sync.Map      // key to *keyState; written under mu, read without
	changes atomic.Uint64 // the highest generation so far, of any key
	epoch   atomic.Uint32 // advances with every rememberedSessions keys used
	sweepAt atomic.Int64  // nanoseconds, by clock

	mu       sync.Mutex // guards what follows, and what keyState says
	size     int
	marked   int // keys used in this epoch
	sweepLen int // the size from which the next new key sweeps
}

// lookup returns the state of key, nil if there is none. It takes no lock.
func (m *keyStates) lookup(key string) *keyState {
	v, _ := m.byKey.Load(key)
	st, _ := v.(*keyState)
	if st != nil && st.used.Load() != m.epoch.Load() {
		m.mark(st)
	}
	return st
}

// mark notes that st is in use. A full epoch ends: what was used neither in the
// last nor in the present one is not among the last rememberedSessions used.
func (m *keyStates) mark(st *keyState) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.markLocked(st)
}

func (m *keyStates) markLocked(st *keyState) {
	if st.used.Load() == m.epoch.Load() {
		return
	}
	if m.marked++; m.marked > rememberedSessions {
		m.epoch.Add(1)
		m.marked = 1
	}
	st.used.Store(m.epoch.Load())
}

// state returns the state of key, a new one if there is none. m.mu is held.
func (m *keyStates) state(key string) *keyState {
	if v, ok := m.byKey.Load(key); ok {
		return v.(*keyState)
	}
	if m.size >= max(m.sweepLen, 3*rememberedSessions) {
		m.sweep(m.clock.Now())
		m.sweepLen = 2 * m.size
	}
	st := &keyState{}
	st.generation.Store(m.changes.Load())
	st.used.Store(m.epoch.Load() - 2) // not used yet: lookup marks it
	m.byKey.Store(key, st)
	m.size++
	return st
}

// with runs fn with the state of key, under the lock.
func (m *keyStates) with(key string, fn func(st *keyState)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	fn(m.state(key))
}

// peek runs fn with the state of key if there is one, under the lock.
func (m *keyStates) peek(key string, fn func(st *keyState)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if v, ok := m.byKey.Load(key); ok {
		fn(v.(*keyState))
	}
}

// generationOf is the generation of the key that st belongs to, which may be
// nil: a state that is made later begins with the highest so far.
func (m *keyStates) generationOf(st *keyState) uint64 {
	if st == nil {
		return m.changes.Load()
	}
	return st.generation.Load()
}

// raise begins a new generation of st: what was loaded or refreshed in an
// earlier one is not remembered any more. m.mu is held.
func (m *keyStates) raise(st *keyState) { st.generation.Store(m.changes.Add(1)) }

// remember keeps c as what requests of key are sent with, unless the key has
// changed since generation. A session in place of another is a change itself. It
// reports whether c is what requests are sent with now.
func (m *keyStates) remember(key string, generation uint64, c *credentials) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	st := m.state(key)
	m.markLocked(st)
	last := st.current.Load()
	if st.generation.Load() > generation && !last.is(c.session) {
		return false
	}
	if last != nil && !sameTokens(last.session, c.session) {
		m.raise(st)
	}
	st.current.Store(c)
	return true
}

// forget drops what is remembered of the session of key: it is gone, unless the
// key has changed since generation.
func (m *keyStates) forget(key string, generation uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, ok := m.byKey.Load(key)
	if !ok {
		m.changes.Add(1) // a Load that runs must not bring the session back either
		return
	}
	if st := v.(*keyState); st.generation.Load() <= generation {
		m.raise(st)
		st.current.Store(nil)
	}
}

// credentialsOf returns the credentials of s, the remembered ones if there are.
func (m *keyStates) credentialsOf(key string, s *Session, project string) (*credentials, error) {
	if st := m.lookup(key); st != nil {
		for _, c := range [...]*credentials{st.current.Load(), st.refreshed.Load()} {
			if c.is(s) {
				return c, nil
			}
		}
	}
	return newCredentials(s, project)
}

// setRefused notes that the server calls s over. Until that is confirmed
// requests go on as before, but the refresh token is not sent again.
func (m *keyStates) setRefused(key string, s *Session, err error) {
	m.with(key, func(st *keyState) { st.setExpired(newExpiredState(s, false, false, err)) })
}

// refusedError returns why the server calls s over, nil if it has not.
func (m *keyStates) refusedError(key string, s *Session) error {
	if e := m.lookup(key).expiredState(s); e != nil {
		return e.err
	}
	return nil
}

// setExpired notes that s is over, and whether the API refuses its access token
// too. It reports whether that was news.
func (m *keyStates) setExpired(key string, s *Session, rejected bool, err error) (first bool) {
	m.with(key, func(st *keyState) {
		if last := st.expiredState(s); last == nil || !last.confirmed {
			first = true
			st.setExpired(newExpiredState(s, rejected, true, err))
		}
	})
	return first
}

// rejectExpired notes that the API refuses the access token of s too, if s is
// over, and returns why it is.
func (m *keyStates) rejectExpired(key string, s *Session) (err error) {
	m.peek(key, func(st *keyState) {
		if err, _ = st.expiredError(s); err != nil {
			st.setExpired(newExpiredState(s, true, true, err))
		}
	})
	return err
}

func newExpiredState(s *Session, rejected, confirmed bool, err error) *expiredState {
	return &expiredState{
		refreshToken: sha256.Sum256([]byte(s.RefreshToken)), accessToken: sha256.Sum256([]byte(s.AccessToken)),
		rejected: rejected, confirmed: confirmed, err: err,
	}
}

// setExpired keeps e and what was known before of another refresh token.
func (st *keyState) setExpired(e *expiredState) {
	last := st.expired.Load()
	if last != nil && last.refreshToken == e.refreshToken {
		last = last.earlier
	}
	if last != nil {
		kept := *last
		kept.earlier = nil
		e.earlier = &kept
	}
	st.expired.Store(e)
}

// expiredState is what is known of the end of s, nil if nothing is.
func (st *keyState) expiredState(s *Session) *expiredState {
	if st == nil || st.expired.Load() == nil {
		return nil
	}
	hash := sha256.Sum256([]byte(s.RefreshToken))
	for e := st.expired.Load(); e != nil; e = e.earlier {
		if e.refreshToken == hash {
			return e
		}
	}
	return nil
}

// expiredError returns why the refresh token of s is over, nil if it is not.
// rejected says that the API refuses the access token as well.
func (st *keyState) expiredError(s *Session) (err error, rejected bool) {
	e := st.expiredState(s)
	if e == nil || !e.confirmed {
		return nil, false
	}
	return e.err, e.rejected && e.accessToken == sha256.Sum256([]byte(s.AccessToken))
}

// fail notes the error of a refresh or save. m.mu is held.
func (st *keyState) fail(err error, now time.Time) { st.lastError, st.failedAt = err, now }

// sweepIfDue drops what has no more effect, once in a while. Requests call it
// with the local time; it costs one atomic read.
func (m *keyStates) sweepIfDue(now time.Time) {
	if now.UnixNano() < m.sweepAt.Load() || !m.mu.TryLock() {
		return
	}
	defer m.mu.Unlock()
	m.sweep(now)
	m.sweepLen = 2 * m.size
}

// sweep is called with m.mu held.
func (m *keyStates) sweep(now time.Time) {
	m.sweepAt.Store(now.Add(sweepInterval).UnixNano())
	expired := 0
	m.byKey.Range(func(key, v any) bool {
		st := v.(*keyState)
		recent := m.epoch.Load()-st.used.Load() <= 1
		if !recent {
			st.current.Store(nil)
			st.refreshed.Store(nil)
		}
		if st.expired.Load() != nil {
			expired++
		}
		if st.idle(now) && !recent && (st.expired.Load() == nil || expired > rememberedExpired) {
			m.byKey.Delete(key)
			m.size--
		}
		return true
	})
}

// idle drops what has no more effect of st, and reports whether anything but an
// end is left.
func (st *keyState) idle(now time.Time) bool {
	cooledDown := now.After(st.cooldown.Until().Add(policy.CooldownMemory))
	if now.Sub(st.failedAt) > lastErrorMemory && cooledDown && st.pending.Load() == nil {
		st.cooldown, st.lastError = policy.Cooldown{}, nil
	}
	return len(st.calls) == 0 && st.pending.Load() == nil &&
		cooledDown && now.After(st.lockRetryAt) && st.rejections.Over(now)
}
