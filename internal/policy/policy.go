// Package policy decides when an access token is due for a refresh, when a failed
// refresh may be tried again, and how many a 401 may cause, as pure functions of
// the times.
package policy

import (
	"sync/atomic"
	"time"
)

// Freshness is what is to be done about a session before a request uses it.
type Freshness int

const (
	Fresh   Freshness = iota // use it
	Early                    // use it, and refresh it in the background once it is due
	Late                     // wait for a refresh; use it if that fails
	Expired                  // wait for a refresh
)

// Windows says when a session is due, as a pure function of the times.
type Windows struct {
	Before   time.Duration // Transport.RefreshBefore
	Lifetime time.Duration // of an access token, as far as it is known
	Measured bool          // Lifetime comes from a refresh of our own
}

// State returns what to do about a token that has left to live. In the early
// window, due says whether the refresh begins already.
func (w Windows) State(left time.Duration) Freshness {
	switch {
	case left <= 0:
		return Expired
	case left <= w.Late():
		return Late
	case left <= w.Early():
		return Early
	default:
		return Fresh
	}
}

// Late is the time before expiry in which a request that takes a second or two
// to arrive would come too late.
func (w Windows) Late() time.Duration { return min(10*time.Second, w.Lifetime/10) }

// Due is how long before expiry the background refresh begins. spread, from 0 to
// 1, says where in the early window. Sessions that
// were issued together must not all refresh together, so the beginning is spread
// over the first three quarters of the early window; whoever asks in the last
// quarter finds it begun.
func (w Windows) Due(spread float64) time.Duration {
	window := w.Early()
	return window - time.Duration(spread*0.75*float64(window))
}

// Early is the time before expiry in which a refresh runs in the background. A
// window that the user chose is cut to half of the lifetime, since with a longer
// one each refresh would call for the next. Only a measured lifetime may cut it:
// one that was merely seen in passing is too short.
func (w Windows) Early() time.Duration {
	switch {
	case w.Before < 0:
		return 0
	case w.Before == 0:
		return min(w.Lifetime/5, time.Minute)
	case w.Measured:
		return min(w.Before, w.Lifetime/2)
	default:
		return w.Before
	}
}

// WaitAtMost is how long a request in the late window may wait for a refresh: it
// leaves while a tenth of the window is left, so that its token arrives in time.
// Zero or less means that only a new token will do.
func (w Windows) WaitAtMost(left time.Duration) time.Duration { return left - w.Late()/10 }

// Lifetimes is what is known of how long access tokens live. A refresh of our
// own measures it. A process that only adopts what others refreshed sees each
// session some time after it was issued, and takes the longest time left that it
// saw: a fixed guess would have it refresh too early whenever tokens live
// shorter than guessed.
type Lifetimes struct {
	measured atomic.Int64 // nanoseconds, 0 before the first own refresh
	seen     atomic.Int64 // nanoseconds, the longest time left of any session
}

// Windows returns the windows for RefreshBefore.
func (l *Lifetimes) Windows(before time.Duration) Windows {
	measured := l.measured.Load()
	return Windows{Before: before, Lifetime: l.Known(), Measured: measured != 0}
}

// Known is the best guess of a lifetime, 0 if there is none.
func (l *Lifetimes) Known() time.Duration {
	if d := l.measured.Load(); d != 0 {
		return time.Duration(d)
	}
	return time.Duration(l.seen.Load())
}

// Measure takes in a session that was issued just now.
func (l *Lifetimes) Measure(left time.Duration) {
	if left > 0 {
		l.measured.Store(int64(left))
	}
}

// Observe takes in a session of unknown age. The very first may be old, and the
// time from its creation to its expiry is the better guess if that can be a
// lifetime at all: the API does not say whether created_at moves with a refresh.
// Between one and five minutes it probably did, and the windows depend on nothing
// above.
func (l *Lifetimes) Observe(left, sinceCreated time.Duration) {
	if l.measured.Load() != 0 {
		return
	}
	for {
		seen := l.seen.Load()
		if seen == 0 && sinceCreated >= time.Minute && sinceCreated <= 5*time.Minute {
			left = max(left, sinceCreated)
		}
		if int64(left) <= seen || l.seen.CompareAndSwap(seen, int64(left)) {
			return
		}
	}
}

// Spread returns where in the early window a session refreshes, from 0 to 1, the
// same whenever it is asked. Nine tenths come from the session's id and are equal
// in all processes and cycles, so that sessions which are apart stay apart: drawn
// anew each time they would bunch up again within a few cycles. One tenth comes
// from the token and the process, so that processes which share a session do
// not all reach for it at once.
func Spread(id, accessToken string, process uint64) float64 {
	return 0.9*fraction(Hash(id, 0)) + 0.1*fraction(Hash(accessToken, process))
}

// Jitter returns d plus a part of by, which may be negative, the same for the same token and attempt.
func Jitter(d, by time.Duration, token string, process uint64, n int) time.Duration {
	return d + time.Duration(float64(by)*fraction(Hash(token, process+uint64(n))))
}

func fraction(h uint64) float64 { return float64(h>>11) / (1 << 53) }

// Hash is FNV-1a with a final mix, which FNV lacks: its high bits hardly depend
// on the last bytes. Package maphash differs from process to process, and a
// hash.Hash would cost an allocation.
func Hash(s string, seed uint64) uint64 {
	h := seed ^ 14695981039346656037
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// Backoff is first, doubled with every failure after the first, at most limit.
func Backoff(failures int, first, limit time.Duration) time.Duration {
	d := first
	for range failures - 1 {
		if d *= 2; d >= limit {
			return limit
		}
	}
	return d
}
