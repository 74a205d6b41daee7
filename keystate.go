package walletauth

import (
	"errors"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/walletauth/walletauth/internal/api"
	"github.com/walletauth/walletauth/internal/keymap"
	"github.com/walletauth/walletauth/internal/policy"
	"github.com/walletauth/walletauth/internal/serverclock"
)

// keyState is all that a Transport remembers of one key.
type keyState struct {
	// Read by every request, so they need no lock to read. Written under the lock of
	// keyStates.
	current    atomic.Pointer[credentials]  // what requests were last sent with, nil if unknown
	refreshed  atomic.Pointer[credentials]  // what a refresh of this process last brought
	end        atomic.Pointer[policy.End]   // nil while no session of the key is known to be over
	pending    atomic.Pointer[pendingWrite] // what the store has not taken yet
	generation atomic.Uint64                // raised by every login, logout and adoption

	// Guarded by the lock of keyStates.
	calls       map[string]*call    // refreshes in progress, by stale access token
	group       *singleflight.Group // of the calls; nil if there are none
	cooldown    policy.Cooldown
	lockRetryAt time.Time // the store gave no exclusion: no background refresh before
	rejections  policy.Rejections
	lastError   error     // of the last refresh or save
	failedAt    time.Time // when it happened
	flushing    bool      // what is pending is being stored in the background
}

const (
	rememberedSessions = 1 << 10 // at least this many of the sessions last used are remembered
	rememberedEnds     = 1 << 16 // at most this many keys whose session is over
	lastErrorMemory    = time.Hour
)

// keyStates is what is remembered of all keys. The sessions used last are
// remembered for an outage of the store, at most four times rememberedSessions of
// them. All other memory ends by itself: a sweep drops what has no more effect.
type keyStates struct {
	keymap.Map[keyState]

	changes atomic.Uint64 // the highest generation so far, of any key
}

func newKeyStates(clock Clock) *keyStates {
	m := &keyStates{}
	m.Now, m.Recent, m.Sweep = clock.Now, rememberedSessions, sweepStates
	m.Init = func(st *keyState) { st.generation.Store(m.changes.Load()) }
	return m
}

