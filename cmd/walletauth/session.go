package main

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"time"

	"github.com/walletauth/walletauth"
)

// session is the profile that a verb works with, over an open store.
type session struct {
	*profile
	store     walletauth.TokenStore
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
	key := p.key()
	return &session{profile: p, store: store, transport: &walletauth.Transport{
		Store:          store,
		ProjectID:      p.Project,
		BaseURL:        p.API,
		Base:           newBase(),
		Key:            func(*http.Request) string { return key },
		RefreshTimeout: refreshTimeout,
	}}
}

// connectTimeout lets two packets be lost on the way; who waits at a terminal
// should not wait for the half minute that net/http allows.
const connectTimeout = 3 * time.Second

func newBase() *http.Transport {
	base := http.DefaultTransport.(*http.Transport).Clone()
	base.DialContext = (&net.Dialer{Timeout: connectTimeout, KeepAlive: 30 * time.Second}).DialContext
	base.TLSHandshakeTimeout = connectTimeout
	return base
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
	// spent its refresh token, so its answer is waited for as long as it may
	// come.
	storeTimeout = refreshTimeout + 2*time.Second
)

// close waits until what is under way is stored. Ctrl-C a second time ends the
// program all the same.
func (s *session) close(t *terminal) error {
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	return t.wait(ctx, "Storing the session", s.transport.Shutdown)
}

// current returns a session that is fit to use now, refreshed if it was due.
func (s *session) current(ctx context.Context, t *terminal) (*walletauth.Session, error) {
	var now *walletauth.Session
	err := t.wait(ctx, "Waiting for "+s.host(), func(ctx context.Context) (err error) {
		now, err = s.transport.Session(ctx)
		return err
	})
	return now, err
}
