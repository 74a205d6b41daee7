package walletauth_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

// wire is a Transport between a client and a stand-in server, with one session,
// of user-1, in its store.
type wire struct {
	*walletauthtest.Server
	store     *walletauth.MemoryStore
	session   *walletauth.Session
	transport *walletauth.Transport
	client    *http.Client
}

// countEvents makes the transport count its events of one type.
func (w *wire) countEvents(what walletauth.EventType) *atomic.Int32 {
	var n atomic.Int32
	w.transport.OnEvent = func(_ context.Context, e walletauth.Event) {
		if e.Type == what {
			n.Add(1)
		}
	}
	return &n
}

// newWire works in memory, in a synctest bubble too.
func newWire(t *testing.T, config walletauthtest.Config) *wire {
	t.Helper()
	if config.TB == nil {
		config.TB = t
	}
	return connect(t, walletauthtest.NewUnstartedServer(config))
}

func connect(t *testing.T, srv *walletauthtest.Server) *wire {
	t.Helper()
	w := &wire{Server: srv, store: &walletauth.MemoryStore{}}
	w.session = w.login(t, "", "user-1")
	w.transport = &walletauth.Transport{Store: w.store, BaseURL: srv.URL, Base: srv.Client().Transport}
	w.client = &http.Client{Transport: w.transport}
	t.Cleanup(func() { _ = w.transport.Shutdown(context.Background()) }) // a refresh may still be retried
	return w
}

// overSockets runs test with a Transport over HTTP/1.1 and over HTTP/2.
func overSockets(t *testing.T, test func(t *testing.T, w *wire)) {
	for _, protocol := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(protocol, func(t *testing.T) {
			srv := walletauthtest.NewUnstartedServer(walletauthtest.Config{TB: t})
			if protocol == "HTTP/1.1" {
				srv.Start()
			} else {
				srv.StartTLS()
			}
			w := connect(t, srv)
			resp := w.mustDo(t, w.newRequest(t, "GET", "/wallets", nil))
			if drain(t, resp); resp.Proto != protocol {
				t.Fatalf("the test meant to use %s and got %s", protocol, resp.Proto)
			}
			test(t, w)
		})
	}
}

// login stores a new session of user under key.
func (w *wire) login(t *testing.T, key, user string) *walletauth.Session {
	t.Helper()
	s := w.Login(user)
	if err := walletauth.Save(t.Context(), w.store, key, s); err != nil {
		t.Fatal(err)
	}
	return s
}

func (w *wire) newRequest(t *testing.T, method, path string, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, w.URL+path, body)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func (w *wire) mustDo(t *testing.T, req *http.Request) *http.Response {
	t.Helper()
	resp, err := w.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// status sends a request without a body and returns the answer's status.
func (w *wire) status(t *testing.T, method, path string) int {
	t.Helper()
	resp := w.mustDo(t, w.newRequest(t, method, path, nil))
	drain(t, resp)
	return resp.StatusCode
}

func (w *wire) wantStatus(t *testing.T, method, path string, want int) {
	t.Helper()
	if got := w.status(t, method, path); got != want {
		t.Errorf("%s %s: status %d, want %d", method, path, got, want)
	}
}

func (w *wire) wantRefreshes(t *testing.T, want int) {
	t.Helper()
	if got := w.Requests(walletauthtest.RefreshToken); got != want {
		t.Errorf("%d refreshes were sent, want %d", got, want)
	}
}

// stored is the session of key, nil if there is none.
func (w *wire) stored(t *testing.T, key string) *walletauth.Session {
	t.Helper()
	s, err := w.store.Load(t.Context(), key)
	if err != nil && !errors.Is(err, walletauth.ErrNoSession) {
		t.Fatal(err)
	}
	return s
}

// sawHeader makes the transport's base remember the headers of what it sends
// last.
func (w *wire) sawHeader() func() http.Header {
	base := w.transport.Base
	var last atomic.Pointer[http.Header]
	w.transport.Base = roundTripFunc(func(req *http.Request) (*http.Response, error) {
		h := req.Header.Clone()
		last.Store(&h)
		return base.RoundTrip(req)
	})
	return func() http.Header { return *last.Load() }
}

// kept is a Transport whose session, stored under the key "", a stand-in server
// has issued. All of it is in memory and by the bubble's time.
type kept struct {
	*walletauth.Transport
	t      testing.TB
	srv    *walletauthtest.Server
	first  *walletauth.Session // the login
	events keptEvents
	bearer atomic.Pointer[string] // what the last request went out with
}

// edit makes k's base transport pass each response through change.
func (k *kept) edit(change func(*http.Request, *http.Response)) {
	base := k.Base
	k.Base = roundTripFunc(func(r *http.Request) (*http.Response, error) {
		resp, err := base.RoundTrip(r)
		if err == nil {
			resp.Header = resp.Header.Clone()
			change(r, resp)
		}
		return resp, err
	})
}

// rewrite changes the JSON of the next n replies to a refresh.
func (k *kept) rewrite(n int, change func(fields map[string]any)) {
	k.edit(func(r *http.Request, resp *http.Response) {
		if r.URL.Path != "/users/refresh-token" || resp.StatusCode != http.StatusOK || n == 0 {
			return
		}
		n--
		fields := map[string]any{}
		err := json.NewDecoder(resp.Body).Decode(&fields)
		_ = resp.Body.Close()
		if err != nil {
			k.t.Error(err)
		}
		change(fields)
		data, err := json.Marshal(fields)
		if err != nil {
			k.t.Error(err)
		}
		resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(data)), int64(len(data))
		resp.Header.Del("Content-Length")
	})
}

