package walletauth

import (
	"context"
	"errors"
	"time"

	"github.com/walletauth/walletauth/internal/policy"
)

// maxKeepAliveInterval bounds how long KeepAlive trusts what it knows: a session
// may be replaced in the store, and a laptop may sleep, which timers do not see.
const maxKeepAliveInterval = 30 * time.Second

func (m *sessions) keepAlive(ctx context.Context, key string) error {
	for {
		interval, err := m.keepFresh(ctx, key)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, ErrNoSession), errors.Is(err, ErrSessionExpired), errors.Is(err, errShutdown):
			return err
		}
		select {
		case <-m.clock.After(interval):
		case <-m.work.Closing():
			return errShutdown
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// keepFresh refreshes the session of key if it is due, and returns for how long
// to leave it.
func (m *sessions) keepFresh(ctx context.Context, key string) (interval time.Duration, err error) {
	c, err := m.load(ctx, key)
	if err != nil {
		return policy.Jitter(time.Second, time.Second/5, key, m.refreshes.process, 0), err
	}
	if err, _ := m.states.Lookup(key).expiredError(c.session); err != nil {
		return 0, err
	}
	if m.dueIn(c) <= 0 {
		if c, err = m.refresh(ctx, key, c.session, Expiring); err != nil {
			return policy.Jitter(time.Second, time.Second/5, key, m.refreshes.process, 0), err
		}
	}
	most := policy.Jitter(maxKeepAliveInterval, -maxKeepAliveInterval/5, key, m.refreshes.process, 0)
	return min(max(m.dueIn(c), 100*time.Millisecond), most), nil
}

// dueIn is how long c stays fresh.
func (m *sessions) dueIn(c *credentials) time.Duration {
	left := c.left(m.server.LocalNow(), m.server)
	w := m.windows(c, left)
	return left - max(w.Due(policy.Spread(c.session.ID, c.session.AccessToken, m.refreshes.process)), w.Late())
}
