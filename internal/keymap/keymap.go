// Package keymap is a map by key for what a process remembers of its users. A
// lookup takes no lock. The keys used last are kept, and a sweep drops all others
// once they have no more effect, so that the map does not grow with the number of
// users seen.
package keymap

import (
	"sync"
	"sync/atomic"
	"time"
)

// SweepInterval is the least time between two sweeps.
const SweepInterval = time.Minute

// Map is a map from keys to states. Its exported fields are required and must not
// be changed after first use. It is safe for concurrent use and must not be
// copied. What of a state is not atomic is guarded by Lock.
type Map[S any] struct {
	Now    func() time.Time
	Recent int      // at least this many of the keys used last are recent, and at most twice as many
	Init   func(*S) // is called with each new state, under the lock

	// Sweep is called at the beginning of a sweep, with its time, and what it returns
	// for each state, all under the lock. drop says that the state has no more effect.
	// Recent states are kept all the same.
	Sweep func(now time.Time) func(st *S, recent bool) (drop bool)

	byKey   sync.Map      // key to *entry[S]; written under mu, read without
	epoch   atomic.Uint32 // advances with every Recent keys used
	sweepAt atomic.Int64  // nanoseconds

	mu       sync.Mutex // guards what follows, and the states
	size     int
	marked   int // keys used in this epoch
	sweepLen int // the size from which the next new key sweeps
}

type entry[S any] struct {
	used  atomic.Uint32 // the epoch of the last use
	state S
}

// Lock locks all states.
func (m *Map[S]) Lock() { m.mu.Lock() }

// Unlock is the opposite of Lock.
func (m *Map[S]) Unlock() { m.mu.Unlock() }

// Lookup returns the state of key, nil if there is none. It counts as a use.
func (m *Map[S]) Lookup(key string) *S {
	e := m.entry(key)
	if e == nil {
		return nil
	}
	if e.used.Load() != m.epoch.Load() {
		m.Lock()
		defer m.Unlock()
		m.mark(e)
	}
	return &e.state
}

func (m *Map[S]) entry(key string) *entry[S] {
	v, _ := m.byKey.Load(key)
	e, _ := v.(*entry[S])
	return e
}

// mark notes that e is in use. A full epoch ends: what was used neither in the
// last nor in the present one is not among the keys used last.
func (m *Map[S]) mark(e *entry[S]) {
	if e.used.Load() == m.epoch.Load() {
		return
	}
	if m.marked++; m.marked > m.Recent {
		m.epoch.Add(1)
		m.marked = 1
	}
	e.used.Store(m.epoch.Load())
}

// Peek returns the state of key, nil if there is none. It does not count as a use.
func (m *Map[S]) Peek(key string) *S {
	if e := m.entry(key); e != nil {
		return &e.state
	}
	return nil
}

// State returns the state of key, a new one if there is none. It does not count
// as a use. The lock must be held.
func (m *Map[S]) State(key string) *S { return &m.entryOrNew(key).state }

// Use is State, and counts as a use.
func (m *Map[S]) Use(key string) *S {
	e := m.entryOrNew(key)
	m.mark(e)
	return &e.state
}

func (m *Map[S]) entryOrNew(key string) *entry[S] {
	if e := m.entry(key); e != nil {
		return e
	}
	if m.size >= max(m.sweepLen, 3*m.Recent) {
		m.sweep(m.Now())
	}
	e := &entry[S]{}
	e.used.Store(m.epoch.Load() - 2) // not used yet: Lookup marks it
	m.Init(&e.state)
	m.byKey.Store(key, e)
	m.size++
	return e
}

// All calls fn with each key and its state.
func (m *Map[S]) All(fn func(key string, st *S)) {
	m.byKey.Range(func(key, v any) bool {
		fn(key.(string), &v.(*entry[S]).state)
		return true
	})
}

// SweepIfDue drops what has no more effect, once in a while. It costs one atomic
// read, and waits for nobody.
func (m *Map[S]) SweepIfDue(now time.Time) {
	if now.UnixNano() >= m.sweepAt.Load() && m.mu.TryLock() {
		defer m.Unlock()
		m.sweep(now)
	}
}

func (m *Map[S]) sweep(now time.Time) {
	m.sweepAt.Store(now.Add(SweepInterval).UnixNano())
	drop := m.Sweep(now)
	m.byKey.Range(func(key, v any) bool {
		e := v.(*entry[S])
		recent := m.epoch.Load()-e.used.Load() <= 1
		if drop(&e.state, recent) && !recent {
			m.byKey.Delete(key)
			m.size--
		}
		return true
	})
	m.sweepLen = 2 * m.size
}
