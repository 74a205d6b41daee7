package main

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"time"

	"github.com/walletauth/walletauth"
)

// session is the profile that a verb works with, over an open store.
type session struct {
	*profile
	store     walletauth.TokenStore
	base      *base
	transport *walletauth.Transport
}

// open opens the session of --profile. A profile that was never logged in to is
// "not logged in".
func (a *app) open() (*session, error) {
	p, err := loadProfile(a.profileName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, walletauth.ErrNoSession
	}
	if err != nil {
		return nil, err
	}
	store, err := openStore(p)
	if err != nil {
		return nil, err
	}
	return newSession(p, store), nil
}

func newSession(p *profile, store walletauth.TokenStore) *session {
	key, base := p.key(), newBase()
	return &session{profile: p, store: store, base: base, transport: &walletauth.Transport{
		Store:          store,
		ProjectID:      p.Project,
		BaseURL:        p.API,
		Base:           base,
		Key:            func(*http.Request) string { return key },
		RefreshTimeout: refreshTimeout,
	}}
}

// use runs fn with the session of --profile. The session is closed when its
// result has been said, see run: the next command needs what was refreshed,
// after a Ctrl-C too.
func (a *app) use(ctx context.Context, fn func(context.Context, *session) error) (err error) {
	if a.session, err = a.open(); err != nil {
		return err
	}
	return fn(ctx, a.session)
}

const (
	// refreshTimeout is how long one refresh may take. Who waits at a terminal
	// gives up before the half minute of the library.
	refreshTimeout = 10 * time.Second
	// storeTimeout bounds the wait at the end: a refresh that was sent has
	// used up its refresh token, so its answer is waited for as long as it may
	// come.
	storeTimeout = refreshTimeout + 2*time.Second
)

// close waits until what is under way is stored, and not for a refresh that is
// only waiting for its next attempt. Ctrl-C a second time ends the program all
// the same.
func (s *session) close(t *terminal) error {
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	idle := s.base.close()
	go func() {
		select {
		case <-idle:
			cancel()
		case <-ctx.Done():
		}
	}()
	err := t.wait(ctx, "Storing the session", s.transport.Shutdown)
	if errors.Is(err, context.Canceled) {
		return nil // idle: there was nothing to store
	}
	return err
}

// maxWait is how long a person waits for a network that has failed already.
// The library waits as long after the first failure, which without an answer to
// the first packet comes only after connectTimeout.
const maxWait = 5 * time.Second

// current returns a session that is fit to use now, refreshed if it was due.
func (s *session) current(ctx context.Context, t *terminal) (*walletauth.Session, error) {
	ctx, leave := context.WithCancelCause(ctx)
	defer leave(nil)
	defer time.AfterFunc(maxWait, func() {
		if failure := s.base.lastFailure(); failure != nil {
			leave(failure)
		}
	}).Stop()
	var now *walletauth.Session
	err := t.wait(ctx, "Waiting for "+s.host(), func(ctx context.Context) (err error) {
		now, err = s.transport.Session(ctx)
		return err
	})
	if errors.Is(err, context.Canceled) {
		err = context.Cause(ctx)
	}
	return now, err
}
