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
	"github.com/walletauth/walletauth/internal/body"
	"github.com/walletauth/walletauth/internal/drain"
	"github.com/walletauth/walletauth/internal/policy"
	"github.com/walletauth/walletauth/internal/serverclock"
	"github.com/walletauth/walletauth/internal/throttle"
)

// The addresses of WalletKit's API, by its documentation.
const (
	Testnet = "https://testnet.walletkit.com" // test networks; the default
	Mainnet = "https://mainnet.walletkit.com" // real assets
)

// Transport is an [http.RoundTripper] that keeps WalletKit sessions alive.
// Set it as http.Client.Transport. For each request to WalletKit it reads
// the session from Store, adds its access token, and refreshes the session
// before the token expires or when the API answers 401; the request is then
// sent again. All other requests pass through.
//
// Store is required; everything else is useful at zero. Fields must not be
// changed after first use. A Transport is safe for concurrent use and must
// not be copied. Make one and share it. It needs no Close, but call Shutdown
// before the program ends, so that every refreshed session is stored.
type Transport struct {
	// Store is where the sessions live. Required.
	Store TokenStore

	// ProjectID is sent as X-WalletKit-Project-ID. If empty, the project of the session is sent,
	// and the caller of a login has to set the header.
	ProjectID string

	// BaseURL is the API: Testnet, Mainnet, or another address, with a path if the API is below
	// one. Only requests to its scheme, host and port and below its path get a token. If empty,
	// Testnet.
	BaseURL string

	// Base sends requests and refreshes. If nil, http.DefaultTransport.
	Base http.RoundTripper

	// Key returns the key of the session that a request uses. If nil, the key that WithKey put
	// into its context. It is called concurrently and must not change the request. Keys are
	// shown in events and logs.
	Key func(*http.Request) string

	// Refresher exchanges a session for a new one. If nil, POST BaseURL/users/refresh-token by
	// Base.
	Refresher Refresher

	// TokenSource is sent as X-WalletKit-Token-Source beside a token. The API documents
	// walletkit, firebase and supabase. If empty, "walletkit".
	TokenSource string

	// RefreshBefore is how long before its expiry an access token is refreshed in the
	// background. If zero, a fifth of its lifetime, at most a minute; negative: never. More than
	// half of the lifetime counts as half. Requests wait for the refresh only in the last tenth
	// of the lifetime, at most 10 seconds, which this does not change.
	RefreshBefore time.Duration

	// RefreshTimeout bounds each attempt of a refresh, the wait for the lock before it and the
	// saving after it; no attempt begins later than this after the first. If zero, 30 seconds.
	// Negative is an error.
	RefreshTimeout time.Duration

	// MaxReplayBytes is how much of a body without GetBody is kept, so that the request can be
	// sent again after a 401. If zero, 64 KiB for each request in progress; negative: nothing. A
	// longer body gets its 401, and the session is refreshed for the next request.
	MaxReplayBytes int64

	// AllowHTTP permits plain http to a host other than localhost, names below it, 127.0.0.0/8
	// and ::1.
	AllowHTTP bool

	// CaptureLogin stores the session of a 2xx response of /users/login-anonymously,
	// /users/verify-login or /users/refresh-token under the request's key before the caller sees
	// it, and deletes it after a 2xx of /users/logout. Responses over 1 MiB or without a
	// complete session are not captured. What the store does not take is kept in memory and
	// tried again; see Status.Unsaved.
	//
	// It is off by default because it trusts the key: a server without keys would give all users
	// the session of whoever logged in last.
	CaptureLogin bool

	// Clock tells the time. If nil, the system does. A test that sets it must move it while
	// something waits: the next attempt of a refresh, or the 750 ms before a session is called
	// over.
	Clock Clock

	// OnEvent, if non-nil, is called for each event of a session; LogEvents makes one. It should
	// return soon, because those who wait for a refresh get the result after its last event. It
	// is called concurrently, but in order for the events of one refresh, with the values of the
	// context of the request that caused them. It may call Save and Delete, but no method of the
	// Transport, which may wait for the same refresh. A panic in it is an error of those who
	// wait.
	OnEvent func(context.Context, Event)

	once     sync.Once // sets what follows
	err      error     // what is wrong with the fields
	origin   api.Origin
	source   []string // the value of X-WalletKit-Token-Source
	sessions *sessions
}

var _ http.RoundTripper = (*Transport)(nil)

// RoundTrip implements [http.RoundTripper]. The Request of the response is
// req itself and so holds no token.
//
// The errors, apart from those of Base: a field of t is wrong; req is for
// the other of Testnet and Mainnet; [ErrNoSession]; [ErrSessionExpired]; a
// [RefreshError] or [StoreError] if there is no valid token; another user
// logged in while req waited; the token or project cannot be sent in a
// header; the error of req's context; t was shut down. A 401 remains a
// response unless the session is over. An [http.Client] wraps errors: use
// [errors.Is] and [errors.As].
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := t.ready(); err != nil {
		return nil, body.Close(req, err)
	}
	kind := t.origin.Kind(req)
	if kind == api.Outside {
		return t.passThrough(req)
	}
	resp, s, err := t.sendToAPI(req, kind)
	if err != nil || !t.CaptureLogin {
		return resp, err
	}
	return t.capture(kind, req, resp, s)
}

