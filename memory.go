package walletauth

import (
	"crypto/sha256"
	"sync"
	"time"
)

// pauses remembers, per key, until when something that failed is not to be
// tried again, and how often it failed in a row, so that each pause can be
// longer than the last. The detail of a failure tells one from another: the
// same detail again does not count again before its pause has ended.
type pauses[T comparable] struct {
	clock  Clock
	memory time.Duration // for how long after its end a pause still counts

	mu      sync.Mutex // guards what follows
	byKey   map[string]pause[T]
	sweepAt int // the size at which what no longer counts is dropped
}

type pause[T comparable] struct {
	failures int
	length   time.Duration
	until    time.Time
	detail   T
}

// ended reports whether there was a pause and it is over.
func (p pause[T]) ended(now time.Time) bool { return p.length > 0 && !now.Before(p.until) }

// fail begins a pause for key; length says how long the pause after the n-th
// failure in a row is.
func (p *pauses[T]) fail(key string, detail T, length func(n int) time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clock.Now()
	last, known := p.byKey[key]
	switch {
	case known && last.detail == detail && !last.ended(now):
		return
	case known && now.After(last.until.Add(p.memory)):
		last.failures = 0
	case !known:
		p.sweep(now)
	}
	n := last.failures + 1
	d := length(n)
	p.byKey[key] = pause[T]{failures: n, length: d, until: now.Add(d), detail: detail}
}

// sweep makes room. It runs when the map has doubled since the last time, so
// that the cost per failure stays constant.
func (p *pauses[T]) sweep(now time.Time) {
	if p.byKey == nil {
		p.byKey = make(map[string]pause[T])
	}
	if len(p.byKey) < p.sweepAt {
		return
	}
	for key, old := range p.byKey {
		if now.After(old.until.Add(p.memory)) {
			delete(p.byKey, key)
		}
	}
	p.sweepAt = max(64, 2*len(p.byKey))
}

// active returns the detail of the failure that key pauses for, and for how
// much longer.
func (p *pauses[T]) active(key string) (detail T, left time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	last, known := p.byKey[key]
	if !known {
		return detail, 0
	}
	return last.detail, max(0, last.until.Sub(p.clock.Now()))
}

// clear ends what is remembered of key: it worked. The last one takes the map
// with it, which would keep its size after an outage.
func (p *pauses[T]) clear(key string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.byKey, key)
	if len(p.byKey) == 0 {
		p.byKey, p.sweepAt = nil, 0
	}
}

// maxEnded bounds the refresh tokens remembered as over. One that is forgotten
// is asked about once more.
const maxEnded = 1 << 16

// endings remembers which refresh tokens are over, and why, by their hash. It
// is not the store's business: another process may hold a newer one that it
// has yet to save, and deleting would lose it.
type endings struct {
	mu     sync.Mutex // guards causes
	causes map[[sha256.Size]byte]error
}

func (e *endings) add(s *Session, cause error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.causes == nil {
		e.causes = make(map[[sha256.Size]byte]error)
	}
	for hash := range e.causes { // any will do
		if len(e.causes) < maxEnded {
			break
		}
		delete(e.causes, hash)
	}
	e.causes[endingHash(s)] = cause
}

// cause returns why the session s is over, nil if it is not.
func (e *endings) cause(s *Session) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.causes) == 0 {
		return nil
	}
	return e.causes[endingHash(s)]
}

func endingHash(s *Session) [sha256.Size]byte { return sha256.Sum256([]byte(s.RefreshToken)) }
