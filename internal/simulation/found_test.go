package simulation

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walletauth/walletauth"
)

// The tests in this file are what is left, when all chance is taken out, of the
// histories in which the simulation found a promise broken.

// failing is a store that can be told to fail before it asks an Update's
// function, or after.
type failing struct {
	walletauth.MemoryStore
	before, after atomic.Bool
	meanwhile     atomic.Pointer[func()] // called once, after a function has run
}

var errFailing = errors.New("the store is down")

func (s *failing) Update(ctx context.Context, key string, fn func(context.Context, *walletauth.Session) (*walletauth.Session, error)) error {
	if s.before.Load() {
		return errFailing
	}
	return s.MemoryStore.Update(ctx, key, func(ctx context.Context, current *walletauth.Session) (*walletauth.Session, error) {
		next, err := fn(ctx, current)
		if meanwhile := s.meanwhile.Swap(nil); meanwhile != nil {
			(*meanwhile)()
		}
		if s.after.Load() && err == nil && next != current {
			return nil, errFailing
		}
		return next, err
	})
}

// put puts session into the store, past its failures, as another process would.
func (s *failing) put(t *testing.T, session *walletauth.Session) {
	t.Helper()
	if err := walletauth.Save(t.Context(), &s.MemoryStore, "", session); err != nil {
		t.Fatal(err)
	}
}

// capturing is a Transport that captures logins, over a store that may fail. The
// API answers a login with login, a refresh with refreshed, and all else with
// 200.
type capturing struct {
	*walletauth.Transport
	store            failing
	login, refreshed *walletauth.Session
	slow             func() // called before a login is answered, once
}

func newCapturing(stored *walletauth.Session, t *testing.T) *capturing {
	c := new(capturing)
	c.Transport = &walletauth.Transport{Store: &c.store, CaptureLogin: true, BaseURL: "https://walletkit.test"}
	c.Transport.Base = answering(c.answer)
	c.store.put(t, stored)
	return c
}

type answering func(*http.Request) string

func (r answering) RoundTrip(req *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: 200, Status: "200 OK", Header: http.Header{}, Body: io.NopCloser(strings.NewReader(r(req))), Request: req}, nil
}

func (c *capturing) answer(req *http.Request) string {
	switch req.URL.Path {
	case "/users/login-anonymously":
		if c.slow != nil {
			slow := c.slow
			c.slow = nil
			slow()
		}
		return string(encode(c.login))
	case "/users/refresh-token":
		return string(encode(c.refreshed))
	default:
		return "{}"
	}
}

func (c *capturing) post(t *testing.T, path string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://walletkit.test"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
}

// stores demands what the store holds once it works again and time has passed.
func (c *capturing) stores(t *testing.T, want *walletauth.Session) {
	t.Helper()
	c.store.before.Store(false)
	c.store.after.Store(false)
	time.Sleep(time.Minute)
	if err := c.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.stored(t, want)
}

func (c *capturing) stored(t *testing.T, want *walletauth.Session) {
	t.Helper()
	got, err := c.store.Load(t.Context(), "")
	switch {
	case want == nil && err == nil:
		t.Errorf("the store holds %q, want none", got.AccessToken)
	case want != nil && err != nil:
		t.Error(err)
	case want != nil && got.AccessToken != want.AccessToken:
		t.Errorf("the store holds %q, want %q", got.AccessToken, want.AccessToken)
	}
}

// loginOf is the nth pair of tokens of a login after so many minutes.
func loginOf(user string, minutes int, n string) *walletauth.Session {
	born := time.Now().Add(time.Duration(minutes-60) * time.Minute).UTC()
	return &walletauth.Session{
		ID: "session of " + user, CreatedAt: born, ProjectID: "project", UserID: user,
		AccessToken: "access-" + user + n, AccessTokenExpiresAt: time.Now().Add(time.Hour).UTC(),
		RefreshToken: "refresh-" + user + n, RefreshTokenExpiresAt: time.Now().Add(1000 * time.Hour).UTC(),
	}
}

func TestUnsavedLoginReplacesTheSessionBeforeItThoughAnotherProcessRefreshedThat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCapturing(loginOf("old", 0, ""), t)
		c.login = loginOf("new", 1, "")
		c.store.after.Store(true)
		c.post(t, "/users/login-anonymously")
		c.store.put(t, loginOf("old", 0, " refreshed"))
		c.stores(t, c.login)
	})
}

func TestUnsavedLoginDoesNotReplaceItsOwnRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCapturing(loginOf("old", 0, ""), t)
		c.login = loginOf("new", 1, "")
		c.store.before.Store(true)
		c.post(t, "/users/login-anonymously")
		refreshed := loginOf("new", 1, " refreshed")
		c.store.put(t, refreshed)
		c.stores(t, refreshed)
	})
}

func TestLogoutAfterAnUnsavedLoginLeavesNoSession(t *testing.T) {
	for _, works := range []bool{true, false} { // the store, when the logout comes
		synctest.Test(t, func(t *testing.T) {
			c := newCapturing(loginOf("old", 0, ""), t)
			c.login = loginOf("new", 1, "")
			c.store.after.Store(true)
			c.post(t, "/users/login-anonymously")
			c.store.after.Store(!works)
			c.post(t, "/users/logout")
			c.stores(t, nil)
		})
	}
}

func TestUnsavedRefreshDoesNotReplaceAnUnsavedLoginThatCameMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old := loginOf("old", 0, "")
		old.AccessTokenExpiresAt = time.Now().Add(time.Second).UTC() // so that a request refreshes it
		c := newCapturing(old, t)
		c.login, c.refreshed = loginOf("new", 1, ""), loginOf("old", 0, " refreshed")
		c.store.after.Store(true)
		meanwhile := func() { // the login comes before the refresh is stored
			c.store.before.Store(true)
			c.post(t, "/users/login-anonymously")
		}
		c.store.meanwhile.Store(&meanwhile)
		time.Sleep(2 * time.Second)
		c.post(t, "/wallets")
		c.stores(t, c.login)
	})
}

func TestShutdownStoresALoginThatIsAnsweredWhileItStoresAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCapturing(loginOf("old", 0, ""), t)
		first, second := loginOf("first", 1, ""), loginOf("second", 2, "")
		c.login = first
		c.store.before.Store(true)
		c.post(t, "/users/login-anonymously")
		arrived, answer, answered := make(chan struct{}), make(chan struct{}), make(chan struct{})
		c.slow = func() { close(arrived); <-answer }
		go func() {
			defer close(answered)
			c.login = second
			c.post(t, "/users/login-anonymously")
		}()
		<-arrived
		c.store.before.Store(false)
		meanwhile := func() { // Shutdown stores the first, and the second comes, which fails once
			c.store.before.Store(true)
			close(answer)
			<-answered
			c.store.before.Store(false)
		}
		c.store.meanwhile.Store(&meanwhile)
		if err := c.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.stored(t, second)
	})
}
