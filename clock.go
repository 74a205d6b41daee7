package walletauth

import (
	"context"
	"time"
)

// Clock tells the time. The clocks of github.com/benbjohnson/clock,
// github.com/jonboulle/clockwork and k8s.io/utils/clock are Clocks as they
// are. It must be safe for concurrent use.
type Clock interface {
	// Now returns the time, as time.Now does.
	Now() time.Time
	// After returns a channel that gets the time after d, as time.After does.
	After(d time.Duration) <-chan time.Time
}

// sleep waits for d, or until ctx ends, and reports whether it waited in full.
func sleep(ctx context.Context, clock Clock, d time.Duration) bool {
	select {
	case <-clock.After(d):
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
