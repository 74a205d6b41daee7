package walletauth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/walletauth/walletauth/internal/api"
	"github.com/walletauth/walletauth/internal/timeout"
)

// logoutTimeout bounds each of the two steps of a logout: storing it, and telling
// WalletKit.
const logoutTimeout = 5 * time.Second

// Logout forgets a session, and then tells WalletKit by POST /users/logout.
// The key is found as by [Transport.Session]. A missing session is not an
// error.
//
// From the call on, requests of the key fail with [ErrNoSession], whatever
// the store, the network or a refresh in progress do: that refresh is not
// stored, and its token is used to tell WalletKit. Nothing is refreshed for
// a logout, so WalletKit is not told if the token has expired. Storing takes
// at most 5 seconds and is tried again in the background; telling takes at
// most 5 seconds more.
//
// The errors, joined: a field of t is wrong; t was shut down; a [StoreError]
// if the store has not taken the logout yet; and that WalletKit was not
// told, and why.
func (t *Transport) Logout(ctx context.Context) error {
	key, err := t.keyOf(ctx)
	if err != nil {
		return err
	}
	c, err := t.sessions.load(ctx, key)
	if errors.Is(err, ErrNoSession) {
		return nil
	}
	w := &pendingWrite{}
	if c != nil {
		w.login = c.session
	}
	defer w.force()()
	last, storeErr := t.sessions.logout(ctx, key, w, c)
	if errors.Is(err, ErrUnreadable) {
		return storeErr
	}
	if c == nil {
		return errors.Join(storeErr, fmt.Errorf("walletauth: WalletKit was not told of the logout, since the session cannot be read: %w", err))
	}
	return errors.Join(storeErr, t.tellLogout(ctx, key, last))
}

// logout stores the logout w of c, which is nil if it cannot be read, and returns
// the session's last credentials: those of a refresh that was in progress.
func (m *sessions) logout(ctx context.Context, key string, w *pendingWrite, c *credentials) (last *credentials, err error) {
	var running []*call
	m.states.with(key, func(st *keyState) {
		if r := st.refreshed.Load(); r != nil { // a refresh may have ended since c was loaded
			w.states = append(w.states, r.session)
		}
		for _, call := range st.calls {
			running = append(running, call)
		}
	})
	timed := timeout.New(ctx, m.clock, logoutTimeout)
	defer timed.Cancel()
	err = storeError(ctx, "update", m.store.write(timed, key, w, nil))
	for _, call := range running {
		select {
		case <-call.ended:
			if o := call.outcome; o.refreshed && c != nil && sameLogin(o.credentials.session, c.session) {
				c = o.credentials
			}
		case <-timed.Done():
		}
	}
	return c, err
}

// tellLogout tells WalletKit that the session of c has ended.
func (t *Transport) tellLogout(ctx context.Context, key string, c *credentials) error {
	if err, _ := t.sessions.states.Lookup(key).expiredError(c.session); err != nil {
		return nil
	}
	timed := timeout.New(ctx, t.sessions.clock, logoutTimeout)
	defer timed.Cancel()
	req, err := http.NewRequestWithContext(timed, http.MethodPost, t.origin.URL(api.LogoutPath), nil)
	if err != nil {
		return err
	}
	x := &exchange{req: req, header: req.Header, credentials: c}
	t.authorize(x)
	resp, err := t.send(req, req)
	if err != nil {
		return fmt.Errorf("walletauth: logged out here, but WalletKit was not told: %w", redactError(err, c.session))
	}
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, api.MaxReply)) // so that the connection is used again
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("walletauth: logged out here, but WalletKit answered %d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	}
	return nil
}
