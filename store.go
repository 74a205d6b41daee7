package walletauth

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/walletauth/walletauth/internal/keylock"
)

// TokenStore is where sessions live, each under a key that names whose it is.
// It is the truth: a [Transport] asks it for every request.
//
// Implementations must be safe for concurrent use. Test them with
// [github.com/walletauth/walletauth/walletauthtest.TestStore].
type TokenStore interface {
	// Load returns the session of key, or an error wrapping ErrNoSession if
	// there is none. Any other error means that this is not known now; the
	// Transport then goes on with the session that it used last, if it is of
	// that key and its access token is valid. Load is called for every
	// request, so it must be fast and not wait for an Update. The Session is
	// shared: neither the store nor the caller may change it afterwards.
	Load(ctx context.Context, key string) (*Session, error)

	// Update calls fn with the session of key, nil if there is none, and
	// stores what fn returns: the same pointer leaves the store as it is, nil
	// deletes (deleting what is not there is no error), and an error of fn is
	// returned and changes nothing. That there is no session is no error.
	//
	// While fn runs, no other Update of that key runs, in this process or in
	// any other that shares the store; Updates of other keys do run. Waiting
	// for that exclusion ends with ctx. fn may take long, as it does HTTP.
	//
	// The ctx of fn ends when exclusion is lost, which tells fn not to begin
	// anything. What it returns after that is still stored unless somebody
	// else has stored something meanwhile: the server has rotated the token,
	// and the new one must not be thrown away.
	//
	// Its own errors are that of ctx, and that the store cannot exclude, read
	// or write. After the last of these either session may be stored.
	Update(ctx context.Context, key string, fn func(ctx context.Context, current *Session) (*Session, error)) error
}

// Replacer is an optional ability of a [TokenStore]: all stores of this project
// have it. [Save] and [Delete] use it where the stored session cannot be read
// and Update therefore fails with [ErrUnreadable].
type Replacer interface {
	// Replace stores s as the session of key, nil deletes, under the same
	// exclusion as Update and without reading what is there. Its errors are
	// those of ctx, and those of the store if it cannot lock or write.
	Replace(ctx context.Context, key string, s *Session) error
}

// Save stores a copy of s as the session of key, after a login. The key is any
// string, "" in a program with one session. A session that is there is
// replaced. A refresh of that key that is running is waited for, so that it
// cannot overwrite s; bound the wait by ctx.
//
// The errors: s is nil or incomplete, or has an access token that cannot be sent
// in a header (the field is named); st is nil; ctx ended while waiting; or what
// the store says. None holds a token.
func Save(ctx context.Context, st TokenStore, key string, s *Session) error {
	if err := s.check(); err != nil {
		return fmt.Errorf("walletauth: save session: %w", err)
	}
	own := *s // the caller may go on using s
	return replace(ctx, st, key, &own)
}

// Delete removes the session of key, after a logout. That there is none is no
// error. A refresh of that key that is running is waited for, so that it
// cannot bring the session back; bound the wait by ctx. WalletKit is not told:
// that is POST /users/logout.
//
// The errors: st is nil; ctx ended while waiting; or what the store says.
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

// SaveIfAbsent stores a copy of s as the session of key unless there is one
// already, and reports whether it did. It is for moving sessions in from
// elsewhere: of several processes that start at once, the first stores.
//
// The errors: those of [Save]. A session that cannot be read counts as one that
// is there: the error wraps [ErrUnreadable].
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

type contextKey struct{}

// WithKey returns a context whose requests use the session stored under key,
// unless [Transport.Key] says otherwise. A key may be any string, a user's id
// for example. A program with one session needs none: the empty string is a key
// too, and the one of a context without WithKey.
func WithKey(ctx context.Context, key string) context.Context {
	return context.WithValue(ctx, contextKey{}, key)
}

// KeyFromContext returns the key that [WithKey] put into ctx, "" if there is
// none.
func KeyFromContext(ctx context.Context) string {
	key, _ := ctx.Value(contextKey{}).(string)
	return key
}

// MemoryStore is a [TokenStore] in memory, for one process: sessions are lost
// when it ends. A session stays until it is replaced or deleted, also after it
// has expired, and takes some 200 bytes and its strings. The zero value is ready
// to use. It is safe for concurrent use, and must not be copied after first use.
type MemoryStore struct {
	updates keylock.Mutex

	mu       sync.RWMutex // guards sessions
	sessions map[string]*Session
}

var (
	_ TokenStore = (*MemoryStore)(nil)
	_ Replacer   = (*MemoryStore)(nil)
)

// Load returns the session of key, which is shared, or [ErrNoSession]. It does
// not wait for an Update and ignores ctx.
func (m *MemoryStore) Load(_ context.Context, key string) (*Session, error) {
	m.mu.RLock()
	s := m.sessions[key]
	m.mu.RUnlock()
	if s == nil {
		return nil, ErrNoSession
	}
	return s, nil
}

// Update is [TokenStore.Update]. Its errors are those of fn, and that of ctx
// if it ended while waiting for another Update of key.
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

// Replace is [Replacer.Replace]. Its only error is that of ctx if it ended while
// waiting for an Update of key.
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

// FuncStore is a [TokenStore] over what a program already has, a table for
// example, for one process: exclusion between Updates is kept in memory. Where
// several processes share the sessions, use a store that knows how to exclude
// them. Both functions are required and are called concurrently. A FuncStore is
// safe for concurrent use, and must not be copied after first use.
type FuncStore struct {
	// LoadFunc returns the session of key, or an error wrapping ErrNoSession
	// if there is none. It is called for every request, so it must be fast,
	// and must not change a Session that it returned.
	LoadFunc func(ctx context.Context, key string) (*Session, error)
	// SaveFunc stores s as the session of key, and must not change it; nil
	// deletes, which is no error if there is nothing.
	SaveFunc func(ctx context.Context, key string, s *Session) error

	updates keylock.Mutex
}

var (
	_ TokenStore = (*FuncStore)(nil)
	_ Replacer   = (*FuncStore)(nil)
)

// Load calls LoadFunc. Its errors are those of LoadFunc, and that LoadFunc is
// nil.
func (f *FuncStore) Load(ctx context.Context, key string) (*Session, error) {
	if f.LoadFunc == nil {
		return nil, errors.New("walletauth: FuncStore.LoadFunc is nil")
	}
	return f.LoadFunc(ctx, key)
}

// Update is [TokenStore.Update]. Its errors are those of fn, LoadFunc and
// SaveFunc, that one of the functions is nil, and that of ctx if it ended
// while waiting for another Update of key.
//
// The program may save past this store while fn runs, since its own code to
// log in and out writes to the same table. Update looks again before it saves
// and leaves such a session, or its absence, alone.
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

// Replace is [Replacer.Replace]: it calls SaveFunc without LoadFunc. Its errors
// are those of SaveFunc, that it is nil, and that of ctx if it ended while
// waiting for an Update of key.
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
