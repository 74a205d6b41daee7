package walletauth

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// unsavedSession is a change of a session that the store has not taken yet.
type unsavedSession struct {
	session  *Session                    // nil: a logout
	outdated func(current *Session) bool // whether session may replace what is stored
}

// settle returns what the store is to hold, given what it holds now: the
// change, unless somebody has stored something else since. A login or logout
// that came in between stays.
func (u *unsavedSession) settle(current *Session) *Session {
	if u.outdated(current) {
		return u.session
	}
	return current
}

// oneOf is the outdated of a refresh: what it traded in, and what had been
// traded in before that and never stored.
func oneOf(sessions ...*Session) func(*Session) bool {
	return func(current *Session) bool {
		return slices.ContainsFunc(sessions, func(s *Session) bool { return sameTokens(s, current) })
	}
}

// succeeded is the change to next, for which newest was traded in: what is
// stored, or what u could not store. u may be nil.
func (u *unsavedSession) succeeded(next, newest *Session) *unsavedSession {
	outdated := oneOf(newest)
	if u != nil {
		outdated = func(current *Session) bool { return sameTokens(current, newest) || u.outdated(current) }
	}
	return &unsavedSession{session: next, outdated: outdated}
}

// instead returns what a Load that gave s and err should have given.
func (u *unsavedSession) instead(s *Session, err error) (*Session, error) {
	if err == nil || errors.Is(err, ErrNoSession) {
		s = u.settle(s)
	} else {
		s = u.session
	}
	if s == nil {
		return nil, ErrNoSession
	}
	return s, nil
}

// unsaved holds the changes that wait to be stored, at most one per key.
type unsaved struct {
	count atomic.Int64 // so that requests need no lock while there are none
	mu    sync.Mutex   // guards byKey
	byKey map[string]*unsavedSession
}

func (n *unsaved) of(key string) *unsavedSession {
	if n.count.Load() == 0 {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.byKey[key]
}

// put sets the change of key and reports whether there was none. A login or
// logout that has come while a refresh ran is left: it replaces what that brought.
func (n *unsaved) put(key string, u *unsavedSession) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.byKey == nil {
		n.byKey = make(map[string]*unsavedSession)
	}
	if later := n.byKey[key]; later != nil && later.outdated(u.session) {
		return false
	}
	before := len(n.byKey)
	n.byKey[key] = u
	n.count.Store(int64(len(n.byKey)))
	return len(n.byKey) > before
}

// drop removes u if it is still the change of key.
func (n *unsaved) drop(key string, u *unsavedSession) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.byKey[key] != u {
		return false
	}
	delete(n.byKey, key)
	n.count.Store(int64(len(n.byKey)))
	if len(n.byKey) == 0 {
		n.byKey = nil // it would keep its size after an outage
	}
	return true
}

func (n *unsaved) keys() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	keys := make([]string, 0, len(n.byKey))
	for key := range n.byKey {
		keys = append(keys, key)
	}
	return keys
}

// saveLater keeps u in memory, where requests find it, until it is stored.
func (k *keeper) saveLater(ctx context.Context, key string, u *unsavedSession) {
	if first := k.unsaved.put(key, u); first && k.work.begin() {
		go k.keepSaving(ctx, key)
	} // else somebody is at it; Shutdown itself from then on
}

// keepSaving tries to store what is unsaved of key, waiting 100 ms doubling to
// 10 s in between, until nothing is or Shutdown takes over.
func (k *keeper) keepSaving(ctx context.Context, key string) {
	defer k.work.end()
	for failures := 1; k.unsaved.of(key) != nil; failures++ {
		select {
		case <-k.clock.After(backoff(failures, 100*time.Millisecond, 10*time.Second)):
			_ = k.save(ctx, key) // the next round says whether it worked
		case <-k.work.closing:
			return
		}
	}
}

// save tries once to store what is unsaved of key.
func (k *keeper) save(ctx context.Context, key string) error {
	u := k.unsaved.of(key)
	if u == nil {
		return nil
	}
	var stored bool
	err := k.change(ctx, key, func(current *Session) *Session {
		next := u.settle(current)
		stored = sameTokens(next, u.session)
		return next
	})
	if err != nil {
		return scrub(err, u.session)
	}
	if k.unsaved.drop(key, u) && stored {
		_ = k.emit(ctx, eventOf(SavedLater, key, u.session, nil)) // its panic is nobody's error here
	}
	return nil
}

// change changes the session of key by a function that cannot fail and takes
// no time.
func (k *keeper) change(ctx context.Context, key string, to func(current *Session) *Session) error {
	ctx, cancel := withTimeout(ctx, k.clock, k.timeout)
	defer cancel()
	var before *Session
	err := guarded("TokenStore.Update", func() error {
		return k.store.Update(ctx, key, func(_ context.Context, current *Session) (*Session, error) {
			before = current
			return to(current), nil
		})
	})
	return scrub(tookTooLong(ctx, err), before)
}

// tookTooLong says of the error of an Update under ctx that the time was up, if it
// was. The store only saw that ctx was canceled, which to a caller would mean
// that it had left itself.
func tookTooLong(ctx context.Context, err error) error {
	if err == nil || !timedOut(ctx) {
		return err
	}
	if errors.Is(err, context.Canceled) {
		err = context.DeadlineExceeded
	}
	return fmt.Errorf("the store took too long: %w", err)
}
