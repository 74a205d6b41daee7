package walletauthtest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/walletauth/walletauth"
)

// wrongStores are wrong in one way each. fails is exactly what of the suite has
// to fail; mayFail is what fails if a race shows.
var wrongStores = []struct {
	name    string
	store   func() walletauth.TokenStore
	fails   []string
	mayFail []string
}{
	{"does not exclude", fresh[noExclusion], []string{
		"Updates of one key exclude each other",
		"no Update is lost",
		"waiting ends when ctx is canceled",
		"waiting ends at the deadline of ctx",
		"an ended ctx is not waited with",
		"SaveIfAbsent stores one of many",
	}, nil},
	{"loses every seventh write", fresh[losesWrites], []string{
		"an Update is seen by the next Load",
		"no Update is lost",
		"1000 keys are updated at once",
		"keys do not mix",
		"any string is a key",
	}, nil},
	{"changes the sessions it returned", fresh[changesSessions], []string{
		"a Session never changes",
	}, []string{
		"a Load during Updates sees a whole session",
	}},
	{"ignores ctx while it waits", fresh[ignoresContext], []string{
		"waiting ends when ctx is canceled",
		"waiting ends at the deadline of ctx",
		"an ended ctx is not waited with",
	}, nil},
	{"writes on an error of fn", fresh[writesOnError], []string{
		"an error of fn changes nothing",
	}, nil},
	{"swallows the error of fn", fresh[swallowsError], []string{
		"an error of fn is returned",
	}, nil},
	{"forgives fn an ErrNoSession", fresh[forgivesNoSession], []string{
		"an error of fn is returned",
	}, nil},
	{"keeps the session when fn returns nil", fresh[keepsOnNil], []string{
		"nil deletes",
		"an Update is seen by the next Load",
		"keys do not mix",
		"any string is a key",
	}, nil},
	{"stores nil", fresh[storesNil], []string{
		"nil deletes",
		"an Update is seen by the next Load",
		"keys do not mix",
		"any string is a key",
	}, nil},
	{"has an error of its own for no session", fresh[ownNotFound], []string{
		"no session is ErrNoSession",
		"no session stays no session",
		"an Update is seen by the next Load",
		"nil deletes",
		"an error of fn changes nothing",
		"Load does not wait for an Update",
		"keys do not mix",
		"any string is a key",
	}, nil},
	{"has one lock for all keys", fresh[oneLock], []string{
		"Updates of other keys run",
		"1000 keys are updated at once",
		"any string is a key",
	}, nil},
	{"lets Load wait for Update", fresh[loadWaits], []string{
		"Load does not wait for an Update",
	}, nil},
	{"keeps the key after a panic", fresh[keepsAfterPanic], []string{
		"a panic in fn releases the key",
		"a Goexit in fn releases the key",
	}, nil},
	{"mixes up keys by case", fresh[foldsCase], []string{
		"any string is a key",
	}, nil},
	{"loses what fn returns after ctx ended", fresh[losesAfterContext], []string{
		"what fn returns is stored though ctx has ended",
	}, nil},
	{"ends the ctx of fn at once", fresh[endsContext], []string{
		"fn gets a live ctx with the values of the caller's",
	}, nil},
	{"gives fn a ctx of its own", fresh[ownContext], []string{
		"fn gets a live ctx with the values of the caller's",
	}, nil},
	{"calls fn twice", fresh[callsTwice], []string{
		"fn is called again only for another session",
	}, nil},
	{"replaces nothing", fresh[replacesNothing], []string{
		"Replace stores and deletes",
		"Replace waits for an Update",
		"Replace ends its wait with ctx",
		"an unreadable session gives way to a login",
		"an unreadable session gives way to a logout",
	}, nil},
	{"does not delete by Replace", fresh[replaceKeepsOnNil], []string{
		"Replace stores and deletes",
		"an unreadable session gives way to a logout",
	}, nil},
	{"reads what is there before it replaces it", fresh[replaceReads], []string{
		"an unreadable session gives way to a login",
		"an unreadable session gives way to a logout",
	}, nil},
	{"replaces while an Update runs", fresh[replaceDoesNotWait], []string{
		"Replace waits for an Update",
		"Replace ends its wait with ctx",
	}, nil},
	{"ignores ctx while Replace waits", fresh[replaceIgnoresContext], []string{
		"Replace ends its wait with ctx",
	}, nil},
	{"has no Replace and refuses what it cannot read", fresh[noReplace], []string{
		"an unreadable session gives way to a login",
		"an unreadable session gives way to a logout",
	}, nil},
	{"takes what it cannot read for no session", fresh[unreadableIsNone], []string{
		"an unreadable session is ErrUnreadable",
	}, nil},
	{"has an error of its own for what it cannot read", fresh[ownUnreadable], []string{
		"an unreadable session is ErrUnreadable",
		"an unreadable session gives way to a login",
		"an unreadable session gives way to a logout",
	}, nil},
	{"calls fn though it cannot read", fresh[updatesUnreadable], []string{
		"an unreadable session is ErrUnreadable",
	}, nil},
	{"fails for all keys once one cannot be read", fresh[unreadableForAll], []string{
		"an unreadable session is one key's alone",
	}, nil},
}

