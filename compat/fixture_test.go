package compat

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

// standIn is an API on a loopback socket and a store where ada is logged in.
// Both sides go by a clock that the test sets: tokens expire when it says so,
// and the counts are exact however busy the machine is.
type standIn struct {
	*walletauthtest.Server
	clock *clock.Mock
	store *walletauth.MemoryStore
}

const (
	project  = "my-project"
	user     = "ada"
	lifetime = 5 * time.Minute
)

func newStandIn(t *testing.T) *standIn {
	api := newUnstarted(t)
	api.Start()
	return api
}

func newUnstarted(t *testing.T) *standIn {
	t.Parallel()
	mock := clock.NewMock()
	api := &standIn{
		Server: walletauthtest.NewUnstartedServer(walletauthtest.Config{
			ProjectID: project, AccessTokenTTL: lifetime, Clock: mock, TB: t,
		}),
		clock: mock,
		store: &walletauth.MemoryStore{},
	}
	api.login(t, "", user)
	return api
}

func (api *standIn) login(t *testing.T, key, userID string) {
	t.Helper()
	if err := walletauth.Save(t.Context(), api.store, key, api.Login(userID)); err != nil {
		t.Fatal(err)
	}
}

// transport is what every test puts under its client.
func (api *standIn) transport() *walletauth.Transport {
	return &walletauth.Transport{
		Store:     api.store,
		ProjectID: project,
		BaseURL:   api.URL,
		Clock:     api.clock, // a program leaves this out
	}
}

// troubles is how often outlive has a session refreshed.
const troubles = 4

// outlive makes a call, again after each of three expiries, and again after
// the server has revoked the access token. None may fail, and each trouble
// costs one refresh for each of the users who made the call.
func (api *standIn) outlive(t *testing.T, call func(context.Context) error, users ...string) {
	t.Helper()
	if len(users) == 0 {
		users = []string{user}
	}
	expire := func() { api.clock.Add(lifetime + time.Second) }
	revoke := func() {
		for _, u := range users {
			api.RevokeAccess(u)
		}
	}
	for n, happen := range []func(){func() {}, expire, expire, expire, revoke} {
		happen()
		if err := call(t.Context()); err != nil {
			t.Errorf("call %d: %v", n, err)
		}
	}
	for _, u := range users {
		if n := api.User(u).Refreshes; n != troubles {
			t.Errorf("%s: %d refreshes, want %d", u, n, troubles)
		}
	}
}

// done reads resp to its end and turns what is no success into an error.
func done(resp *http.Response, err error) error {
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return err
}

// get is the call that most tests make.
func (api *standIn) get(ctx context.Context, client *http.Client, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, api.URL+path, nil)
	if err != nil {
		return err
	}
	return done(client.Do(req))
}

// atOnce calls call with each of the values at the same time.
func atOnce[T any](values []T, call func(T) error) error {
	errs := make([]error, len(values))
	var all sync.WaitGroup
	for i, v := range values {
		all.Go(func() { errs[i] = call(v) })
	}
	all.Wait()
	return errors.Join(errs...)
}
