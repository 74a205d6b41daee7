package main

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

// peer is one way to get a session's token onto its requests.
type peer struct {
	name   string
	module string        // whose version is stated; none for the floor
	window time.Duration // how long before its expiry a token is refreshed, at the earliest
	spread time.Duration // by how much later it may be
	pause  time.Duration // there is at least this much between two fetches
	fixed  bool          // has one token for ever: what expires is beyond it

	// open returns a client for each of n sessions, which hold a token of a
	// each.
	open func(a *api, n int) ([]client, error)
}

// client sends the requests of one session. The peers know one session per
// transport, so a program with 1,000 has 1,000 of them and finds the right one
// by itself; here that costs them nothing.
type client struct {
	rt  http.RoundTripper
	ctx context.Context
}

// one returns a client with one session.
func (p *peer) one(a *api) (client, error) {
	clients, err := p.open(a, 1)
	if err != nil {
		return client{}, fmt.Errorf("%s: %w", p.name, err)
	}
	return clients[0], nil
}

// each opens n clients that know nothing of each other, and sends a request
// through each where that is how it comes by its first token. A token that expires
// on the way works all the same.
func each(a *api, n int, open func() (http.RoundTripper, error)) ([]client, error) {
	clients := make([]client, n)
	delay := a.delay
	a.delay = 0
	a.opening.Store(true)
	defer func() { a.delay = delay; a.opening.Store(false); a.calls.Store(0); a.firstCall.Store(nil) }()
	for i := range clients {
		rt, err := open()
		if err != nil {
			return nil, err
		}
		clients[i] = client{rt, context.Background()}
		if status, err := clients[i].send(newRequest(clients[i].ctx, a.url, 5)); status != http.StatusOK {
			return nil, fmt.Errorf("the first request was answered %d, %w", status, err)
		}
	}
	return clients, nil
}

// send returns the status of the answer, 0 with an error.
func (c client) send(req *http.Request) (int, error) {
	resp, err := c.rt.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// The fields that WalletKit wants beside the token. Ours sets them; for the
// others the caller has to, so that the same eight fields go out.
const (
	projectHeader = "X-Walletkit-Project-Id"
	sourceHeader  = "X-Walletkit-Token-Source"
)

// newRequest returns a request with n fields of its own.
func newRequest(ctx context.Context, url string, n int) *http.Request {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/wallets", nil)
	if err != nil {
		panic(err) // the url is a constant or a test server's
	}
	for i := range n {
		req.Header.Set(fmt.Sprintf("Field-%d", i), "value")
	}
	return req
}

// request returns the request with n fields of its own that p is to send.
func (p *peer) request(c client, a *api, n int) *http.Request {
	req := newRequest(c.ctx, a.url, n)
	if p != ours && p != floor {
		req.Header.Set(projectHeader, "project")
		req.Header.Set(sourceHeader, "walletkit")
	}
	return req
}