func fresh[T any, P interface {
	*T
	walletauth.TokenStore
}]() walletauth.TokenStore {
	return P(new(T))
}

// parts is what the wrong stores are put together from. It is right.
type parts struct {
	mu       sync.Mutex // guards the maps
	sessions map[string]*walletauth.Session
	locks    map[string]chan struct{}
}

func (p *parts) Load(_ context.Context, key string) (*walletauth.Session, error) {
	if s := p.get(key); s != nil {
		return s, nil
	}
	return nil, walletauth.ErrNoSession
}

func (p *parts) Update(ctx context.Context, key string, fn updateFunc) error {
	unlock, err := p.lock(ctx, key)
	if err != nil {
		return err
	}
	defer unlock()
	next, err := fn(ctx, p.get(key))
	if err != nil {
		return err
	}
	p.put(key, next)
	return nil
}

func (p *parts) get(key string) *walletauth.Session {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sessions[key]
}

func (p *parts) put(key string, s *walletauth.Session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sessions == nil {
		p.sessions = make(map[string]*walletauth.Session)
	}
	p.sessions[key] = s
}

func (p *parts) lock(ctx context.Context, key string) (unlock func(), err error) {
	p.mu.Lock()
	if p.locks == nil {
		p.locks = make(map[string]chan struct{})
	}
	if p.locks[key] == nil {
		p.locks[key] = make(chan struct{}, 1)
	}
	l := p.locks[key]
	p.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case l <- struct{}{}:
		return func() { <-l }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

type noExclusion struct{ parts }

func (st *noExclusion) Update(ctx context.Context, key string, fn updateFunc) error {
	next, err := fn(ctx, st.get(key))
	if err == nil {
		st.put(key, next)
	}
	return err
}

type losesWrites struct {
	parts
	writes int
}

func (st *losesWrites) Update(ctx context.Context, key string, fn updateFunc) error {
	return st.parts.Update(ctx, key, func(ctx context.Context, s *walletauth.Session) (*walletauth.Session, error) {
		next, err := fn(ctx, s)
		if err != nil || next == s {
			return next, err
		}
		st.mu.Lock()
		defer st.mu.Unlock()
		if st.writes++; st.writes%7 == 0 {
			return s, nil
		}
		return next, nil
	})
}

type changesSessions struct{ parts }

func (st *changesSessions) Update(ctx context.Context, key string, fn updateFunc) error {
	return st.parts.Update(ctx, key, func(ctx context.Context, s *walletauth.Session) (*walletauth.Session, error) {
		next, err := fn(ctx, s)
		if err != nil || next == nil || s == nil {
			return next, err
		}
		*s = *next
		return s, nil
	})
}

type ignoresContext struct{ parts }

func (st *ignoresContext) Update(ctx context.Context, key string, fn updateFunc) error {
	return st.parts.Update(context.WithoutCancel(ctx), key, func(_ context.Context, s *walletauth.Session) (*walletauth.Session, error) {
		return fn(ctx, s)
	})
}

type writesOnError struct{ parts }

func (st *writesOnError) Update(ctx context.Context, key string, fn updateFunc) error {
	var failed error
	err := st.parts.Update(ctx, key, func(ctx context.Context, s *walletauth.Session) (next *walletauth.Session, _ error) {
		next, failed = fn(ctx, s)
		return next, nil
	})
	return errors.Join(err, failed)
}

type swallowsError struct{ parts }

func (st *swallowsError) Update(ctx context.Context, key string, fn updateFunc) error {
	return st.parts.Update(ctx, key, func(ctx context.Context, s *walletauth.Session) (*walletauth.Session, error) {
		next, err := fn(ctx, s)
		if err != nil {
			return s, nil
		}
		return next, nil
	})
}

type forgivesNoSession struct{ parts }

func (st *forgivesNoSession) Update(ctx context.Context, key string, fn updateFunc) error {
	err := st.parts.Update(ctx, key, fn)
	if errors.Is(err, walletauth.ErrNoSession) {
		return nil
	}
	return err
}

type keepsOnNil struct{ parts }

func (st *keepsOnNil) Update(ctx context.Context, key string, fn updateFunc) error {
	return st.parts.Update(ctx, key, func(ctx context.Context, s *walletauth.Session) (*walletauth.Session, error) {
		next, err := fn(ctx, s)
		if next == nil {
			return s, err
		}
		return next, err
	})
}

type storesNil struct{ parts }

func (st *storesNil) Load(_ context.Context, key string) (*walletauth.Session, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	s, ok := st.sessions[key]
	if !ok {
		return nil, walletauth.ErrNoSession
	}
	return s, nil
}

func (st *storesNil) Update(ctx context.Context, key string, fn updateFunc) error {
	unchanged := errors.New("unchanged")
	err := st.parts.Update(ctx, key, func(ctx context.Context, s *walletauth.Session) (*walletauth.Session, error) {
		next, err := fn(ctx, s)
		if err == nil && next == s {
			return nil, unchanged
		}
		return next, err
	})
	if err == unchanged {
		return nil
	}
	return err
}

type ownNotFound struct{ parts }

func (st *ownNotFound) Load(ctx context.Context, key string) (*walletauth.Session, error) {
	s, err := st.parts.Load(ctx, key)
	if err != nil {
		return nil, errors.New("no rows")
	}
	return s, nil
}

type oneLock struct{ parts }

func (st *oneLock) Update(ctx context.Context, key string, fn updateFunc) error {
	unlock, err := st.lock(ctx, "the one lock")
	if err != nil {
		return err
	}
	defer unlock()
	return st.parts.Update(ctx, key, fn)
}

type loadWaits struct{ parts }

func (st *loadWaits) Load(ctx context.Context, key string) (*walletauth.Session, error) {
	unlock, err := st.lock(ctx, key)
	if err != nil {
		return nil, err
	}
	defer unlock()
	return st.parts.Load(ctx, key)
}

type keepsAfterPanic struct{ parts }

func (st *keepsAfterPanic) Update(ctx context.Context, key string, fn updateFunc) error {
	unlock, err := st.lock(ctx, key)
	if err != nil {
		return err
	}
	next, err := fn(ctx, st.get(key))
	if err == nil {
		st.put(key, next)
	}
	unlock()
	return err
}

type foldsCase struct{ parts }

func (st *foldsCase) Load(ctx context.Context, key string) (*walletauth.Session, error) {
	return st.parts.Load(ctx, strings.ToLower(key))
}

func (st *foldsCase) Update(ctx context.Context, key string, fn updateFunc) error {
	return st.parts.Update(ctx, strings.ToLower(key), fn)
}

type losesAfterContext struct{ parts }

func (st *losesAfterContext) Update(ctx context.Context, key string, fn updateFunc) error {
	return st.parts.Update(ctx, key, func(ctx context.Context, s *walletauth.Session) (*walletauth.Session, error) {
		next, err := fn(ctx, s)
		return next, errors.Join(err, ctx.Err())
	})
}

type endsContext struct{ parts }

func (st *endsContext) Update(ctx context.Context, key string, fn updateFunc) error {
	return st.parts.Update(ctx, key, func(ctx context.Context, s *walletauth.Session) (*walletauth.Session, error) {
		ctx, cancel := context.WithCancel(ctx)
		cancel()
		return fn(ctx, s)
	})
}

type ownContext struct{ parts }

func (st *ownContext) Update(ctx context.Context, key string, fn updateFunc) error {
	return st.parts.Update(ctx, key, func(_ context.Context, s *walletauth.Session) (*walletauth.Session, error) {
		return fn(context.Background(), s)
	})
}

type callsTwice struct{ parts }

func (st *callsTwice) Update(ctx context.Context, key string, fn updateFunc) error {
	return st.parts.Update(ctx, key, func(ctx context.Context, s *walletauth.Session) (*walletauth.Session, error) {
		if next, err := fn(ctx, s); err != nil {
			return next, err
		}
		return fn(ctx, s)
	})
}

// replacing is parts with Replace, and sessions that cannot be read. It is right.
type replacing struct {
	parts
	unreadable map[string]bool // guarded by parts.mu
}

func (st *replacing) Corrupt(_ testing.TB, key string) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.unreadable == nil {
		st.unreadable = make(map[string]bool)
	}
	st.unreadable[key] = true
}

