package walletauth

import "time"

// Clock tells the time. The clocks of github.com/benbjohnson/clock,
// github.com/jonboulle/clockwork and k8s.io/utils/clock are Clocks as they
// are. It must be safe for concurrent use.
type Clock interface {
	// Now returns the time, as time.Now does.
	Now() time.Time
	// After returns a channel that gets the time after d, as time.After does.
	After(d time.Duration) <-chan time.Time
}