// lostNothing demands that no session ended and that the stores hold what the
// server issued last.
func (k *kept) lostNothing() {
	k.t.Helper()
	if st := k.srv.Stats(); st.Reuses != 0 || st.RefreshesRefused != 0 {
		k.t.Errorf("%d used tokens were sent, %d refreshes refused", st.Reuses, st.RefreshesRefused)
	}
}

// newKept returns a Transport over a MemoryStore, changed by change. A client
// that breaks the protocol fails the test.
func newKept(t testing.TB, change ...func(*kept)) *kept {
	t.Helper()
	return newKeptBy(t, walletauthtest.Config{TB: t}, change...)
}

func newKeptBy(t testing.TB, config walletauthtest.Config, change ...func(*kept)) *kept {
	t.Helper()
	k := &kept{t: t, srv: walletauthtest.NewUnstartedServer(config)}
	t.Cleanup(k.srv.Close)
	k.Transport = &walletauth.Transport{
		Store: &walletauth.MemoryStore{}, BaseURL: k.srv.URL, Base: keptBase{k}, OnEvent: k.events.add,
	}
	for _, f := range change {
		f(k)
	}
	k.first = k.login("", "user")
	t.Cleanup(k.stop)
	return k
}

// stop waits for the refreshes that a test has left running. What a Transport
// forgets to wait for, the bubble finds.
func (k *kept) stop() { _ = k.Shutdown(context.Background()) }

// another returns a second Transport over the same store and server.
func (k *kept) another(change ...func(*kept)) *kept {
	other := &kept{t: k.t, srv: k.srv, first: k.first}
	other.Transport = &walletauth.Transport{
		Store: k.Store, BaseURL: k.BaseURL, Base: keptBase{other}, OnEvent: other.events.add,
	}
	for _, f := range change {
		f(other)
	}
	k.t.Cleanup(other.stop)
	return other
}

// keptBase is the server, and notes what goes out.
type keptBase struct{ k *kept }

func (b keptBase) RoundTrip(r *http.Request) (*http.Response, error) {
	if token := r.Header.Get("Authorization"); token != "" {
		token = strings.TrimPrefix(token, "Bearer ")
		b.k.bearer.Store(&token)
	}
	return b.k.srv.RoundTripper().RoundTrip(r)
}

// login stores a session of user without the Transport knowing.
func (k *kept) login(key, user string) *walletauth.Session {
	k.t.Helper()
	s := k.srv.Login(user)
	if err := walletauth.Save(context.Background(), k.Store, key, s); err != nil {
		k.t.Fatal(err)
	}
	return s
}

// get lists the wallets of ctx's key and returns how long that took.
func (k *kept) get(ctx context.Context) (took time.Duration, err error) {
	start := time.Now()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, k.BaseURL+"/wallets", nil)
	if err != nil {
		return 0, err
	}
	resp, err := k.RoundTrip(req)
	if err != nil {
		return time.Since(start), err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d", resp.StatusCode)
	}
	_, copyErr := io.Copy(io.Discard, resp.Body)
	return time.Since(start), errors.Join(err, copyErr)
}

// works demands that a request succeeds in exactly the time.
func (k *kept) works(in time.Duration) {
	k.t.Helper()
	took, err := k.get(k.t.Context())
	if err != nil {
		k.t.Fatalf("request: %v", err)
	}
	if took != in {
		k.t.Errorf("the request took %v, want %v", took, in)
	}
}

