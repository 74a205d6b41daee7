package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// api stands for a service with a token endpoint. It is in memory and costs
// next to nothing, so that what is measured is the transport in front of it.
type api struct {
	url   string            // where it seems to be
	base  http.RoundTripper // carries requests to it
	delay time.Duration     // how long the token endpoint takes
	hold  func()            // called for each request before it is answered, if set

	life      atomic.Int64              // of the tokens it issues, in nanoseconds
	down      atomic.Bool               // the token endpoint answers 503
	opening   atomic.Bool               // every token that was issued works, however long ago
	serial    atomic.Int64              // of the token issued last
	calls     atomic.Int64              // to the token endpoint, failed ones too
	firstCall atomic.Pointer[time.Time] // when that was
	requests  atomic.Int64              // of all others
	accepted  sync.Map                  // the tokens that work, and until when
}

// newAPI returns an api whose tokens live for life.
func newAPI(delay, life time.Duration) *api {
	a := &api{url: "https://testnet.walletkit.com", delay: delay}
	a.base = a
	a.life.Store(int64(life))
	return a
}

// grant is what the token endpoint answers.
type grant struct {
	token   string
	expires time.Time
}

var errDown = errors.New("503 Service Unavailable")

// issue is the token endpoint.
func (a *api) issue(ctx context.Context) (grant, error) {
	a.calls.Add(1)
	if now := time.Now(); a.firstCall.Load() == nil {
		a.firstCall.CompareAndSwap(nil, &now)
	}
	if a.delay > 0 {
		select {
		case <-time.After(a.delay):
		case <-ctx.Done():
			return grant{}, ctx.Err()
		}
	}
	if a.down.Load() {
		return grant{}, errDown
	}
	return a.mint(), nil
}

// mint makes a token. A client that begins with one gets it from here: that
// takes no time and does not count.
func (a *api) mint() grant {
	g := grant{fmt.Sprintf("access-token-%020d", a.serial.Add(1)), time.Now().Add(time.Duration(a.life.Load()))}
	a.accepted.Store(g.token, g.expires)
	return g
}

// RoundTrip answers a request: 401 unless its token works.
func (a *api) RoundTrip(req *http.Request) (*http.Response, error) {
	if strings.HasSuffix(req.URL.Path, "/access_tokens") {
		return a.issueInstallation(req)
	}
	a.requests.Add(1)
	_, token, _ := strings.Cut(req.Header.Get("Authorization"), " ")
	if a.hold != nil {
		a.hold()
	}
	if until, ok := a.accepted.Load(token); ok && (a.opening.Load() || time.Now().Before(until.(time.Time))) {
		return reply(req, http.StatusOK, nil), nil
	}
	return reply(req, http.StatusUnauthorized, nil), nil
}

// issueInstallation is the token endpoint in the form that GitHub has.
func (a *api) issueInstallation(req *http.Request) (*http.Response, error) {
	g, err := a.issue(req.Context())
	if errors.Is(err, errDown) {
		return reply(req, http.StatusServiceUnavailable, nil), nil
	}
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(map[string]any{"token": g.token, "expires_at": g.expires})
	return reply(req, http.StatusCreated, body), err
}

// ServeHTTP is the api on a socket.
func (a *api) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	resp, err := a.RoundTrip(req)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(w, resp.Body) // a client that has left misses nothing
}

func reply(req *http.Request, status int, body []byte) *http.Response {
	return &http.Response{
		StatusCode: status, Status: http.StatusText(status), Header: http.Header{},
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)), Request: req,
	}
}

// idle is a base transport that costs nothing: it answers with the response
// that a request brings along in its context. Other requests, those for tokens
// among them, go to the api.
type idle struct{ api *api }

func (i idle) RoundTrip(req *http.Request) (*http.Response, error) {
	if resp, ok := req.Context().Value(answerKey{}).(*http.Response); ok {
		return resp, nil
	}
	return i.api.RoundTrip(req)
}

type answerKey struct{}

// bringAnswer returns req with the response that idle answers with, the same each
// time that it is sent.
func bringAnswer(req *http.Request) *http.Request {
	resp := &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: http.NoBody}
	return req.WithContext(context.WithValue(req.Context(), answerKey{}, resp))
}