// sweepStates returns what one sweep does with each state.
func sweepStates(now time.Time) func(st *keyState, recent bool) (drop bool) {
	ends := 0
	return func(st *keyState, recent bool) bool {
		if !recent {
			st.current.Store(nil)
			st.refreshed.Store(nil)
		}
		if st.end.Load() != nil {
			ends++
		}
		return st.idle(now) && (st.end.Load() == nil || ends > rememberedEnds)
	}
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

// with runs fn with the state of key, a new one if there is none, under the lock.
func (m *keyStates) with(key string, fn func(st *keyState)) {
	m.Lock()
	defer m.Unlock()
	fn(m.State(key))
}

// peek runs fn with the state of key if there is one, under the lock.
func (m *keyStates) peek(key string, fn func(st *keyState)) {
	m.Lock()
	defer m.Unlock()
	if st := m.Peek(key); st != nil {
		fn(st)
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
// earlier one is not remembered any more. The lock is held.
func (m *keyStates) raise(st *keyState) { st.generation.Store(m.changes.Add(1)) }

// remember keeps c as what requests of key are sent with, unless the key has
// changed since generation. A session in place of another is a change itself. It
// reports whether c is what requests are sent with now.
func (m *keyStates) remember(key string, generation uint64, c *credentials) bool {
	m.Lock()
	defer m.Unlock()
	st := m.Use(key)
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
	m.Lock()
	defer m.Unlock()
	st := m.Peek(key)
	if st == nil {
		m.changes.Add(1) // a Load that runs must not bring the session back either
	} else if st.generation.Load() <= generation {
		m.raise(st)
		st.current.Store(nil)
	}
}

// credentialsOf returns the credentials of s, the remembered ones if there are.
func (m *keyStates) credentialsOf(key string, s *Session, project string) (*credentials, error) {
	if st := m.Lookup(key); st != nil {
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
	m.with(key, func(st *keyState) { st.end.Store(st.end.Load().Refused(s.RefreshToken, s.AccessToken, err)) })
}

// refusedError returns why the server calls s over, nil if it has not.
func (m *keyStates) refusedError(key string, s *Session) error { return m.Lookup(key).endOf(s).Err() }

// setExpired notes that s is over, and whether the API refuses its access token
// too. It reports whether that was news.
func (m *keyStates) setExpired(key string, s *Session, rejected bool, err error) (first bool) {
	m.with(key, func(st *keyState) {
		if first = !st.endOf(s).IsConfirmed(); first {
			st.end.Store(st.end.Load().Confirmed(s.RefreshToken, s.AccessToken, rejected, err))
		}
	})
	return first
}

// rejectExpired notes that the API refuses the access token of s too, if s is
// over, and returns why it is.
func (m *keyStates) rejectExpired(key string, s *Session) (err error) {
	m.peek(key, func(st *keyState) {
		if err, _ = st.expiredError(s); err != nil {
			st.end.Store(st.end.Load().Confirmed(s.RefreshToken, s.AccessToken, true, err))
		}
	})
	return err
}

// endOf is what is known of the end of s, nil if nothing is.
func (st *keyState) endOf(s *Session) *policy.End {
	if st == nil {
		return nil
	}
	return st.end.Load().Find(s.RefreshToken)
}

// expiredError returns why the refresh token of s is over, nil if it is not.
// rejected says that the API refuses the access token as well.
func (st *keyState) expiredError(s *Session) (err error, rejected bool) {
	e := st.endOf(s)
	if !e.IsConfirmed() {
		return nil, false
	}
	return e.Err(), e.Rejects(s.AccessToken)
}

// fail notes the error of a refresh or save. The lock is held.
func (st *keyState) fail(err error, now time.Time) { st.lastError, st.failedAt = err, now }

// credentials are a session as header values, and what this process knows of its
// age. They are immutable and shared, so that a request with a session that was
// used before costs no string.
type credentials struct {
	session       *Session
	token         string // the session's when this was made
	auth, project [1]string

	sinceCreated time.Duration // from its creation to its expiry, as the session says

	issued  time.Time     // by the local clock; zero unless a refresh of this process brought the session
	trusted time.Duration // for how long after issued its age alone makes it due only if both clocks agree
	expiry  time.Time     // by the local clock; zero unless the session's own is of no use
}

// newCredentials returns the credentials of s. project is Transport.ProjectID.
// The errors are that the token or the project cannot be sent in a header.
func newCredentials(s *Session, project string) (*credentials, error) {
	c := &credentials{session: s, token: s.AccessToken, sinceCreated: s.AccessTokenExpiresAt.Sub(s.CreatedAt)}
	c.auth[0] = "Bearer " + s.AccessToken
	if c.project[0] = project; project == "" {
		c.project[0] = s.ProjectID
	}
	switch {
	case s.AccessToken == "" || !api.ValidHeaderValue(s.AccessToken):
		return nil, errors.New("walletauth: the stored session's access token cannot be sent in a header: log in again")
	case c.project[0] == "" || !api.ValidHeaderValue(c.project[0]):
		return nil, errors.New("walletauth: no project that can be sent in a header: set Transport.ProjectID")
	}
	return c, nil
}

// is reports whether c is the session s. It compares what would be sent and
// when that expires: a store may return the same session at another address
// each time, or, though it should not, another one at the same address.
func (c *credentials) is(s *Session) bool {
	if c == nil || c.token != s.AccessToken {
		return false
	}
	return c.session == s || c.session.RefreshToken == s.RefreshToken &&
		c.session.ProjectID == s.ProjectID && c.session.AccessTokenExpiresAt.Equal(s.AccessTokenExpiresAt)
}

// left is how long the access token is taken to live from the local time on.
func (c *credentials) left(local time.Time, server *serverclock.Clock) time.Duration {
	if !c.expiry.IsZero() {
		return c.expiry.Sub(local)
	}
	left := c.session.AccessTokenExpiresAt.Sub(server.At(local))
	if !c.issued.IsZero() && local.Sub(c.issued) < c.trusted {
		left = max(left, c.session.AccessTokenExpiresAt.Sub(local))
	}
	return left
}
