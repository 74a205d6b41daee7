package walletauth

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/walletauth/walletauth/internal/api"
	"github.com/walletauth/walletauth/internal/policy"
	"github.com/walletauth/walletauth/internal/serverclock"
	"github.com/walletauth/walletauth/internal/throttle"
)

// The addresses of WalletKit's API, from its documentation, for
// [Transport.BaseURL].
const (
	Testnet = "https://testnet.walletkit.com" // test networks; the default
	Mainnet = "https://mainnet.walletkit.com" // real assets
)

// Transport is an [http.RoundTripper] that keeps WalletKit sessions alive. Set
// it as http.Client.Transport under an API client. For each request to WalletKit
// it reads the session from Store, adds its access token, and refreshes the
// session before the token expires or when the API answers 401; the request is
// then sent again. All other requests pass through untouched.
//
// Store is required. Everything else is useful at zero. Fields must not be
// changed after first use. A Transport is safe for concurrent use and must not
// be copied; make one and share it, since refreshes are collapsed per
// Transport and, between Transports, by the store.
//
// It starts no goroutine before it has something to do, and needs no Close. A
// program that is about to end calls Shutdown, so that no refreshed session is
// lost on its way to the store.
type Transport struct {
	// Store is where the sessions live. Required.
	Store TokenStore

	// ProjectID is sent as X-WalletKit-Project-ID. If empty, the session's
	// project is sent; then a login, before which there is no session, needs
	// the header from its caller.
	ProjectID string

	// BaseURL is the API: Testnet, Mainnet, or the address of a stand-in, with
	// a path if the API is mounted below one, and without user, query and
	// fragment. Only requests to its scheme, host and port and under its path
	// get a token. If empty, Testnet.
	BaseURL string

	// Base sends the requests, and the refreshes too. If nil,
	// http.DefaultTransport.
	Base http.RoundTripper

	// Key says whose session a request uses. If nil, what WithKey put into
	// the request's context, "" if nothing. It is called concurrently, with
	// the caller's request, which it must not change.
	Key func(*http.Request) string

	// Refresher exchanges a session for a new one. If nil, POST
	// BaseURL/users/refresh-token through Base.
	Refresher Refresher

	// TokenSource is sent as X-WalletKit-Token-Source beside a token. The API
	// documents walletkit, firebase and supabase. If empty, "walletkit".
	TokenSource string

	// RefreshBefore is how long before its expiry an access token is
	// refreshed. Requests do not wait for it. If zero, a fifth of the token's
	// lifetime, at most a minute. If negative, no refresh runs ahead. More
	// than half of the lifetime counts as half.
	//
	// It does not affect the last moments before expiry, 10 seconds but at
	// most a tenth of the lifetime, in which requests do wait.
	RefreshBefore time.Duration

	// RefreshTimeout is how long each attempt of a refresh may take, and how
	// long after the first the last may begin. It also bounds the wait for the
	// store's lock before an attempt, and the saving after it. If zero, 30
	// seconds. Negative is an error.
	RefreshTimeout time.Duration

	// MaxReplayBytes is how much of a request body is kept so that it can be
	// sent again after a 401, where the request has no GetBody. If zero,
	// 64 KiB for each request under way. If negative, nothing is kept. A
	// longer body is not sent again: its 401 is returned, and the session is
	// refreshed for the next request.
	MaxReplayBytes int64

	// AllowHTTP permits a BaseURL with plain http to a host that is not
	// loopback: localhost, a name below it, 127.0.0.0/8 or ::1. Tokens then
	// travel in clear.
	AllowHTTP bool

	// CaptureLogin saves the sessions that login responses carry: a 2xx answer
	// of /users/login-anonymously, /users/verify-login or /users/refresh-token
	// is stored under the request's key before the caller sees it, and a 2xx of
	// /users/logout deletes the session it was for. Answers of 1 MiB or more,
	// or without a complete session, are not captured. What the store does not take
	// is kept in memory and tried again, see SaveFailed and Status.Unsaved.
	//
	// It is off by default because it trusts the key: a server that logs in
	// many users without telling them apart by keys would hand each one the
	// session of the last.
	CaptureLogin bool

	// Clock tells the time. If nil, clock.New() of github.com/benbjohnson/clock:
	// the system's. With a clock that a test sets, pauses end when the test moves
	// it: before the next attempt of a refresh, and for up to 750 ms before a
	// session is called over.
	Clock Clock

	// OnEvent, if non-nil, is called for each session event; LogEvents makes
	// one. It is called synchronously, so it should return soon: those who wait
	// for a refresh get the result after its last event. The store's lock is not
	// held, so Save and Delete may be called from it, but methods of the
	// Transport may wait for the very refresh that the event is part of. The
	// context carries the values of the request that caused the event, and may
	// have ended. It is called concurrently, except for the events of one
	// refresh, which come in order. A panic in it is an error of those who wait
	// for the refresh.
	OnEvent func(context.Context, Event)

	once     sync.Once // sets what follows
	err      error     // what is wrong with the fields
	origin   api.Origin
	source   []string // the value of X-WalletKit-Token-Source
	sessions *sessions
}

