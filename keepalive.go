package walletauth

import (
	"context"
	"errors"
	"time"
)

// maxNap bounds how long KeepAlive trusts what it knows: a session may be
// replaced in the store, and a laptop may sleep, which timers do not see.
const maxNap = 30 * time.Second

func (k *keeper) keepAlive(ctx context.Context, key string) error {
	for {
		nap, err := k.keepFresh(ctx, key)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, ErrNoSession), errors.Is(err, ErrSessionExpired), errors.Is(err, errShutdown):
			return err
		}
		select {
		case <-k.clock.After(nap):
		case <-k.work.closing:
			return errShutdown
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// keepFresh refreshes the session of key if it is due, and returns for how long
// to let it be.
func (k *keeper) keepFresh(ctx context.Context, key string) (nap time.Duration, err error) {
	s, err := k.load(ctx, key)
	if err != nil {
		return time.Second, err
	}
	if k.dueIn(s) <= 0 {
		if s, err = k.refresh(ctx, key, s, Expiring); err != nil {
			_, left := k.cooling.active(key)
			return max(time.Second, left), err
		}
	}
	return min(max(k.dueIn(s), 100*time.Millisecond), maxNap), nil
}

// dueIn is how long s stays fresh, by the server's clock.
func (k *keeper) dueIn(s *Session) time.Duration {
	now := k.server.now()
	return k.policy(s, now).dueIn(s.AccessTokenExpiresAt, now)
}
