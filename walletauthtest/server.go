package walletauthtest

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"path"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/walletauth/walletauth"
)

// Config says how a [Server] behaves. The zero value is a strict server,
// by the real clock. It is read once, when the server is made.
type Config struct {
	// ProjectID is the one project the server knows. Default "project".
	ProjectID string
	// AccessTokenTTL is how long an access token works, cut to microseconds.
	// Default 5 minutes; negative: tokens have expired when they are issued.
	AccessTokenTTL time.Duration
	// RefreshTokenTTL is how long a refresh token works, counted anew for
	// each token. Default 30 days; negative: as for AccessTokenTTL.
	RefreshTokenTTL time.Duration

	// KeepRefreshToken lets a refresh answer with the refresh token it was
	// given, which then works any number of times until it expires. Default:
	// every refresh issues a new one, and each works once.
	KeepRefreshToken bool
	// NewSessionID gives the session a new id at every refresh; the old id
	// works no more, like the old refresh token. Default: the id stays.
	NewSessionID bool
	// ReuseGrace is for how long, from its first use, a used refresh token is
	// answered as it was then: with the same tokens, however often it comes. That is
	// no violation and counts as Stats.Repeats. Such a grace is how some servers
	// forgive a client that lost the answer to a refresh. Default: none, so that
	// reuse ends the session at once.
	ReuseGrace time.Duration
	// OneAccessToken ends the old access token at every refresh. Default: it
	// works until it expires, so that requests under way are not refused.
	OneAccessToken bool

	// CORS lists the origins whose pages may call the server from a browser, each
	// as a browser sends it ("http://127.0.0.1:8080"), or "*" for all. Their
	// preflights are answered, and replies may be read by them, refusals too. The
	// request headers that they may set are Authorization, Content-Type,
	// X-WalletKit-Project-ID, X-WalletKit-Token-Source and UserHeader; cookies are
	// not. Default: none, and preflights are refused. An entry that is no origin
	// panics in NewServer, since no browser would ever send it.
	CORS []string

	// Clock is the server's time: tokens expire by it, replies are dated by
	// it, delays wait for it. Default: the time of package time, which in a
	// synctest bubble is the bubble's.
	Clock walletauth.Clock

	// TB, if set, is the test the server belongs to: every violation (see
	// Server.Violations) is reported with TB.Errorf, and the server is
	// closed by TB.Cleanup. Leave it nil in a test that breaks the protocol on
	// purpose. Default: violations are only counted and listed.
	TB testing.TB
}

func (c Config) projectID() string {
	if c.ProjectID == "" {
		return "project"
	}
	return c.ProjectID
}

func (c Config) accessTokenTTL() time.Duration {
	if c.AccessTokenTTL == 0 {
		return 5 * time.Minute
	}
	return c.AccessTokenTTL
}

func (c Config) refreshTokenTTL() time.Duration {
	if c.RefreshTokenTTL == 0 {
		return 30 * 24 * time.Hour
	}
	return c.RefreshTokenTTL
}

// Server is a stand-in for WalletKit's API. Make one with [NewServer] or
// [NewUnstartedServer]; the zero value does not work. All its methods are safe
// for concurrent use, but for Start and StartTLS, which come before everything
// that uses URL.
//
// It is an [http.Handler], so that it can be put behind a handler or a
// listener of your own.
type Server struct {
	// URL is where the server is reached, without a slash at the end:
	// "http://127.0.0.1:12345" for example. Before Start it is
	// "https://walletkit.test", for use with RoundTripper, which serves every
	// host.
	URL string

	config Config
	mux    *http.ServeMux
	socket *httptest.Server // nil unless started
	offset atomic.Int64     // of the clock, a time.Duration

	sessions   sessions
	wallets    wallets
	challenges challenges
	faults     faults
	counters   counters

	mu     sync.Mutex // guards closed, and serving.Add against serving.Wait
	closed bool
	// closing ends when Close begins: what waits on purpose stops waiting.
	closing context.Context
	close   context.CancelFunc
	serving sync.WaitGroup
}

var _ http.Handler = (*Server)(nil)

// NewServer starts a server on a loopback socket, over plain HTTP. The caller
// closes it, unless config.TB is set. Like httptest it panics when there is no
// loopback interface.
func NewServer(config Config) *Server {
	s := NewUnstartedServer(config)
	s.Start()
	return s
}