func (st *replacing) check(key string) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.unreadable[key] {
		return fmt.Errorf("replacing: %w", walletauth.ErrUnreadable)
	}
	return nil
}

func (st *replacing) Load(ctx context.Context, key string) (*walletauth.Session, error) {
	if err := st.check(key); err != nil {
		return nil, err
	}
	return st.parts.Load(ctx, key)
}

func (st *replacing) Update(ctx context.Context, key string, fn updateFunc) error {
	return st.parts.Update(ctx, key, func(ctx context.Context, s *walletauth.Session) (*walletauth.Session, error) {
		if err := st.check(key); err != nil {
			return s, err
		}
		return fn(ctx, s)
	})
}

func (st *replacing) Replace(ctx context.Context, key string, s *walletauth.Session) error {
	unlock, err := st.lock(ctx, key)
	if err != nil {
		return err
	}
	defer unlock()
	st.overwrite(key, s)
	return nil
}

func (st *replacing) overwrite(key string, s *walletauth.Session) {
	st.put(key, s)
	st.mu.Lock()
	defer st.mu.Unlock()
	delete(st.unreadable, key)
}

type replacesNothing struct{ replacing }

func (st *replacesNothing) Replace(context.Context, string, *walletauth.Session) error { return nil }

type replaceKeepsOnNil struct{ replacing }

