package walletauth

import (
	"sync/atomic"
	"time"
)

// freshness is what is to be done about a session before a request uses it.
type freshness int

const (
	fresh   freshness = iota // use it
	early                    // use it, and refresh it behind the request
	late                     // wait for a refresh; use it if that fails
	expired                  // wait for a refresh
)

// policy says when a session is due, as a pure function of the times.
type policy struct {
	before   time.Duration // Transport.RefreshBefore
	lifetime time.Duration // of an access token, as far as it is known
	measured bool          // lifetime comes from a refresh of our own
}

// judge returns what to do about a token that expires at expiry.
func (p policy) judge(expiry, now time.Time) freshness {
	switch left := expiry.Sub(now); {
	case left <= 0:
		return expired
	case left <= p.lateWindow():
		return late
	case left <= p.earlyWindow():
		return early
	default:
		return fresh
	}
}

// dueIn is how long the token stays fresh.
func (p policy) dueIn(expiry, now time.Time) time.Duration {
	return expiry.Sub(now) - max(p.earlyWindow(), p.lateWindow())
}

// lateWindow is the time before expiry in which a request that takes a second
// or two to arrive would come too late.
func (p policy) lateWindow() time.Duration {
	return min(10*time.Second, p.lifetime/10)
}

// earlyWindow is the time before expiry in which a refresh runs behind the
// requests. A window that the user chose is cut to half of the lifetime, since
// with a longer one each refresh would call for the next. Only a measured
// lifetime may cut it: one that was merely seen in passing is too short.
func (p policy) earlyWindow() time.Duration {
	switch {
	case p.before < 0:
		return 0
	case p.before == 0:
		return min(p.lifetime/5, time.Minute)
	case p.measured:
		return min(p.before, p.lifetime/2)
	default:
		return p.before
	}
}

// lastCall is how long a request that waits in the late window may go on
// waiting: it leaves while a tenth of the window is left, so that its token
// arrives in time.
func (p policy) lastCall(expiry, now time.Time) time.Duration {
	return expiry.Sub(now) - p.lateWindow()/10
}

// lifetime is what is known of how long access tokens live. A refresh of our
// own measures it. A process that only adopts what others refreshed sees each
// session some time after it was made, and takes the longest time left that it
// saw: less would widen nothing, and a fixed guess would have it refresh too
// early whenever tokens live shorter than guessed.
type lifetime struct {
	measured atomic.Int64 // nanoseconds, 0 before the first own refresh
	seen     atomic.Int64 // nanoseconds, the longest time left of any session
}

// measure takes in a session that was made just now.
func (l *lifetime) measure(s *Session, now time.Time) {
	if left := s.AccessTokenExpiresAt.Sub(now); left > 0 {
		l.measured.Store(int64(left))
	}
}

// sight takes in a session of unknown age. The very first may be old, and its
// time since CreatedAt is the better guess if that can be a lifetime at all:
// the API does not say whether CreatedAt moves with a refresh. Between one and
// five minutes it probably did, and the windows depend on nothing above.
func (l *lifetime) sight(s *Session, now time.Time) {
	left := s.AccessTokenExpiresAt.Sub(now)
	for {
		seen := l.seen.Load()
		if seen == 0 {
			if whole := s.AccessTokenExpiresAt.Sub(s.CreatedAt); whole >= time.Minute && whole <= 5*time.Minute {
				left = max(left, whole)
			}
		}
		if int64(left) <= seen || l.seen.CompareAndSwap(seen, int64(left)) {
			return
		}
	}
}

func (l *lifetime) isMeasured() bool { return l.measured.Load() != 0 }

func (l *lifetime) policy(before time.Duration) policy {
	if d := l.measured.Load(); d != 0 {
		return policy{before: before, lifetime: time.Duration(d), measured: true}
	}
	return policy{before: before, lifetime: time.Duration(l.seen.Load())}
}
