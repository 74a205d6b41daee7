package walletauth

import (
	"context"
	"time"
)

// Clock tells the time and waits for it. The Clock and the *Mock of
// github.com/benbjohnson/clock are Clocks as they are, and so are the clocks of
// github.com/jonboulle/clockwork and k8s.io/utils/clock.
//
// Implementations must be safe for concurrent use.
type Clock interface {
	// Now returns the time, as time.Now does.
	Now() time.Time
	// After returns a channel that gets the time once d has passed, as
	// time.After does. There may be no receiver.
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