var _ http.RoundTripper = (*Transport)(nil)

// RoundTrip sends req with the token of its session and returns the answer,
// whose Request is req itself and so holds no token. See [http.RoundTripper]
// for the rest of the contract.
//
// The errors, apart from those of Base: a field of t is wrong or missing; the
// request is for the other of Testnet and Mainnet; [ErrNoSession];
// [ErrSessionExpired]; a [RefreshError] or [StoreError] where the token has
// expired and could not be refreshed; a [StoreError] where the store cannot be
// read and no valid session is remembered; another user logged in while the
// request waited; the session's token or project cannot be sent in a header; the
// error of the request's context if it ended while waiting; t was shut down. A
// 401 that no refresh mends is not an error but the response, unless the session
// is over. An [http.Client] wraps them in a [net/url.Error]: use [errors.Is] and
// [errors.As].
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := t.ready(); err != nil {
		return nil, closeBody(req, err)
	}
	kind := t.origin.Kind(req)
	if kind == api.Outside {
		return t.passThrough(req)
	}
	resp, s, err := t.sendToAPI(req, kind)
	if err != nil || !t.CaptureLogin {
		return resp, err
	}
	return t.captureSession(kind, req, resp, s)
}

// CloseIdleConnections closes the idle connections of Base, or of
// [http.DefaultTransport] if Base is nil. It does nothing if Base has no such
// method. [http.Client.CloseIdleConnections] calls it.
func (t *Transport) CloseIdleConnections() {
	if base, ok := t.base().(interface{ CloseIdleConnections() }); ok {
		base.CloseIdleConnections()
	}
}

// Session returns a session that is fit to use now, refreshed if it was due,
// for what no RoundTripper reaches: the handshake of a WebSocket, or a page
// that gets a token. The key comes from Key, called with a GET request for
// BaseURL that carries ctx. The result is the caller's own copy. Its access token
// has not expired by the server's clock, but may be about to, and the API may
// have revoked it; see [Transport.Renew].
//
// The errors are those of [Transport.RoundTrip] that concern the session: a
// field of t is wrong, [ErrNoSession], [ErrSessionExpired], a [RefreshError], a
// [StoreError], another user logged in meanwhile, the error of ctx if it ended
// while waiting, t was shut down.
func (t *Transport) Session(ctx context.Context) (*Session, error) {
	key, err := t.keyOf(ctx)
	if err != nil {
		return nil, err
	}
	return ownCopy(t.sessions.valid(ctx, key, t.sessions.server.LocalNow()))
}

// Renew returns a session newer than rejected, whose access token was refused
// outside of HTTP, by a WebSocket for example. If another token is current by
// now, that session is returned and nothing is refreshed; otherwise one refresh
// serves all who ask. The key comes from Key, called with a GET request for
// BaseURL that carries ctx. The result is the caller's own copy.
//
// The errors are those of [Transport.Session]; that rejected is nil; and that
// nothing was refreshed because new tokens were refused as well: 401s and Renew
// together cause at most 3 refreshes of a key in 5 minutes that do not help.
func (t *Transport) Renew(ctx context.Context, rejected *Session) (*Session, error) {
	if rejected == nil {
		return nil, errors.New("walletauth: Renew needs the session that was refused, as Transport.Session returned it: it is nil")
	}
	key, err := t.keyOf(ctx)
	if err != nil {
		return nil, err
	}
	c, err := t.sessions.renew(ctx, key, policy.Target{}, rejected)
	if err == nil && c.session.UserID != rejected.UserID {
		err = errOtherUser
	}
	return ownCopy(c, err)
}

func ownCopy(c *credentials, err error) (*Session, error) {
	if err != nil {
		return nil, err
	}
	s := *c.session
	return &s, nil
}

// KeepAlive keeps the session of ctx fresh without any traffic, so that the
// first request after a quiet hour needs no wait. The key comes from Key, called
// with a GET request for BaseURL that carries ctx. It blocks; run it in a
// goroutine. It keeps running through temporary failures.
//
// It returns the error of ctx when that ends; one that wraps [ErrNoSession] or
// [ErrSessionExpired] when the session is gone or over, at once if nobody is
// logged in; that a field of t is wrong; or that t was shut down.
func (t *Transport) KeepAlive(ctx context.Context) error {
	key, err := t.keyOf(ctx)
	if err != nil {
		return err
	}
	return t.sessions.keepAlive(ctx, key)
}

