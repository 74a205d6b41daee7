package load_test

import (
	"sync"
	"time"

	"github.com/walletauth/walletauth"
)

// ledger is when one session was used, as far as that says how often it must
// and how often it can have been refreshed.
type ledger struct {
	mu         sync.Mutex // guards what follows
	requests   int
	needed     int       // refreshes without which the requests could not have been served
	possible   int       // refreshes at most, if requests do not overlap
	validUntil time.Time // the last token ends at the latest
	issued     time.Time // the last token was at the earliest
	began      time.Time // the first token was at the earliest
	ended      time.Time // the last request
}

// aged is the age at which a token may be refreshed, less what rounding takes: the
// early window is a fifth of its lifetime.
func aged() time.Duration { return ttl*4/5 - 10*time.Millisecond }

func newLedger(s *walletauth.Session) *ledger {
	issued := s.AccessTokenExpiresAt.Add(-ttl)
	return &ledger{validUntil: s.AccessTokenExpiresAt, issued: issued, began: issued, ended: issued}
}

// note takes in a request that was served.
func (l *ledger) note(start, end time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.requests++
	if start.After(l.validUntil) { // no token from before could serve it
		l.needed++
		l.validUntil = end.Add(ttl)
	}
	l.allow(start, end)
}

// noteFailed takes in a request that was not served, and that may have been
// refreshed for all the same.
func (l *ledger) noteFailed(start, end time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.allow(start, end)
}

// allow counts the refreshes that there may have been. l.mu is held.
func (l *ledger) allow(start, end time.Time) {
	l.ended = end
	for end.Sub(l.issued) >= aged() {
		l.possible++
		l.issued = later(start, l.issued.Add(aged()))
	}
}

// mostOverall bounds the refreshes of a session by nothing but its time in use.
func (l *ledger) mostOverall() int { return 1 + int(l.ended.Sub(l.began)/aged()) }

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
