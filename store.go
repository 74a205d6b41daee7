package walletauth

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/walletauth/walletauth/internal/keylock"
)

// TokenStore is where sessions live, each under a key that names whose it
// is.
//
// Implementations must be safe for concurrent use. Test them with
// [github.com/walletauth/walletauth/walletauthtest.TestStore].
type TokenStore interface {
	// Load returns the session of key, or an error wrapping ErrNoSession if there is none. It is
	// called for every request, so it must be fast and not wait for an Update. Neither the store
	// nor the caller may change the Session afterwards.
	Load(ctx context.Context, key string) (*Session, error)

	// Update calls fn with the session of key, nil if there is none, and stores what fn returns:
	// the same pointer leaves the store as it is, nil deletes, and an error of fn is returned
	// and changes nothing. Deleting a missing session is not an error. While fn runs, no other
	// Update of that key runs, in this process or in any other that shares the store; those of
	// other keys do. fn may take long, since it does HTTP, and may be called again with another
	// session.
	//
	// The ctx of fn ends when exclusion is lost: fn must not begin anything then. What it
	// returns is still stored unless something newer was, because the server has rotated the
	// token.
	//
	// Its own errors are ctx's, and that the store cannot lock, read or write. After a failed
	// write either session may be stored.
	Update(ctx context.Context, key string, fn func(ctx context.Context, current *Session) (*Session, error)) error
}

// Replacer is an optional ability of a [TokenStore]. [Save] and [Delete] use
// it if Update fails with [ErrUnreadable].
type Replacer interface {
	// Replace stores s as the session of key (nil deletes) under the same exclusion as Update,
	// without reading what is there. Its errors are those of Update.
	Replace(ctx context.Context, key string, s *Session) error
}

// Save stores a copy of s as the session of key, after a login. A refresh of
// the key that is running is waited for, until ctx ends, so that it cannot
// overwrite s.
//
// The errors: s is nil or incomplete, or its access token cannot be sent in
// a header; st is nil; ctx's; or the store's. None holds a token.
func Save(ctx context.Context, st TokenStore, key string, s *Session) error {
	if err := s.check(); err != nil {
		return fmt.Errorf("walletauth: save session: %w", err)
	}
	own := *s // the caller may go on using s
	return replace(ctx, st, key, &own)
}

// Delete removes the session of key, if there is one. WalletKit is not told:
// see [Transport.Logout]. The errors are those of [Save] that do not concern
// s.
func Delete(ctx context.Context, st TokenStore, key string) error {
	return replace(ctx, st, key, nil)
}

func replace(ctx context.Context, st TokenStore, key string, s *Session) error {
	if st == nil {
		return errors.New("walletauth: the TokenStore is nil")
	}
	err := st.Update(ctx, key, func(context.Context, *Session) (*Session, error) { return s, nil })
	if r, ok := st.(Replacer); ok && errors.Is(err, ErrUnreadable) {
		err = r.Replace(ctx, key, s)
	}
	return storeError(ctx, "update", redactError(err, s))
}

// SaveIfAbsent stores a copy of s as the session of key unless there is one,
// and reports whether it did. It moves sessions in from elsewhere: of
// several processes that start at once, the first stores. The errors are
// those of [Save], and [ErrUnreadable] if there is a session that cannot be
// read.
func SaveIfAbsent(ctx context.Context, st TokenStore, key string, s *Session) (stored bool, err error) {
	if err := s.check(); err != nil {
		return false, fmt.Errorf("walletauth: save session: %w", err)
	}
	if st == nil {
		return false, errors.New("walletauth: the TokenStore is nil")
	}
	own := *s
	err = st.Update(ctx, key, func(_ context.Context, current *Session) (*Session, error) {
		if stored = current == nil || current == &own; !stored {
			return current, nil
		}
		return &own, nil
	})
	return stored && err == nil, storeError(ctx, "update", redactError(err, s))
}

// MemoryStore is a [TokenStore] in memory, for one process. Sessions stay
// until they are replaced or deleted. The zero value is ready to use. It is
// safe for concurrent use, and must not be copied after first use.
type MemoryStore struct {
	updates keylock.Mutex

	mu       sync.RWMutex // guards sessions
	sessions map[string]*Session
}

var (
	_ TokenStore = (*MemoryStore)(nil)
	_ Replacer   = (*MemoryStore)(nil)
)