// Shutdown starts no further refresh, waits until those in progress are finished
// and stored, and stores what could not be stored so far, trying again for up
// to RefreshTimeout or until ctx ends. A refresh that waits to be tried again is
// given up. Call it before a program ends. All calls made later, requests
// included, fail; requests in flight go on, and get their 401 if they meet one.
//
// The errors: a field of t is wrong; ctx ended first; or sessions could not be
// stored, with their number and the store's error. It may be called again then,
// to try again.
func (t *Transport) Shutdown(ctx context.Context) error {
	if t.once.Do(t.configure); t.err != nil {
		return t.err
	}
	return t.sessions.shutdown(ctx)
}

// keyOf returns the key of what is not a request.
func (t *Transport) keyOf(ctx context.Context) (string, error) {
	if err := t.ready(); err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.origin.URL("/"), nil)
	if err != nil {
		return "", err
	}
	return t.key(req), nil
}

// ready says why t cannot work.
func (t *Transport) ready() error {
	if t.once.Do(t.configure); t.err != nil {
		return t.err
	}
	if t.sessions.work.closed() {
		return errShutdown
	}
	return nil
}

// configure reads the fields, once.
func (t *Transport) configure() {
	if t.err = t.check(); t.err != nil {
		return
	}
	t.source = []string{cmp.Or(t.TokenSource, "walletkit")}
	t.sessions = t.newSessions()
}

// newSessions puts together what stands below a Transport, from the bottom up.
func (t *Transport) newSessions() *sessions {
	var clk Clock = t.Clock
	if clk == nil {
		clk = clock.New()
	}
	timeout := cmp.Or(t.RefreshTimeout, 30*time.Second)
	onEvent := emitter(t.OnEvent)
	emit := func(ctx context.Context, e Event) { _ = onEvent.emit(ctx, e) } // its panic is nobody's error
	states := &keyStates{clock: clk}
	server := &serverclock.Clock{Local: clk}
	work := newWork()
	store := &pendingStore{store: t.Store, states: states, clock: clk, timeout: timeout, work: work, emit: emit}
	limits := throttle.New(clk)
	limits.OnChange = func(down bool, err error, held int) { emit(context.Background(), endpointEvent(down, err, held)) }
	refreshes := &refreshConfig{
		store: store, refresher: t.Refresher, throttle: limits, states: states, clock: clk, server: server,
		lifetimes: &policy.Lifetimes{}, timeout: timeout, project: t.ProjectID, process: rand.Uint64(),
		onEvent: onEvent, work: work,
	}
	if t.Refresher == nil {
		refreshes.refresher = &httpRefresher{base: t.base, url: t.origin.URL(api.RefreshPath), project: t.ProjectID, server: server}
	}
	return &sessions{
		store: store, states: states, refreshes: refreshes, clock: clk, server: server, lifetimes: refreshes.lifetimes,
		before: t.RefreshBefore, project: t.ProjectID, work: work, emit: emit,
	}
}

func (t *Transport) check() (err error) {
	switch {
	case t.Store == nil:
		return errors.New("walletauth: Transport.Store is nil: set it, to a *walletauth.MemoryStore for example")
	case t.Base == http.RoundTripper(t):
		return errors.New("walletauth: Transport.Base is the Transport itself: set what it is to send by, or leave it nil")
	case !validHeaderValue(t.ProjectID):
		return errors.New("walletauth: Transport.ProjectID cannot be sent in a header: remove control characters")
	case !validHeaderValue(t.TokenSource):
		return errors.New("walletauth: Transport.TokenSource cannot be sent in a header: remove control characters")
	case t.RefreshTimeout < 0:
		return errors.New("walletauth: Transport.RefreshTimeout is negative: use zero for the default of 30 s")
	}
	t.origin, err = api.Parse(cmp.Or(t.BaseURL, Testnet), t.AllowHTTP)
	return err
}

func (t *Transport) base() http.RoundTripper {
	if t.Base == nil {
		return http.DefaultTransport
	}
	return t.Base
}

func (t *Transport) key(req *http.Request) string {
	if t.Key == nil {
		return KeyFromContext(req.Context())
	}
	return t.Key(req)
}

func (t *Transport) maxReplay() int64 { return cmp.Or(t.MaxReplayBytes, 64<<10) }
