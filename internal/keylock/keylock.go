// Package keylock is a mutex per key: who holds one key does not keep anybody
// from another, waiting ends with a context, and idle keys use no memory.
package keylock

import (
	"context"
	"sync"
)

// Mutex excludes the holders of one key from each other. The zero value is ready
// to use. It must not be copied after first use.
type Mutex struct {
	mu    sync.Mutex // guards locks and the users of each
	locks map[string]*lock
}

type lock struct {
	held  chan struct{} // full while held; a channel, so that waiting can end with a ctx
	users int           // those that hold it or wait for it
}

// Lock waits until the caller alone holds key. The only error is ctx.Err(), also
// if ctx had ended before and the key is free. The caller calls unlock once.
func (m *Mutex) Lock(ctx context.Context, key string) (unlock func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l := m.enter(key)
	select {
	case l.held <- struct{}{}:
		return func() { <-l.held; m.leave(key, l) }, nil
	case <-ctx.Done():
		m.leave(key, l)
		return nil, ctx.Err()
	}
}

func (m *Mutex) enter(key string) *lock {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.locks[key]
	if l == nil {
		l = &lock{held: make(chan struct{}, 1)}
		if m.locks == nil {
			m.locks = make(map[string]*lock)
		}
		m.locks[key] = l
	}
	l.users++
	return l
}

// leave forgets the lock with its last user. A lock that is forgotten is free:
// whoever holds it is a user.
func (m *Mutex) leave(key string, l *lock) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if l.users--; l.users == 0 {
		delete(m.locks, key)
	}
}
