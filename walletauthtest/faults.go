package walletauthtest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"time"
)

// Fault is what befalls a request. Its fields combine: the request is held
// for Delay, then dropped, or answered with Status, Header and Body, or, if
// none of these is set, served as usual. The zero Fault therefore does
// nothing, which lets a request pass between two that fail.
//
//	// Slow, overloaded, redirected, somebody else's 200:
//	Fault{Delay: time.Second}
//	Fault{Status: 503, Header: http.Header{"Retry-After": {"2"}}}
//	Fault{Status: 307, Header: http.Header{"Location": {url}}}
//	Fault{Body: "<html>Log in to this network</html>"}
//
//	// No answer, and nothing has happened; no answer, and the token has been used:
//	Fault{Drop: true}
//	Fault{Drop: true, After: true}
type Fault struct {
	// Do, if set, is called before Delay, in the goroutine of the request: to
	// tell the test that the request is there or, with After, that it has taken
	// effect, and to hold it until the test says so. It must not read the body.
	Do func(*http.Request)
	// Delay holds the request, by the server's clock. It ends early, and the
	// request with it, when the client leaves or the server is closed.
	Delay time.Duration
	// After lets the request take effect before it is held and before it
	// fails: the refresh token has been used, the wallet made. Without After a
	// request that fails has no effect. Whatever it does, it is answered as
	// Status and Body or Drop say, or as usual if they do not.
	After bool
	// Drop closes the connection without an answer. Mind that net/http sends
	// a GET again by itself if the connection had been used before.
	Drop bool
	// Status, if not 0, is the answer's status, 200 to 999. Default 200 if
	// Header or Body is set.
	Status int
	// Header is added to the answer; it may replace Date. Unless it names
	// Content-Type, that is application/json for a Body that is a JSON object, as
	// the API answers, and otherwise what net/http guesses from Body. A
	// Content-Length larger than Body makes an answer that breaks off.
	Header http.Header
	// Body is the answer's body, as it is.
	Body string
}

func (f *Fault) answers() bool { return f.Status != 0 || f.Header != nil || f.Body != "" }

// API stands for all endpoints that take a session's bearer, in [Server.Fail]
// only.
const API = ""

// Fail makes f befall the next n requests of an endpoint, all if n is negative,
// none if it is 0. Further calls queue up behind: their faults strike when the ones
// before are used up. endpoint is a constant of this package or a pattern given
// to [Server.Handle]; any other panics, as a fault that never strikes would
// make a test pass for no reason. With [API], f befalls whichever endpoint with
// a bearer is called next; faults of the endpoint itself go first.
func (s *Server) Fail(endpoint string, n int, f Fault) { s.faults.add(endpoint, n, f) }

// FailRefresh makes f befall the next n refreshes, all if n is negative: it is
// [Server.Fail] for [RefreshToken].
func (s *Server) FailRefresh(n int, f Fault) { s.Fail(RefreshToken, n, f) }

// ClearFaults forgets all faults that have not struck yet. Requests that are
// being held stay so.
func (s *Server) ClearFaults() { s.faults.clear() }

// faults is what waits to strike, by endpoint.
type faults struct {
	mu    sync.Mutex // guards all below
	known []string
	queue map[string][]*pendingFault
}

type pendingFault struct {
	Fault
	left int // negative: for ever
}

func (fs *faults) know(endpoint string) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.known = append(fs.known, endpoint)
}

func (fs *faults) add(endpoint string, n int, f Fault) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if endpoint != API && !slices.Contains(fs.known, endpoint) {
		panic(fmt.Sprintf("walletauthtest: Fail: there is no endpoint %q", endpoint))
	}
	if n == 0 {
		return
	}
	if fs.queue == nil {
		fs.queue = make(map[string][]*pendingFault)
	}
	fs.queue[endpoint] = append(fs.queue[endpoint], &pendingFault{f, n})
}

func (fs *faults) clear() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.queue = nil
}

func (fs *faults) take(e *endpoint) (Fault, bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	from := e.pattern
	if len(fs.queue[from]) == 0 && e.bearer {
		from = API
	}
	if len(fs.queue[from]) == 0 {
		return Fault{}, false
	}
	next := fs.queue[from][0]
	if next.left--; next.left == 0 {
		fs.queue[from] = fs.queue[from][1:]
	}
	return next.Fault, true
}

// strike serves a request that f befalls.
func (s *Server) strike(f Fault, w http.ResponseWriter, r *http.Request, serve http.HandlerFunc) {
	s.counters.add(func(c *Stats) { c.Faults++ })
	unsent := httptest.NewRecorder()
	if f.After {
		serve(unsent, r)
	}
	if f.Do != nil {
		f.Do(r)
	}
	if !s.hold(r.Context(), f.Delay) || f.Drop {
		panic(http.ErrAbortHandler) // net/http's way to hang up
	}
	switch {
	case f.answers():
		f.answer(w)
	case f.After:
		resend(w, unsent.Result())
	default:
		serve(w, r)
	}
}

// hold waits and reports whether anybody is left to be served.
func (s *Server) hold(client context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	select {
	case <-s.clock().After(d):
		return true
	case <-client.Done():
	case <-s.closing.Done():
	}
	return false
}

func (f *Fault) answer(w http.ResponseWriter) {
	if body := []byte(f.Body); json.Valid(body) && bytes.HasPrefix(bytes.TrimSpace(body), []byte("{")) {
		w.Header().Set("Content-Type", "application/json")
	}
	for name, values := range f.Header {
		w.Header()[http.CanonicalHeaderKey(name)] = values
	}
	status := f.Status
	if status == 0 {
		status = http.StatusOK
	}
	w.WriteHeader(status)
	_, _ = io.WriteString(w, f.Body) // fails only if the client has gone, or the status has no body
}

func resend(w http.ResponseWriter, reply *http.Response) {
	for name, values := range reply.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(reply.StatusCode)
	_, _ = io.Copy(w, reply.Body) // fails only if the client has gone
}
