//go:build linux

package chaos_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"time"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

// api is the strict stand-in behind a handler that knows which process sends
// what, and may kill it at the most awkward moment.
type api struct {
	*walletauthtest.Server
	socket *httptest.Server
	ledger *ledger
	fleet  *fleet
	lost   func(key string) // is called when a session has ended

	oneByOne sync.Mutex // so that the ledger has the order of the stand-in
	trouble  atomic.Pointer[trouble]
	aim      atomic.Pointer[shot]
}

// trouble befalls every other request, before it has any effect. What is lost
// after a refresh was granted is lost with a process that is killed and in no
// other way: see the package.
type trouble struct {
	status int
	header http.Header
	delay  time.Duration // up to
	drop   bool
}

// shot kills the next process that is granted a refresh: instead of the reply,
// or some time after it.
type shot struct {
	instead bool
	after   time.Duration
	hit     chan *process
}

func newAPI(l *ledger, grace time.Duration) *api {
	config := walletauthtest.Config{AccessTokenTTL: lifetime, ReuseGrace: grace}
	a := &api{Server: walletauthtest.NewUnstartedServer(config), ledger: l}
	a.socket = httptest.NewServer(a)
	return a
}

func (a *api) Close() {
	a.Server.Close()
	a.socket.Close()
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if t := a.trouble.Load(); t != nil && rand.N(2) == 0 && !t.pass(w) {
		return
	}
	if r.URL.Path == "/users/refresh-token" {
		a.refresh(w, r)
		return
	}
	a.Server.ServeHTTP(w, r)
}

// pass reports whether the request is to be served after all.
func (t *trouble) pass(w http.ResponseWriter) bool {
	if t.delay > 0 {
		<-time.After(rand.N(t.delay))
	}
	if t.drop {
		panic(http.ErrAbortHandler) // net/http's way to hang up
	}
	if t.status == 0 {
		return true
	}
	for name, values := range t.header {
		w.Header()[name] = values
	}
	w.WriteHeader(t.status)
	return false
}

func (a *api) refresh(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler) // it was killed
	}
	reply, first := a.commit(r, body)
	p := a.fleet.named(r.UserAgent())
	var aim *shot
	if first && p != nil {
		aim = a.aim.Swap(nil)
	}
	if aim != nil && aim.instead {
		a.fire(aim, p)
		panic(http.ErrAbortHandler)
	}
	send(w, reply)
	if aim != nil {
		<-time.After(aim.after)
		a.fire(aim, p)
	}
}

func (a *api) fire(s *shot, p *process) {
	a.fleet.kill(p)
	s.hit <- p
}

// commit has the stand-in answer, and notes what it did. It reports whether a
// refresh was granted for the first time.
func (a *api) commit(r *http.Request, body []byte) (reply *httptest.ResponseRecorder, first bool) {
	a.oneByOne.Lock()
	defer a.oneByOne.Unlock()
	r.Body = io.NopCloser(bytes.NewReader(body))
	reply = httptest.NewRecorder()
	a.Server.ServeHTTP(reply, r)
	var sent struct {
		ID    string `json:"session_id"`
		Token string `json:"refresh_token"`
	}
	_ = json.Unmarshal(body, &sent) // if it fails, the stand-in has called it a violation
	var next walletauth.Session
	if reply.Code == http.StatusOK && json.Unmarshal(reply.Body.Bytes(), &next) == nil {
		return reply, a.ledger.granted(r.UserAgent(), sent.Token, &next)
	}
	if key := a.ledger.refused(r.UserAgent(), sent.ID, sent.Token); key != "" {
		a.lost(key)
	}
	return reply, false
}

// send sends the reply whole, though the handler may go on.
func send(w http.ResponseWriter, reply *httptest.ResponseRecorder) {
	for name, values := range reply.Header() {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Length", fmt.Sprint(reply.Body.Len()))
	w.WriteHeader(reply.Code)
	_, _ = w.Write(reply.Body.Bytes())        // fails only if the client has gone,
	_ = http.NewResponseController(w).Flush() // and so does this
}