// Load returns the session of key or [ErrNoSession]. It ignores ctx.
func (m *MemoryStore) Load(_ context.Context, key string) (*Session, error) {
	m.mu.RLock()
	s := m.sessions[key]
	m.mu.RUnlock()
	if s == nil {
		return nil, ErrNoSession
	}
	return s, nil
}

// Update is [TokenStore.Update]. Its errors are fn's and ctx's.
func (m *MemoryStore) Update(ctx context.Context, key string, fn func(context.Context, *Session) (*Session, error)) error {
	unlock, err := m.updates.Lock(ctx, key)
	if err != nil {
		return err
	}
	defer unlock()
	current, _ := m.Load(ctx, key)
	next, err := fn(ctx, current)
	if err != nil || next == current {
		return err
	}
	m.put(key, next)
	return nil
}

// Replace is [Replacer.Replace]. Its only error is ctx's.
func (m *MemoryStore) Replace(ctx context.Context, key string, s *Session) error {
	unlock, err := m.updates.Lock(ctx, key)
	if err != nil {
		return err
	}
	defer unlock()
	m.put(key, s)
	return nil
}

func (m *MemoryStore) put(key string, s *Session) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s == nil {
		delete(m.sessions, key)
		return
	}
	if m.sessions == nil {
		m.sessions = make(map[string]*Session)
	}
	m.sessions[key] = s
}

// FuncStore is a [TokenStore] over two functions, for one process: exclusion
// is kept in memory. Both are required and called concurrently. It is safe
// for concurrent use, and must not be copied after first use.
type FuncStore struct {
	// LoadFunc returns the session of key, or an error wrapping ErrNoSession. It is called for
	// every request, so it must be fast, and must not change a Session that it returned.
	LoadFunc func(ctx context.Context, key string) (*Session, error)
	// SaveFunc stores s as the session of key and must not change it; nil deletes.
	SaveFunc func(ctx context.Context, key string, s *Session) error

	updates keylock.Mutex
}

var (
	_ TokenStore = (*FuncStore)(nil)
	_ Replacer   = (*FuncStore)(nil)
)

// Load calls LoadFunc and returns its errors, or that it is nil.
func (f *FuncStore) Load(ctx context.Context, key string) (*Session, error) {
	if f.LoadFunc == nil {
		return nil, errors.New("walletauth: FuncStore.LoadFunc is nil")
	}
	return f.LoadFunc(ctx, key)
}

// Update is [TokenStore.Update]. It looks again before it saves, and leaves
// alone what the program has stored past it meanwhile. Its errors are fn's,
// ctx's, those of the two functions, and that one is nil.
func (f *FuncStore) Update(ctx context.Context, key string, fn func(context.Context, *Session) (*Session, error)) error {
	if f.SaveFunc == nil {
		return errors.New("walletauth: FuncStore.SaveFunc is nil")
	}
	unlock, err := f.updates.Lock(ctx, key)
	if err != nil {
		return err
	}
	defer unlock()
	current, err := f.loadOrNil(ctx, key)
	if err != nil {
		return err
	}
	next, err := fn(ctx, current)
	if ctx.Err() != nil { // what fn returns may have cost a refresh token, and is saved all the same
		ctx = context.WithoutCancel(ctx)
	}
	if err != nil || next == current || f.changed(ctx, key, current) {
		return err
	}
	return f.SaveFunc(ctx, key, next)
}

// Replace is [Replacer.Replace]. Its errors are ctx's and SaveFunc's, and
// that it is nil.
func (f *FuncStore) Replace(ctx context.Context, key string, s *Session) error {
	if f.SaveFunc == nil {
		return errors.New("walletauth: FuncStore.SaveFunc is nil")
	}
	unlock, err := f.updates.Lock(ctx, key)
	if err != nil {
		return err
	}
	defer unlock()
	return f.SaveFunc(ctx, key, s)
}

func (f *FuncStore) loadOrNil(ctx context.Context, key string) (*Session, error) {
	s, err := f.Load(ctx, key)
	if errors.Is(err, ErrNoSession) {
		return nil, nil
	}
	return s, err
}

// changed reports whether the program stored something else since current was
// loaded. If that cannot be told, it says no: a new token is at stake.
func (f *FuncStore) changed(ctx context.Context, key string, current *Session) bool {
	now, err := f.loadOrNil(ctx, key)
	return err == nil && !sameTokens(now, current)
}
