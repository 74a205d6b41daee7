package walletauth

import (
	"context"
	"errors"
	"time"

	"github.com/walletauth/walletauth/internal/policy"
)

// Status is what is known of a session, as [Transport.Status] returns it.
type Status struct {
	Session   *Session  // nil if there is none; it holds the tokens, and printing it is safe
	Over      error     // wraps ErrSessionExpired once the session has ended
	Unsaved   bool      // the store has not taken the session yet
	LastError error     // of the last refresh or save, nil since the last success
	RetryAt   time.Time // when a refresh may be tried again, by Clock; zero: now
}

// Status returns what is known of the session of ctx, without network and without
// a refresh: a pure look at the store and at what t remembers. The key comes from
// Key, called with a GET request for BaseURL that carries ctx. A missing session
// is not an error. The Session is the caller's own copy.
//
// The errors: a field of t is wrong; t was shut down; a [StoreError] if the store
// cannot be read and no valid session is remembered, beside which the Status says
// what it can.
func (t *Transport) Status(ctx context.Context) (Status, error) {
	key, err := t.keyOf(ctx)
	if err != nil {
		return Status{}, err
	}
	c, err := t.sessions.load(ctx, key)
	status := t.sessions.status(key, c)
	if errors.Is(err, ErrNoSession) {
		err = nil
	}
	return status, err
}

func (m *sessions) status(key string, c *credentials) (s Status) {
	now := m.clock.Now()
	m.states.peek(key, func(st *keyState) {
		s.Unsaved = st.pending.Load() != nil
		s.LastError = st.lastError
		if c != nil {
			s.Over, _ = st.expiredError(c.session)
			if st.cooldown.Active(c.session.RefreshToken, now) != nil {
				s.RetryAt = st.cooldown.Until()
			}
		}
	})
	if c == nil {
		return s
	}
	own := *c.session
	s.Session = &own
	if at := m.refreshes.throttle.RetryAt(policy.Hash(own.RefreshToken, 0)); at.After(s.RetryAt) {
		s.RetryAt = at
	}
	return s
}
