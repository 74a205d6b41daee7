package walletauth

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"time"
)

// Clock is where a [Transport] reads the time and waits for it. The Clock and
// the *Mock of github.com/benbjohnson/clock are Clocks as they are, and so are
// the clocks of github.com/jonboulle/clockwork and k8s.io/utils/clock.
//
// Implementations must be safe for concurrent use.
type Clock interface {
	// Now returns the time, as time.Now does.
	Now() time.Time
	// After returns a channel that gets the time once d has passed, as
	// time.After does. Nobody may be there to receive it.
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

// withTimeout is context.WithTimeout by clock. When the time is up, the
// context's Cause is context.DeadlineExceeded; its Err is context.Canceled.
func withTimeout(ctx context.Context, clock Clock, d time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	cancelAfter(ctx, clock, d, cancel, nil)
	return ctx, func() { cancel(nil) }
}

// cancelAfter cancels ctx after d unless stop is closed or ctx ends before.
func cancelAfter(ctx context.Context, clock Clock, d time.Duration, cancel context.CancelCauseFunc, stop <-chan struct{}) {
	due := clock.After(d) // here, so that the time counts from the call
	go func() {
		select {
		case <-due:
			cancel(context.DeadlineExceeded)
		case <-stop:
		case <-ctx.Done():
		}
	}()
}

func timedOut(ctx context.Context) bool {
	return errors.Is(context.Cause(ctx), context.DeadlineExceeded)
}

// serverClock is the server's time as far as it is known. A session says when
// it expires by that clock, and a client's own may be wrong by hours.
type serverClock struct {
	clock Clock
	ahead atomic.Int64 // nanoseconds by which the server is ahead of clock
}

// now is the server's time. Round drops the monotonic reading, which stands
// still while a laptop sleeps, so that times are compared by the wall clock.
func (c *serverClock) now() time.Time { return c.at(c.local()) }

// at is the server's time when the local clock says local.
func (c *serverClock) at(local time.Time) time.Time {
	return local.Add(time.Duration(c.ahead.Load()))
}

func (c *serverClock) local() time.Time { return c.clock.Now().Round(0) }

// atLeast is the time that it is by both clocks. What cannot be undone goes by
// it, to call a session over or to throw away one that was just paid for:
// either clock may be wrong, and so may a single Date that a proxy or a captive
// portal wrote.
func (c *serverClock) atLeast() time.Time {
	local := c.local()
	if server := c.at(local); server.Before(local) {
		return server
	}
	return local
}

// learn takes in the Date field of a response to a request that left at sent,
// by the local clock. Two goroutines that learn at once both have it right, so
// the last may win.
func (c *serverClock) learn(h http.Header, sent time.Time) {
	date, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		return // a missing or malformed Date teaches nothing
	}
	before := time.Duration(c.ahead.Load())
	c.ahead.Store(int64(estimateSkew(before, date, sent, c.local())))
}

// estimateSkew returns by how much a server is ahead that wrote date between
// sent and received. Date has whole seconds and the journey takes its time, so
// what is known is an interval; the estimate moves only as far as it must to
// lie inside. Moving to the middle instead would make a right clock wrong by
// half a second.
func estimateSkew(before time.Duration, date, sent, received time.Time) time.Duration {
	least := date.Sub(received)
	most := date.Add(time.Second).Sub(sent)
	if most < least {
		return before // the local clock was set back meanwhile
	}
	return min(max(before, least), most)
}