// CloseIdleConnections closes the idle connections of Base, if it has such a
// method.
func (t *Transport) CloseIdleConnections() {
	if base, ok := t.base().(interface{ CloseIdleConnections() }); ok {
		base.CloseIdleConnections()
	}
}

// Session returns a session that is fit to use now, refreshed if it was due,
// for what no RoundTripper reaches: the handshake of a WebSocket, or a page
// in a browser. The key comes from Key, called with a GET request for
// BaseURL that carries ctx. The result is the caller's own copy. The API may
// have revoked it; see [Transport.Renew].
//
// The errors are those of [Transport.RoundTrip] that concern the session.
func (t *Transport) Session(ctx context.Context) (*Session, error) {
	key, err := t.keyOf(ctx)
	if err != nil {
		return nil, err
	}
	return ownCopy(t.sessions.valid(ctx, key, t.sessions.server.LocalNow()))
}

// Renew returns a session newer than rejected, whose access token was
// refused outside of HTTP, by a WebSocket for example. If another token is
// current by now, nothing is refreshed; otherwise one refresh serves all who
// ask. The key is found as by [Transport.Session]. The result is the
// caller's own copy.
//
// The errors are those of Session; that rejected is nil; and that new tokens
// were refused as well: 401s and Renew cause at most 3 refreshes in 5
// minutes that do not help.
func (t *Transport) Renew(ctx context.Context, rejected *Session) (*Session, error) {
	if rejected == nil {
		return nil, errors.New("walletauth: Renew needs the session that was refused, as Transport.Session returned it: it is nil")
	}
	key, err := t.keyOf(ctx)
	if err != nil {
		return nil, err
	}
	c, _, err := t.sessions.renew(ctx, key, policy.Target{}, rejected)
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

// Status is what is known of a session, as [Transport.Status] returns it.
type Status struct {
	Session   *Session  // nil if there is none; it holds the tokens, and printing it is safe
	Over      error     // wraps ErrSessionExpired once the session has ended
	Unsaved   bool      // the store has not taken the session yet
	LastError error     // of the last refresh or save, nil since the last success
	RetryAt   time.Time // when a refresh may be tried again, by Clock; zero: now
}

// Status returns what is known of a session, from the store and from memory;
// it sends nothing to WalletKit. The key is found as by [Transport.Session].
// A missing session is not an error. The Session is the caller's own copy.
//
// The errors: a field of t is wrong; t was shut down; a [StoreError] if the
// store cannot be read and no valid session is remembered.
func (t *Transport) Status(ctx context.Context) (Status, error) {
	key, err := t.keyOf(ctx)
	if err != nil {
		return Status{}, err
	}
	c, err := t.sessions.load(ctx, key)
	status := t.sessions.status(key, c)
	if errors.Is(err, ErrNoSession) {
		err = nil
	}
	return status, err
}

// KeepAlive keeps a session fresh without traffic. The key is found as by
// [Transport.Session]. It blocks, so run it in a goroutine, and it keeps
// running through temporary failures. It returns ctx's error, one that wraps
// [ErrNoSession] or [ErrSessionExpired], that a field of t is wrong, or that
// t was shut down.
func (t *Transport) KeepAlive(ctx context.Context) error {
	key, err := t.keyOf(ctx)
	if err != nil {
		return err
	}
	return t.sessions.keepAlive(ctx, key)
}

// Shutdown waits until refreshes in progress are stored, and stores what
// could not be stored so far, trying for up to RefreshTimeout or until ctx
// ends. It starts nothing new: all later calls fail, and requests in flight
// get their 401 if they meet one. Call it before a program ends. It may be
// called again.
//
// The errors: a field of t is wrong; ctx ended first; or sessions could not
// be stored, with their number and the store's error.
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
	if t.sessions.work.Closed() {
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
	states := newKeyStates(clk)
	server := &serverclock.Clock{Local: clk}
	work := drain.New()
	store := &pendingStore{store: t.Store, states: states, clock: clk, timeout: timeout, work: work, emit: emit}
	limits := throttle.New(clk)
	limits.OnChange = func(down bool, err error, held int) { emit(context.Background(), endpointEvent(down, err, held)) }
	refreshes := &refreshGroup{
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
	case !api.ValidHeaderValue(t.ProjectID):
		return errors.New("walletauth: Transport.ProjectID cannot be sent in a header: remove control characters")
	case !api.ValidHeaderValue(t.TokenSource):
		return errors.New("walletauth: Transport.TokenSource cannot be sent in a header: remove control characters")
	case t.RefreshTimeout < 0:
		return errors.New("walletauth: Transport.RefreshTimeout is negative: use zero for the default of 30 s")
	}
	t.origin, err = api.Parse(cmp.Or(t.BaseURL, Testnet), t.AllowHTTP)
	return err
}