// NewUnstartedServer returns a server without a socket: [Server.Client] and
// [Server.RoundTripper] reach it in memory. It may be made and used in a
// synctest bubble. [Server.Start] or [Server.StartTLS] gives it a socket, and
// then the caller closes it, unless config.TB is set.
func NewUnstartedServer(config Config) *Server {
	s := &Server{URL: "https://walletkit.test", config: config, mux: http.NewServeMux()}
	checkOrigins(config.CORS)
	s.closing, s.close = context.WithCancel(context.Background())
	s.handleEndpoints()
	if config.TB != nil {
		config.TB.Cleanup(s.Close)
	}
	return s
}

// Start opens a loopback socket with plain HTTP and sets URL. It panics if the
// server has one already, or there is no loopback interface.
func (s *Server) Start() {
	s.listen().Start()
	s.URL = s.socket.URL
}

// StartTLS opens a loopback socket with TLS, HTTP/2 included, and sets URL.
// Only [Server.Client] trusts its certificate. It panics if the server has a
// socket already, or there is no loopback interface.
func (s *Server) StartTLS() {
	s.listen().EnableHTTP2 = true
	s.socket.StartTLS()
	s.URL = s.socket.URL
}

func (s *Server) listen() *httptest.Server {
	if s.socket != nil {
		panic("walletauthtest: the server has been started")
	}
	s.socket = httptest.NewUnstartedServer(s)
	return s.socket
}

// Close ends all delays, waits until no request is being served, and closes
// the socket. Requests that come later fail. It may be called twice. It waits
// for a Fault.Do that has not returned, and for the handlers of Handle, too.
func (s *Server) Close() {
	s.close()
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.serving.Wait()
	if s.socket != nil {
		s.socket.Close()
	}
}

// Client returns an HTTP client that reaches the server and, after StartTLS,
// trusts its certificate. It adds nothing to a request. Its connections are
// closed by Close. Before Start it works in memory.
func (s *Server) Client() *http.Client {
	if s.socket == nil {
		return &http.Client{Transport: s.RoundTripper()}
	}
	return s.socket.Client()
}

// Handle adds an endpoint that takes a session's bearer. handler is called once
// the headers have been checked and finds the user with [UserID]; the body is
// left to it, so it may stream or, over a socket, hijack the connection. pattern
// is one of [http.ServeMux]; Handle panics if that is malformed or taken.
func (s *Server) Handle(pattern string, handler http.Handler) {
	s.route(&endpoint{pattern: pattern, bearer: true, custom: handler})
}

// ServeHTTP handles one request, whatever its host. After Close, and where a
// Fault drops the connection, it panics with [http.ErrAbortHandler], at which
// net/http hangs up.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !s.enter() {
		panic(http.ErrAbortHandler)
	}
	defer s.serving.Done()
	w.Header().Set("Date", s.now().UTC().Format(http.TimeFormat))
	s.counters.add(func(c *Stats) { c.Requests++ })
	s.allowOrigin(w, r)
	switch clean := path.Clean("/" + r.URL.Path); {
	case isPreflight(r):
		s.preflight(w, r)
	case r.URL.Path != clean && r.URL.Path != clean+"/":
		s.notFound(w, r) // ServeMux would redirect, which the API does not
	default:
		s.mux.ServeHTTP(w, r)
	}
}

func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.serving.Add(1)
	return true
}

// SetClockOffset makes the server's clock differ from [Config.Clock] by d,
// negative if it is behind. Tokens that were issued keep the expiry they have.
// Zero ends the difference.
func (s *Server) SetClockOffset(d time.Duration) { s.offset.Store(int64(d)) }

func (s *Server) now() time.Time {
	return s.clock().Now().Add(time.Duration(s.offset.Load()))
}

func (s *Server) clock() walletauth.Clock {
	if s.config.Clock == nil {
		return systemClock{}
	}
	return s.config.Clock
}

type systemClock struct{}

func (systemClock) Now() time.Time                         { return time.Now() }
func (systemClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// maxBody is far above any body the API takes.
const maxBody = 1 << 20

// route registers e: it counts the request, lets a fault strike if one is
// due, and serves it.
func (s *Server) route(e *endpoint) {
	s.faults.know(e.pattern)
	s.mux.HandleFunc(e.pattern, func(w http.ResponseWriter, r *http.Request) {
		s.counters.request(e.pattern)
		// The body is read first: only then does net/http notice that a
		// client leaves during a delay.
		if e.custom == nil {
			body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
			if err != nil {
				panic(http.ErrAbortHandler) // the client has gone
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
		}
		serve := func(w http.ResponseWriter, r *http.Request) { s.serve(e, w, r) }
		if fault, due := s.faults.take(e); due {
			s.strike(fault, w, r, serve)
			return
		}
		serve(w, r)
	})
}