// fails demands that a request fails in exactly the time, and returns why.
func (k *kept) fails(in time.Duration) error {
	k.t.Helper()
	took, err := k.get(k.t.Context())
	if err == nil {
		k.t.Fatal("the request succeeded")
	}
	if took != in {
		k.t.Errorf("the request took %v, want %v", took, in)
	}
	return err
}

// sent demands the number of refreshes that reached the server so far, those
// that failed included.
func (k *kept) sent(want int) {
	k.t.Helper()
	if got := k.srv.Requests(walletauthtest.RefreshToken); got != want {
		k.t.Errorf("%d refreshes were sent, want %d", got, want)
	}
}

// stored returns what the store holds under "".
func (k *kept) stored() *walletauth.Session {
	k.t.Helper()
	s, err := k.Store.Load(context.Background(), "")
	if err != nil {
		k.t.Fatalf("Load: %v", err)
	}
	return s
}

// isLatest demands that s is the session as the server issued it last.
func (k *kept) isLatest(s *walletauth.Session) {
	k.t.Helper()
	all := k.srv.Sessions(s.UserID)
	if len(all) == 0 || *all[len(all)-1] != *s {
		k.t.Errorf("the store holds %v, want the server's latest", s)
	}
}

// wentOutWith demands the access token of the last request.
func (k *kept) wentOutWith(s *walletauth.Session) {
	k.t.Helper()
	if *k.bearer.Load() != s.AccessToken {
		k.t.Error("the request went out with another token")
	}
}

func (k *kept) shutdown() {
	k.t.Helper()
	if err := k.Shutdown(k.t.Context()); err != nil {
		k.t.Errorf("Shutdown: %v", err)
	}
}

// at sleeps until d after the login.
func (k *kept) at(d time.Duration) { time.Sleep(time.Until(k.first.CreatedAt.Add(d))) }

// inBubble runs a test by fake time and demands that no goroutine is left.
func inBubble(t *testing.T, name string, f func(*testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		t.Helper()
		synctest.Test(t, f)
	})
}

// hold takes the exclusion of key "" until release is called.
func (k *kept) hold() (release func()) {
	held, end, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		_ = k.Store.Update(context.Background(), "", func(_ context.Context, s *walletauth.Session) (*walletauth.Session, error) {
			close(held)
			<-end
			return s, nil
		})
	}()
	<-held
	return func() { close(end); <-ended }
}

// were demands exactly these events. An Err in want is found by errors.Is.
func (k *kept) were(want ...walletauth.Event) {
	k.t.Helper()
	if diff := cmp.Diff(want, k.events.all(), cmpopts.EquateErrors()); diff != "" {
		k.t.Errorf("events (-want +got):\n%s", diff)
	}
}

func (k *kept) status() walletauth.Status {
	k.t.Helper()
	st, err := k.Status(k.t.Context())
	if err != nil {
		k.t.Fatal(err)
	}
	return st
}

func typesOf(events []walletauth.Event) (types []walletauth.EventType) {
	for _, e := range events {
		types = append(types, e.Type)
	}
	return types
}

// keptEvents collects what OnEvent reports.
type keptEvents struct {
	mu   sync.Mutex
	list []walletauth.Event
}

func (e *keptEvents) add(_ context.Context, event walletauth.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, event)
}

func (e *keptEvents) all() []walletauth.Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.list)
}

func (e *keptEvents) types() []walletauth.EventType {
	var types []walletauth.EventType
	for _, event := range e.all() {
		types = append(types, event.Type)
	}
	return types
}

// witness collects all that anybody can print of what happened.
type witness struct {
	mu   sync.Mutex
	text bytes.Buffer
	err  error
}

func (w *witness) print(v any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, _ = fmt.Fprintf(&w.text, "%v\n%+v\n%#v\n", v, v, v)
}

func (w *witness) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

// keptStore is a TokenStore that can be told to misbehave. Its zero hooks do
// nothing.
type keptStore struct {
	walletauth.TokenStore
	loads, updates atomic.Int32

	mu     sync.Mutex
	load   func() error                          // before Load
	before func() error                          // before fn is called
	after  func(*walletauth.Session) error       // before what fn returned is stored
	excl   func(context.Context) context.Context // fn's ctx
}

// failingStore fails while it is told to. Its errors quote what it was to
// write and what it holds.
type failingStore struct {
	walletauth.MemoryStore
	mu      sync.Mutex // guards what follows
	fail    bool
	updates int
}