func (st *replaceKeepsOnNil) Replace(ctx context.Context, key string, s *walletauth.Session) error {
	if s == nil {
		return nil
	}
	return st.replacing.Replace(ctx, key, s)
}

type replaceReads struct{ replacing }

func (st *replaceReads) Replace(ctx context.Context, key string, s *walletauth.Session) error {
	return st.Update(ctx, key, become(s))
}

type replaceDoesNotWait struct{ replacing }

func (st *replaceDoesNotWait) Replace(_ context.Context, key string, s *walletauth.Session) error {
	st.overwrite(key, s)
	return nil
}

type replaceIgnoresContext struct{ replacing }

func (st *replaceIgnoresContext) Replace(ctx context.Context, key string, s *walletauth.Session) error {
	return st.replacing.Replace(context.WithoutCancel(ctx), key, s)
}

// noReplace has the others' methods and not Replace.
type noReplace struct{ inner replacing }

func (st *noReplace) Corrupt(t testing.TB, key string) { st.inner.Corrupt(t, key) }

func (st *noReplace) Load(ctx context.Context, key string) (*walletauth.Session, error) {
	return st.inner.Load(ctx, key)
}

func (st *noReplace) Update(ctx context.Context, key string, fn updateFunc) error {
	return st.inner.Update(ctx, key, fn)
}

type unreadableIsNone struct{ replacing }

func (st *unreadableIsNone) Load(ctx context.Context, key string) (*walletauth.Session, error) {
	if st.check(key) != nil {
		return nil, walletauth.ErrNoSession
	}
	return st.replacing.Load(ctx, key)
}

type ownUnreadable struct{ replacing }

var errDamaged = errors.New("damaged")

func (st *ownUnreadable) Load(ctx context.Context, key string) (*walletauth.Session, error) {
	if st.check(key) != nil {
		return nil, errDamaged
	}
	return st.replacing.Load(ctx, key)
}

func (st *ownUnreadable) Update(ctx context.Context, key string, fn updateFunc) error {
	if st.check(key) != nil {
		return errDamaged
	}
	return st.replacing.Update(ctx, key, fn)
}

// updatesUnreadable lets an Update store over what it cannot read: it passes
// for a missing session.
type updatesUnreadable struct{ replacing }

func (st *updatesUnreadable) Update(ctx context.Context, key string, fn updateFunc) error {
	return st.parts.Update(ctx, key, func(ctx context.Context, s *walletauth.Session) (*walletauth.Session, error) {
		if st.check(key) == nil {
			return fn(ctx, s)
		}
		next, err := fn(ctx, nil)
		if err == nil {
			st.mu.Lock()
			defer st.mu.Unlock()
			delete(st.unreadable, key)
		}
		return next, err
	})
}

type unreadableForAll struct{ replacing }

func (st *unreadableForAll) Load(ctx context.Context, key string) (*walletauth.Session, error) {
	st.mu.Lock()
	damaged := len(st.unreadable) > 0
	st.mu.Unlock()
	if damaged {
		return nil, walletauth.ErrUnreadable
	}
	return st.replacing.Load(ctx, key)
}
