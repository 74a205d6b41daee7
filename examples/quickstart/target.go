package main

import (
	"context"
	"net/http"
	"time"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

// target is an API, a session for it, and how much of it is asked.
type target struct {
	baseURL, project string
	store            walletauth.TokenStore

	workers    int
	pause      time.Duration // of a worker, after each request
	writeEvery int           // the how many-th request of a worker is a POST; 0: none

	disturb func(ctx context.Context, refreshed <-chan struct{}, say func(string)) // nil: leave it in peace
	close   func()
}

func (t *target) transport(base http.RoundTripper, onEvent func(context.Context, walletauth.Event)) *walletauth.Transport {
	return &walletauth.Transport{
		Store: t.store, BaseURL: t.baseURL, ProjectID: t.project,
		Base: base, OnEvent: onEvent,
	}
}

// check finds a wrong URL or project before the first request does. A Transport
// says what is wrong with it from every call, and Shutdown of one that was
// never used does nothing else.
func (t *target) check() error {
	return t.transport(nil, nil).Shutdown(context.Background())
}

// standIn starts an API on a loopback socket that is made to fail.
func standIn(duration time.Duration) (*target, error) {
	lifetime := min(3*time.Second, duration/4) // a short run has its expiries too
	srv := walletauthtest.NewServer(walletauthtest.Config{ProjectID: "quickstart", AccessTokenTTL: lifetime})
	const user = "ada"
	store := &walletauth.MemoryStore{}
	trouble := &trouble{srv: srv, user: user, beat: lifetime / 3}
	return &target{
		baseURL: srv.URL, project: "quickstart", store: store,
		workers: 8, pause: 20 * time.Millisecond, writeEvery: 20,
		disturb: trouble.make, close: srv.Close,
	}, walletauth.Save(context.Background(), store, "", srv.Login(user))
}

// trouble is what befalls the stand-in: after one refresh nothing, so that the
// token expires, after the next the token is revoked, and after the third the
// refresh endpoint is down as well.
type trouble struct {
	srv  *walletauthtest.Server
	user string
	beat time.Duration // a third of a token's life
}

// make makes trouble until ctx ends. It waits for a beat after each refresh,
// because two revocations on each other's heels would hit a request and its
// replay, and a second 401 is the caller's to see: that is no fault to show here.
func (t *trouble) make(ctx context.Context, refreshed <-chan struct{}, say func(string)) {
	for round := 0; ; round++ {
		select {
		case <-refreshed:
		case <-ctx.Done():
			return
		}
		if !sleep(ctx, t.beat) {
			return
		}
		switch round % 3 {
		case 1:
			say("the stand-in revokes the access token")
			t.srv.RevokeAccess(t.user)
		case 2:
			t.outage(ctx, say)
		}
	}
}

// outage takes the refresh endpoint down for a beat, and revokes the token so
// that it is needed.
func (t *trouble) outage(ctx context.Context, say func(string)) {
	say("the stand-in revokes the access token and answers refreshes with 503")
	t.srv.FailRefresh(-1, walletauthtest.Fault{Status: http.StatusServiceUnavailable})
	t.srv.RevokeAccess(t.user)
	sleep(ctx, t.beat)
	t.srv.ClearFaults() // also when the run ends here, for the requests that wait
	say("the stand-in answers refreshes again")
}

// sleep waits for d and reports whether ctx let it.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