func (s *failingStore) setFail(fail bool) { s.mu.Lock(); defer s.mu.Unlock(); s.fail = fail }

func (s *failingStore) Update(ctx context.Context, key string, fn func(context.Context, *walletauth.Session) (*walletauth.Session, error)) error {
	s.mu.Lock()
	s.updates++
	fail := s.fail
	s.mu.Unlock()
	return s.MemoryStore.Update(ctx, key, func(ctx context.Context, current *walletauth.Session) (*walletauth.Session, error) {
		next, err := fn(ctx, current)
		if err == nil && next != current && fail {
			return nil, fmt.Errorf("cannot replace %s by %s", spelledOut(current), spelledOut(next))
		}
		return next, err
	})
}

func spelledOut(s *walletauth.Session) string {
	if s == nil {
		return "nothing"
	}
	return s.AccessToken + " " + s.RefreshToken
}

var errFull = errors.New("the disk is full")

func newKeptStore() *keptStore { return &keptStore{TokenStore: &walletauth.MemoryStore{}} }

// in sets the store of a kept.
func (st *keptStore) in(k *kept) { k.Store = st }

// set changes hooks while the store is in use.
func (st *keptStore) set(f func(*keptStore)) {
	st.mu.Lock()
	defer st.mu.Unlock()
	f(st)
}

func (st *keptStore) hooks() (load, before func() error, after func(*walletauth.Session) error, excl func(context.Context) context.Context) {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.load, st.before, st.after, st.excl
}

func (st *keptStore) Load(ctx context.Context, key string) (*walletauth.Session, error) {
	st.loads.Add(1)
	if load, _, _, _ := st.hooks(); load != nil {
		if err := load(); err != nil {
			return nil, err
		}
	}
	return st.TokenStore.Load(ctx, key)
}

func (st *keptStore) Update(ctx context.Context, key string, fn func(context.Context, *walletauth.Session) (*walletauth.Session, error)) error {
	st.updates.Add(1)
	_, before, after, excl := st.hooks()
	if before != nil {
		if err := before(); err != nil {
			return err
		}
	}
	return st.TokenStore.Update(ctx, key, func(ctx context.Context, current *walletauth.Session) (*walletauth.Session, error) {
		if excl != nil {
			ctx = excl(ctx)
		}
		next, err := fn(ctx, current)
		if err == nil && after != nil {
			err = after(next)
		}
		return next, err
	})
}

// answer is what a server sends, in pieces.
type answer struct {
	status    int
	header    http.Header
	body      []byte
	piece     int
	breaksOff bool
}

func (a answer) response() *http.Response {
	body := &pieces{left: a.body, size: a.piece, end: io.EOF}
	if a.breaksOff {
		body.end = io.ErrUnexpectedEOF
	}
	return &http.Response{StatusCode: a.status, Header: a.header.Clone(), ContentLength: -1, Body: body}
}

// check fails unless resp is the answer as it came.
func (a answer) check(t *testing.T, resp *http.Response) {
	t.Helper()
	body, err := io.ReadAll(resp.Body)
	if !bytes.Equal(body, a.body) || (err != nil) != a.breaksOff {
		t.Errorf("the caller reads %d bytes and %v, sent were %d", len(body), err, len(a.body))
	}
	if err := resp.Body.Close(); err != nil {
		t.Error(err)
	}
	if resp.StatusCode != a.status {
		t.Errorf("the status became %d", resp.StatusCode)
	}
	if diff := cmp.Diff(a.header, resp.Header); diff != "" {
		t.Errorf("the header changed (-sent +got):\n%s", diff)
	}
}

// session is what of the answer is to be stored, nil if nothing.
func (a answer) session() *walletauth.Session {
	body := a.body
	if a.status < 200 || a.status > 299 || len(body) >= tooLarge {
		return nil
	}
	if strings.EqualFold(a.header.Get("Content-Encoding"), "gzip") {
		z, err := gzip.NewReader(bytes.NewReader(body))
		if err != nil {
			return nil
		}
		if body, err = io.ReadAll(io.LimitReader(z, tooLarge)); err != nil || len(body) == tooLarge {
			return nil
		}
	}
	s, err := walletauth.JSONCodec{}.Decode("", body)
	if err != nil {
		return nil
	}
	return s
}

// pieces is a body that arrives in pieces of a size, in one if that is 0.
type pieces struct {
	left []byte
	size int
	end  error
}

