// Package serverclock estimates a server's time from what the server sends, so
// that expiry times can be judged on a machine whose clock is wrong.
package serverclock

import (
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Clock estimates the server's time. Local is required. A Clock is safe for
// concurrent use and must not be copied.
type Clock struct {
	Local interface{ Now() time.Time }

	skew atomic.Int64 // nanoseconds by which the server is ahead; written under mu

	mu        sync.Mutex     // guards what follows
	dated     bool           // skew comes from a Date field
	candidate *time.Duration // the skew that the last refuted local clock suggests
}

// Now is the server's time as far as it is known.
func (c *Clock) Now() time.Time { return c.At(c.LocalNow()) }

// At is the server's time when the local clock says local.
func (c *Clock) At(local time.Time) time.Time {
	if skew := c.skew.Load(); skew != 0 { // which is rare, and every request asks
		return local.Add(time.Duration(skew))
	}
	return local
}

// LocalNow is the local wall clock. Round drops the monotonic reading, which
// stands still while a laptop sleeps.
func (c *Clock) LocalNow() time.Time { return c.Local.Now().Round(0) }

// ObserveDate learns from the Date field of a response to a request that left
// at sent, by the local clock. A response with an Age field came from a cache,
// and its Date says when it was stored (RFC 9111, section 4.2.3).
func (c *Clock) ObserveDate(h http.Header, sent time.Time) {
	date, err := http.ParseTime(h.Get("Date"))
	if err != nil || h.Get("Age") != "" {
		return
	}
	received := c.LocalNow()
	c.mu.Lock()
	defer c.mu.Unlock()
	before := time.Duration(c.skew.Load())
	c.skew.Store(int64(estimateSkew(before, date, sent, received)))
	c.dated, c.candidate = true, nil
}

// ObserveIssued learns from an access token that was received just now: it had
// not expired when it was issued. A Date that says it had is forgotten, and the
// local clock counts again. A local clock that says so is corrected once two
// tokens in a row suggest the same skew; a single one may merely have an odd
// expiry. lifetime is the best guess of how long tokens live.
//
// It reports whether the estimate now agrees that the token is valid. If not,
// the token's expiry is of no use.
func (c *Clock) ObserveIssued(expiry, received time.Time, lifetime time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case expiry.After(c.At(received)):
		c.candidate = nil
	case expiry.After(received):
		c.skew.Store(0)
		c.dated, c.candidate = false, nil
	case !c.dated:
		c.suggest(expiry.Add(-lifetime).Sub(received))
	}
	return expiry.After(c.At(received))
}

// suggest takes in the skew that one token suggests. c.mu is held.
func (c *Clock) suggest(skew time.Duration) {
	if last := c.candidate; last != nil && (skew-*last).Abs() <= time.Minute {
		c.skew.Store(int64(skew))
	}
	c.candidate = &skew
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