func (p *pieces) Read(to []byte) (int, error) {
	if len(p.left) == 0 {
		return 0, p.end
	}
	if p.size > 0 && len(p.left) < 4096 { // what is long would take long
		to = to[:min(len(to), p.size)]
	}
	n := copy(to, p.left)
	p.left = p.left[n:]
	return n, nil
}

func (p *pieces) Close() error { return nil }

// errorReply is a refusal with a content type.
func errorReply(status int, contentType, body string) walletauthtest.Fault {
	f := walletauthtest.Fault{Status: status, Body: body, Header: http.Header{"Content-Type": {contentType}}}
	if contentType == "" {
		f.Header["Content-Type"] = nil
	}
	return f
}

type refreshFunc func(context.Context, *walletauth.Session) (*walletauth.Session, error)

func (f refreshFunc) Refresh(ctx context.Context, s *walletauth.Session) (*walletauth.Session, error) {
	return f(ctx, s)
}

// roundTripFunc is a base transport in memory.
type roundTripFunc func(*http.Request) (*http.Response, error)

func (f roundTripFunc) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// reply is an answer as a base transport gives it, to a request whose body it
// has read and closed.
func reply(req *http.Request, status int, body string) *http.Response {
	if req.Body != nil {
		_, _ = io.Copy(io.Discard, req.Body)
		_ = req.Body.Close()
	}
	return &http.Response{
		StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)), Request: req,
	}
}

// drain reads an answer to its end and closes it.
func drain(t *testing.T, resp *http.Response) string {
	t.Helper()
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Errorf("read the answer: %v", err)
	}
	return string(body)
}

// replyWith answers with a session that is complete but for change.
func replyWith(change func(*walletauth.Session)) walletauthtest.Fault {
	at := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) // when a bubble begins
	s := walletauth.Session{
		ID: "i", CreatedAt: at, ProjectID: "project", UserID: "user",
		AccessToken: "access-next", AccessTokenExpiresAt: at.Add(time.Hour), RefreshToken: "refresh-next", RefreshTokenExpiresAt: at.Add(24 * time.Hour),
	}
	change(&s)
	body, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return walletauthtest.Fault{Body: string(body)}
}

func encoded(t testing.TB, s *walletauth.Session) []byte {
	t.Helper()
	data, err := walletauth.JSONCodec{}.Encode("", s)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// newSession is what secretSession is traded in for.
func newSession() *walletauth.Session {
	s := secretSession()
	s.AccessToken, s.RefreshToken = "NEW-access-5ecret", "NEW-refresh-5ecret"
	return &s
}

func mustRequest(t *testing.T, method, path string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, walletauth.Testnet+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// wantNoToken fails if text holds a token of one of the sessions, if that is
// long enough not to be part of a text by chance.
func wantNoToken(t *testing.T, where, text string, sessions ...*walletauth.Session) {
	t.Helper()
	for _, s := range sessions {
		if s != nil && (holds(text, s.AccessToken) || holds(text, s.RefreshToken)) {
			t.Errorf("%s holds a token: %q", where, text)
		}
	}
}

func holds(text, token string) bool {
	if len(token) < 8 || strings.ContainsAny(token, "[]") || token == "redacted" {
		return false
	}
	quoted := strconv.Quote(token)
	return strings.Contains(text, token) || strings.Contains(text, quoted[1:len(quoted)-1])
}

// freshSession is a session at the time at which a synctest bubble begins.
func freshSession() *walletauth.Session {
	now := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	s := newSession()
	s.CreatedAt, s.AccessTokenExpiresAt, s.RefreshTokenExpiresAt = now, now.Add(5*time.Minute), now.Add(720*time.Hour)
	return s
}

// setClock is the system's clock, set wrong.
type setClock struct{ ahead atomic.Int64 }

func (c *setClock) Now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

func (c *setClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// newCountedBody returns a request body that counts how often it is closed,
// and of which net/http knows neither the length nor a way to get it again.
func newCountedBody(text string) *countedBody {
	return &countedBody{Reader: bytes.NewReader([]byte(text))}
}

type countedBody struct {
	io.Reader
	closed atomic.Int32
}

func (b *countedBody) Close() error {
	b.closed.Add(1)
	return nil
}

func (b *countedBody) wantClosed(t *testing.T) {
	t.Helper()
	if n := b.closed.Load(); n != 1 {
		t.Errorf("the request's body was closed %d times, want once", n)
	}
}

// heapNow is what is left on the heap after collection.
func heapNow() int64 {
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func timeout(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
