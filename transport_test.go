package walletauth_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
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

// baseFunc is a base transport in memory.
type baseFunc func(*http.Request) (*http.Response, error)

func (f baseFunc) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

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

// wire is a Transport between a client and a stand-in server, with one session,
// of user-1, in its store.
type wire struct {
	*walletauthtest.Server
	store     *walletauth.MemoryStore
	session   *walletauth.Session
	transport *walletauth.Transport
	client    *http.Client
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

// wantNoToken fails if text holds a token of one of the sessions.
func wantNoToken(t *testing.T, where, text string, sessions ...*walletauth.Session) {
	t.Helper()
	for _, s := range sessions {
		if strings.Contains(text, s.AccessToken) || strings.Contains(text, s.RefreshToken) {
			t.Errorf("%s holds a token: %s", where, text)
		}
	}
}

// sawHeader makes the transport's base remember the headers of what it sends
// last.
func (w *wire) sawHeader() func() http.Header {
	base := w.transport.Base
	var last atomic.Pointer[http.Header]
	w.transport.Base = baseFunc(func(req *http.Request) (*http.Response, error) {
		h := req.Header.Clone()
		last.Store(&h)
		return base.RoundTrip(req)
	})
	return func() http.Header { return *last.Load() }
}

func TestAddsTheSessionsHeaders(t *testing.T) {
	w := newWire(t, walletauthtest.Config{})
	sent := w.sawHeader()
	w.wantStatus(t, "GET", "/wallets", 200)
	want := http.Header{
		"Authorization":            {"Bearer " + w.session.AccessToken},
		"X-Walletkit-Project-Id":   {"project"},
		"X-Walletkit-Token-Source": {"walletkit"},
	}
	if diff := cmp.Diff(want, sent()); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
}

func TestProjectIDAndTokenSourceOfTheTransportAreSent(t *testing.T) {
	w := newWire(t, walletauthtest.Config{ProjectID: "mine"})
	s := *w.session
	s.ProjectID = "the session's"
	if err := walletauth.Save(t.Context(), w.store, "", &s); err != nil {
		t.Fatal(err)
	}
	w.transport.ProjectID, w.transport.TokenSource = "mine", "firebase"
	sent := w.sawHeader()
	w.wantStatus(t, "GET", "/wallets", 200)
	if got := sent().Get("X-WalletKit-Project-ID") + " " + sent().Get("X-WalletKit-Token-Source"); got != "mine firebase" {
		t.Errorf("project and source %q", got)
	}
}

func TestKeySaysWhoseSessionIsUsed(t *testing.T) {
	byHeader := func(req *http.Request) string { return req.Header.Get("User") }
	for name, test := range map[string]struct {
		key  func(*http.Request) string
		mark func(*http.Request) *http.Request
	}{
		"by the context": {nil, func(r *http.Request) *http.Request { return r.WithContext(walletauth.WithKey(r.Context(), "b")) }},
		"by a function":  {byHeader, func(r *http.Request) *http.Request { r.Header.Set("User", "b"); return r }},
		"by the caller's Key, which wins over the context": {byHeader, func(r *http.Request) *http.Request {
			r.Header.Set("User", "b")
			return r.WithContext(walletauth.WithKey(r.Context(), "a"))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWire(t, walletauthtest.Config{})
			w.login(t, "a", "user-a")
			w.login(t, "b", "user-b")
			w.transport.Key = test.key
			req := test.mark(w.newRequest(t, "GET", "/wallets", nil))
			req.Header.Set(walletauthtest.UserHeader, "user-b")
			if resp := w.mustDo(t, req); resp.StatusCode != 200 {
				t.Errorf("status %d", resp.StatusCode)
			}
			if n := w.User("user-b").Requests; n != 1 {
				t.Errorf("%d requests as user-b, want 1", n)
			}
		})
	}
}

// callersRequests are requests of every kind that a Transport tells apart.
var callersRequests = map[string]func(t *testing.T, w *wire) *http.Request{
	"with a session": func(t *testing.T, w *wire) *http.Request {
		return w.newRequest(t, "GET", "/wallets", nil)
	},
	"with a body": func(t *testing.T, w *wire) *http.Request {
		return w.walletRequest(t, walletJSON)
	},
	"with a body that is kept": func(t *testing.T, w *wire) *http.Request {
		req := w.walletRequest(t, walletJSON)
		req.GetBody = nil
		return req
	},
	"sent again after a 401": func(t *testing.T, w *wire) *http.Request {
		w.RevokeAccess("user-1")
		req := w.walletRequest(t, walletJSON)
		req.GetBody = nil
		return req
	},
	"whose 401 stands": func(t *testing.T, w *wire) *http.Request {
		w.RevokeAccess("user-1")
		w.FailRefresh(1, walletauthtest.Fault{Status: 404})
		return w.newRequest(t, "GET", "/wallets", nil)
	},
	"to a public endpoint": func(t *testing.T, w *wire) *http.Request {
		req := w.newRequest(t, "POST", "/users/login-with-email", strings.NewReader(`{"email":"a@b.example"}`))
		req.Header.Set("Content-Type", "application/json")
		return req
	},
	"with the caller's own token": func(t *testing.T, w *wire) *http.Request {
		req := w.newRequest(t, "GET", "/wallets", nil)
		req.Header.Set("Authorization", "Bearer "+w.session.AccessToken)
		req.Header.Set("X-WalletKit-Token-Source", "walletkit")
		return req
	},
	"to another host": func(t *testing.T, w *wire) *http.Request {
		req := w.newRequest(t, "GET", "/elsewhere", nil)
		req.URL.Host = "elsewhere.example"
		return req
	},
}

const walletJSON = `{"network":"Ethereum","name":"purse","control_mode":"user"}`

func (w *wire) walletRequest(t *testing.T, body string) *http.Request {
	req := w.newRequest(t, "POST", "/wallets", strings.NewReader(body))
	req.Header.Set("Content-Type", "application/json")
	return req
}

func TestCallersRequestIsNotChanged(t *testing.T) {
	for name, make := range callersRequests {
		t.Run("request "+name, func(t *testing.T) {
			w := newWire(t, walletauthtest.Config{})
			req := make(t, w)
			req.Header["x-walletkit-extra"] = []string{"a", "b"}
			before, body := req.Clone(req.Context()), req.Body
			resp, err := w.transport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			drain(t, resp)
			fields := cmp.Options{cmpopts.IgnoreUnexported(http.Request{}), cmpopts.IgnoreFields(http.Request{}, "Body", "GetBody")}
			if diff := cmp.Diff(before, req, fields); diff != "" {
				t.Errorf("the request changed (-before +after):\n%s", diff)
			}
			if req.Body != body || (req.GetBody == nil) != (before.GetBody == nil) {
				t.Error("Body or GetBody was replaced")
			}
		})
	}
}

func TestResponseKnowsOnlyTheCallersRequest(t *testing.T) {
	for name, make := range callersRequests {
		t.Run("request "+name, func(t *testing.T) {
			w := newWire(t, walletauthtest.Config{})
			req := make(t, w)
			resp, err := w.transport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			drain(t, resp)
			if resp.Request != req {
				t.Error("Response.Request is not the request that the caller gave")
			}
			if req.Header.Get("Authorization") == "" { // else it is the caller who put the token there
				wantNoToken(t, "the response", fmt.Sprintf("%+v %+v", resp, resp.Request), append(w.Sessions("user-1"), w.session)...)
			}
		})
	}
}

func TestHeaderMapMayBeSharedByRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, walletauthtest.Config{})
		w.RevokeAccess("user-1") // so that each is sent twice
		shared := http.Header{"Accept": {"application/json"}, "User-Agent": {"test"}}
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				req := w.newRequest(t, "GET", "/wallets", nil)
				req.Header = shared
				if resp := w.mustDo(t, req); resp.StatusCode != 200 {
					t.Errorf("status %d", resp.StatusCode)
				}
				_ = shared.Get("Authorization")
			})
		}
		all.Wait()
		if diff := cmp.Diff(http.Header{"Accept": {"application/json"}, "User-Agent": {"test"}}, shared); diff != "" {
			t.Errorf("the caller's header (-want +got):\n%s", diff)
		}
	})
}

func TestNilHeaderIsAHeaderWithoutFields(t *testing.T) {
	w := newWire(t, walletauthtest.Config{})
	req := w.newRequest(t, "GET", "/wallets", nil)
	req.Header = nil
	resp, err := w.transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	if drain(t, resp); resp.StatusCode != 200 || req.Header != nil {
		t.Errorf("status %d, header %v", resp.StatusCode, req.Header)
	}
}

func TestSessionIsACopyFitForUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, walletauthtest.Config{})
		time.Sleep(6 * time.Minute) // past expiry
		s, err := w.transport.Session(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(w.Sessions("user-1")[0], s); diff != "" {
			t.Errorf("session (-issued +got):\n%s", diff)
		}
		s.AccessToken = "changed by the caller"
		w.wantStatus(t, "GET", "/wallets", 200)
		w.wantRefreshes(t, 1)
	})
}

func TestKeyIsAskedAboutSessionsOutsideOfRequests(t *testing.T) {
	w := newWire(t, walletauthtest.Config{})
	type userKey struct{}
	w.transport.Key = func(req *http.Request) string {
		if req.Method != "GET" || !strings.HasPrefix(req.URL.String(), w.URL) {
			t.Errorf("Key got %s %s, want a GET for BaseURL", req.Method, req.URL)
		}
		return req.Context().Value(userKey{}).(string)
	}
	w.login(t, "b", "user-b")
	s, err := w.transport.Session(context.WithValue(t.Context(), userKey{}, "b"))
	if err != nil || s.UserID != "user-b" {
		t.Errorf("session %v, error %v, want that of user-b", s, err)
	}
}

// A broken configuration and the words that its error must have: the field,
// and how to mend it.
var badTransports = map[string]struct {
	spoil func(*walletauth.Transport)
	words []string
}{
	"without a store":                    {func(tr *walletauth.Transport) { tr.Store = nil }, []string{"Transport.Store", "MemoryStore"}},
	"that is its own base":               {func(tr *walletauth.Transport) { tr.Base = tr }, []string{"Transport.Base"}},
	"whose project has a line break":     {func(tr *walletauth.Transport) { tr.ProjectID = "a\r\nb" }, []string{"Transport.ProjectID"}},
	"whose source has a line break":      {func(tr *walletauth.Transport) { tr.TokenSource = "a\nb" }, []string{"Transport.TokenSource"}},
	"whose timeout is negative":          {func(tr *walletauth.Transport) { tr.RefreshTimeout = -1 }, []string{"Transport.RefreshTimeout", "use zero"}},
	"whose BaseURL cannot be parsed":     {func(tr *walletauth.Transport) { tr.BaseURL = "https://a\x00b" }, []string{"Transport.BaseURL"}},
	"whose BaseURL has no scheme":        {func(tr *walletauth.Transport) { tr.BaseURL = "testnet.walletkit.com" }, []string{"Transport.BaseURL", "https://testnet.walletkit.com"}},
	"whose BaseURL has no host":          {func(tr *walletauth.Transport) { tr.BaseURL = "https:///path" }, []string{"Transport.BaseURL", "https://testnet.walletkit.com"}},
	"whose BaseURL has a strange scheme": {func(tr *walletauth.Transport) { tr.BaseURL = "ftp://testnet.walletkit.com" }, []string{"Transport.BaseURL", "https"}},
	"whose BaseURL names a user":         {func(tr *walletauth.Transport) { tr.BaseURL = "https://user:hunter2@a.example" }, []string{"Transport.BaseURL", "remove user"}},
	"whose BaseURL has a query":          {func(tr *walletauth.Transport) { tr.BaseURL = "https://a.example?x=1" }, []string{"Transport.BaseURL", "remove"}},
	"whose BaseURL has a fragment":       {func(tr *walletauth.Transport) { tr.BaseURL = "https://a.example#x" }, []string{"Transport.BaseURL", "remove"}},
	"that would send tokens in clear":    {func(tr *walletauth.Transport) { tr.BaseURL = "http://api.example" }, []string{"Transport.BaseURL", "api.example", "use https", "AllowHTTP"}},
}

func TestBadConfigurationIsAnErrorFromEveryCall(t *testing.T) {
	for name, bad := range badTransports {
		t.Run("a Transport "+name, func(t *testing.T) {
			transport := &walletauth.Transport{Store: &walletauth.MemoryStore{}}
			bad.spoil(transport)
			body := newCountedBody("body")
			req, err := http.NewRequestWithContext(t.Context(), "POST", "https://testnet.walletkit.com/wallets", body)
			if err != nil {
				t.Fatal(err)
			}
			calls := map[string]func() error{
				"RoundTrip": func() error { _, err := transport.RoundTrip(req); return err },
				"Session":   func() error { _, err := transport.Session(t.Context()); return err },
				"KeepAlive": func() error { return transport.KeepAlive(t.Context()) },
				"Shutdown":  func() error { return transport.Shutdown(t.Context()) },
			}
			for call, do := range calls {
				wantErrorWords(t, call, do(), append(bad.words, "walletauth: "))
			}
			body.wantClosed(t)
		})
	}
}

func wantErrorWords(t *testing.T, call string, err error, words []string) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: no error", call)
		return
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%s: error %q does not say %q", call, err, word)
		}
	}
	if strings.Contains(err.Error(), "hunter2") {
		t.Errorf("%s: error %q quotes a password", call, err)
	}
}

func TestStoreWithoutFunctionsIsAnErrorThatNamesThem(t *testing.T) {
	transport := &walletauth.Transport{Store: &walletauth.FuncStore{}}
	_, err := transport.Session(t.Context())
	wantErrorWords(t, "Session", err, []string{"FuncStore.LoadFunc"})
}

func TestEverythingButTheStoreIsUsefulAtZero(t *testing.T) {
	transport := &walletauth.Transport{Store: &walletauth.MemoryStore{}}
	if _, err := transport.Session(t.Context()); !errors.Is(err, walletauth.ErrNoSession) {
		t.Errorf("error %v, want ErrNoSession", err)
	}
	if err := transport.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestPlainHTTPIsForLoopbackOrForThoseWhoAskForIt(t *testing.T) {
	for name, test := range map[string]struct {
		base    string
		allow   bool
		refused bool
	}{
		"a name":                      {base: "http://api.example", refused: true},
		"a name, allowed":             {base: "http://api.example", allow: true},
		"an address":                  {base: "http://192.0.2.1", refused: true},
		"IPv6":                        {base: "http://[2001:db8::1]:8080", refused: true},
		"127.0.0.1":                   {base: "http://127.0.0.1:8080"},
		"another loopback address":    {base: "http://127.1.2.3"},
		"IPv6 loopback":               {base: "http://[::1]:8080"},
		"IPv4 in IPv6 loopback":       {base: "http://[::ffff:127.0.0.1]"},
		"localhost":                   {base: "http://LocalHost:80"},
		"below localhost":             {base: "http://api.localhost."},
		"a name that begins like one": {base: "http://localhost.example", refused: true},
		"a name that ends like one":   {base: "http://notlocalhost", refused: true},
		"https":                       {base: "https://api.example"},
	} {
		t.Run(name, func(t *testing.T) {
			transport := &walletauth.Transport{Store: &walletauth.MemoryStore{}, BaseURL: test.base, AllowHTTP: test.allow}
			_, err := transport.Session(t.Context())
			if refused := !errors.Is(err, walletauth.ErrNoSession); refused != test.refused {
				t.Errorf("refused: %t, want %t (%v)", refused, test.refused, err)
			}
		})
	}
}

type idleCloser struct {
	http.RoundTripper
	calls int
}

func (c *idleCloser) CloseIdleConnections() { c.calls++ }

func TestIdleConnectionsOfTheBaseAreClosed(t *testing.T) {
	base := &idleCloser{}
	client := &http.Client{Transport: &walletauth.Transport{Store: &walletauth.MemoryStore{}, Base: base}}
	client.CloseIdleConnections()
	if base.calls != 1 {
		t.Errorf("%d calls, want 1", base.calls)
	}
}

func TestClosingIdleConnectionsNeedsNoSupportOfTheBase(t *testing.T) {
	transport := &walletauth.Transport{Base: baseFunc(nil)}
	transport.CloseIdleConnections()
	(&walletauth.Transport{}).CloseIdleConnections() // those of http.DefaultTransport
}

func TestManyRequestsAtOnceOverSockets(t *testing.T) {
	overSockets(t, func(t *testing.T, w *wire) {
		w.RevokeAccess("user-1")
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				w.wantStatus(t, "GET", "/wallets", 200)
				resp := w.mustDo(t, w.walletRequest(t, walletJSON))
				if drain(t, resp); resp.StatusCode != 200 {
					t.Errorf("status %d", resp.StatusCode)
				}
			})
		}
		all.Wait()
		w.wantRefreshes(t, 1)
	})
}

func TestAnswerStreamsAsItIsWritten(t *testing.T) {
	overSockets(t, func(t *testing.T, w *wire) {
		next := make(chan struct{})
		w.Handle("GET /events", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Content-Type", "text/event-stream")
			for i := range 3 {
				_, _ = fmt.Fprintf(rw, "data: %d\n\n", i)
				rw.(http.Flusher).Flush()
				select { // the client has read it
				case <-next:
				case <-r.Context().Done():
					return
				}
			}
		}))
		w.RevokeAccess("user-1") // also after a 401
		resp := w.mustDo(t, w.newRequest(t, "GET", "/events", nil))
		defer resp.Body.Close()
		lines := bufio.NewReader(resp.Body)
		for i := range 3 {
			line, err := lines.ReadString('\n')
			if want := fmt.Sprintf("data: %d\n", i); err != nil || line != want {
				t.Fatalf("event %q, %v, want %q", line, err, want)
			}
			_, _ = lines.ReadString('\n')
			next <- struct{}{}
		}
	})
}

func TestRequestStreamsWhileTheAnswerDoes(t *testing.T) {
	srv := walletauthtest.NewUnstartedServer(walletauthtest.Config{TB: t})
	srv.StartTLS()
	w := connect(t, srv)
	w.Handle("POST /echo", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.(http.Flusher).Flush()
		lines := bufio.NewScanner(r.Body)
		for lines.Scan() {
			_, _ = fmt.Fprintln(rw, lines.Text())
			rw.(http.Flusher).Flush()
		}
	}))
	out, in := io.Pipe()
	resp := w.mustDo(t, w.newRequest(t, "POST", "/echo", out))
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	for i := range 3 {
		want := fmt.Sprintf("ping %d\n", i)
		_, _ = io.WriteString(in, want)
		if line, err := lines.ReadString('\n'); err != nil || line != want {
			t.Fatalf("echo %q, %v, want %q", line, err, want)
		}
	}
	_ = in.Close()
	if rest, err := io.ReadAll(lines); err != nil || len(rest) > 0 {
		t.Errorf("after the end: %q, %v", rest, err)
	}
}

// upgradeHandler answers with 101 and echoes what it gets from then on.
func upgradeHandler(rw http.ResponseWriter, _ *http.Request) {
	conn, both, err := rw.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = both.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	_ = both.Flush()
	_, _ = io.Copy(conn, both)
}

func TestUpgradePassesUntouched(t *testing.T) {
	for name, revoked := range map[string]bool{"at once": false, "after a 401": true} {
		t.Run(name, func(t *testing.T) {
			w := connect(t, walletauthtest.NewServer(walletauthtest.Config{TB: t}))
			w.Handle("GET /socket", http.HandlerFunc(upgradeHandler))
			if revoked {
				w.RevokeAccess("user-1")
			}
			req := w.newRequest(t, "GET", "/socket", nil)
			req.Header.Set("Connection", "Upgrade")
			req.Header.Set("Upgrade", "echo")
			resp := w.mustDo(t, req)
			defer resp.Body.Close()
			conn, ok := resp.Body.(io.ReadWriteCloser)
			if resp.StatusCode != 101 || !ok {
				t.Fatalf("status %d and a body of type %T, want 101 and an io.ReadWriteCloser", resp.StatusCode, resp.Body)
			}
			_, _ = io.WriteString(conn, "ping")
			got := make([]byte, 4)
			if _, err := io.ReadFull(conn, got); err != nil || string(got) != "ping" {
				t.Errorf("echo %q, %v", got, err)
			}
		})
	}
}

func TestTrailersPassBothWays(t *testing.T) {
	overSockets(t, func(t *testing.T, w *wire) {
		w.Handle("POST /trailers", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Trailer", "Sum")
			_, _ = io.Copy(rw, r.Body)
			rw.Header().Set("Sum", "saw "+r.Trailer.Get("Checksum"))
		}))
		for range 2 { // the second time after a 401
			req := w.newRequest(t, "POST", "/trailers", io.MultiReader(strings.NewReader("body")))
			req.Trailer = http.Header{"Checksum": {"42"}}
			resp := w.mustDo(t, req)
			if body := drain(t, resp); body != "body" || resp.Trailer.Get("Sum") != "saw 42" {
				t.Errorf("status %d, body %q, trailer %v", resp.StatusCode, body, resp.Trailer)
			}
			w.RevokeAccess("user-1")
		}
	})
}

func TestBodyThatWaitsForContinueIsSentOnlyWhenAskedFor(t *testing.T) {
	w := connect(t, walletauthtest.NewServer(walletauthtest.Config{TB: t}))
	w.Handle("POST /upload", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { _, _ = io.Copy(rw, r.Body) }))
	base := w.transport.Base.(*http.Transport).Clone()
	base.ExpectContinueTimeout = time.Minute
	defer base.CloseIdleConnections()
	w.transport.Base = base
	w.RevokeAccess("user-1")
	for range 2 { // the first after a 401 that did not ask for the body
		body := &waitedBody{newCountedBody("body"), make(chan struct{}, 9)}
		req := w.newRequest(t, "POST", "/upload", body)
		req.Header.Set("Expect", "100-continue")
		resp := w.mustDo(t, req)
		if got := drain(t, resp); got != "body" {
			t.Errorf("status %d, echo %q", resp.StatusCode, got)
		}
		<-body.gone // which may be after the answer
		body.wantClosed(t)
	}
}

func TestClientTimeoutEndsTheWaitForARefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, walletauthtest.Config{})
		w.FailRefresh(1, walletauthtest.Fault{Delay: 20 * time.Second})
		time.Sleep(6 * time.Minute)
		w.client.Timeout = time.Second
		began := time.Now()
		_, err := w.client.Do(w.newRequest(t, "GET", "/wallets", nil))
		var timeout interface{ Timeout() bool }
		if !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("error %v, want a timeout", err)
		}
		if took := time.Since(began); took != time.Second {
			t.Errorf("it took %s, want 1 s", took)
		}
		time.Sleep(30 * time.Second)
		w.wantStatus(t, "GET", "/wallets", 200)
		w.wantRefreshes(t, 1)
	})
}

func TestClientTimeoutAppliesToTheAnswersBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, walletauthtest.Config{})
		w.Handle("GET /endless", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			rw.(http.Flusher).Flush()
			<-r.Context().Done()
		}))
		w.client.Timeout = time.Second
		began := time.Now()
		resp := w.mustDo(t, w.newRequest(t, "GET", "/endless", nil))
		defer resp.Body.Close()
		if _, err := io.ReadAll(resp.Body); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v, want a timeout", err)
		}
		if took := time.Since(began); took != time.Second {
			t.Errorf("it took %s, want 1 s", took)
		}
	})
}

func TestCookiesOfTheClientPass(t *testing.T) {
	w := connect(t, walletauthtest.NewServer(walletauthtest.Config{TB: t}))
	w.Handle("GET /cookie", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if c, err := r.Cookie("crumb"); err == nil {
			_, _ = io.WriteString(rw, c.Value)
		}
		http.SetCookie(rw, &http.Cookie{Name: "crumb", Value: "1", Path: "/"})
	}))
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	w.client.Jar = jar
	w.status(t, "GET", "/cookie")
	w.RevokeAccess("user-1")
	if got := drain(t, w.mustDo(t, w.newRequest(t, "GET", "/cookie", nil))); got != "1" {
		t.Errorf("the cookie came back as %q", got)
	}
}

func TestAnswerIsReturnedWhateverItsStatus(t *testing.T) {
	w := newWire(t, walletauthtest.Config{})
	for _, status := range []int{204, 304, 400, 402, 403, 404, 407, 429, 500, 503} {
		w.Fail(walletauthtest.ListWallets, 1, walletauthtest.Fault{Status: status})
		w.wantStatus(t, "GET", "/wallets", status)
	}
	w.wantRefreshes(t, 0)
}

func TestErrorOfTheBaseIsReturnedAsItIs(t *testing.T) {
	w := newWire(t, walletauthtest.Config{})
	broken := errors.New("broken")
	w.transport.Base = baseFunc(func(req *http.Request) (*http.Response, error) { return nil, broken })
	resp, err := w.transport.RoundTrip(w.newRequest(t, "GET", "/wallets", nil))
	if resp != nil || err != broken {
		t.Errorf("response %v, error %v", resp, err)
	}
}

func TestErrorsOfTheBaseDoNotHoldTokens(t *testing.T) {
	for name, revoked := range map[string]bool{"the first time": false, "after a 401": true} {
		t.Run(name, func(t *testing.T) {
			w := newWire(t, walletauthtest.Config{})
			if revoked {
				w.RevokeAccess("user-1")
			}
			cause := errors.New("cause")
			base := w.transport.Base
			w.transport.Base = baseFunc(func(req *http.Request) (*http.Response, error) {
				if old := req.Header.Get("Authorization") == "Bearer "+w.session.AccessToken; req.URL.Path == "/wallets" && old != revoked {
					return nil, fmt.Errorf("cannot send %v: %w", req.Header, cause)
				}
				return base.RoundTrip(req)
			})
			_, err := w.client.Do(w.newRequest(t, "GET", "/wallets", nil))
			if !errors.Is(err, cause) {
				t.Fatalf("error %v does not wrap its cause", err)
			}
			text := fmt.Sprintf("%v %+v %#v %q %v", err, err, err, err, errors.Unwrap(err))
			wantNoToken(t, "the error", text, append(w.Sessions("user-1"), w.session)...)
		})
	}
}

func TestErrorsOfTheStoreDoNotHoldTokens(t *testing.T) {
	srv := walletauthtest.NewUnstartedServer(walletauthtest.Config{TB: t, AccessTokenTTL: -1})
	s := srv.Login("user-1")
	store := &walletauth.FuncStore{
		LoadFunc: func(context.Context, string) (*walletauth.Session, error) { return s, nil },
		SaveFunc: func(_ context.Context, _ string, s *walletauth.Session) error {
			return fmt.Errorf("cannot write %s and %s", s.AccessToken, s.RefreshToken)
		},
	}
	err := walletauth.Save(t.Context(), store, "", s)
	wantErrorWords(t, "Save", err, []string{"cannot write"})
	wantNoToken(t, "the error", fmt.Sprintf("%v %#v", err, err), s)
}

func TestCallsAfterShutdownFail(t *testing.T) {
	w := newWire(t, walletauthtest.Config{})
	if err := w.transport.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	body := newCountedBody("body")
	for name, do := range map[string]func() error{
		"RoundTrip": func() error {
			_, err := w.transport.RoundTrip(w.newRequest(t, "POST", "/wallets", body))
			return err
		},
		"Session":   func() error { _, err := w.transport.Session(t.Context()); return err },
		"KeepAlive": func() error { return w.transport.KeepAlive(t.Context()) },
	} {
		wantErrorWords(t, name, do(), []string{"was shut down"})
	}
	body.wantClosed(t)
	if err := w.transport.Shutdown(t.Context()); err != nil {
		t.Errorf("the second Shutdown: %v", err)
	}
}

func TestCertificatesAreTheBasesAffair(t *testing.T) {
	srv := walletauthtest.NewUnstartedServer(walletauthtest.Config{TB: t})
	srv.StartTLS()
	w := connect(t, srv)
	distrusting := &http.Transport{}
	defer distrusting.CloseIdleConnections()
	w.transport.Base = distrusting
	_, err := w.client.Do(w.newRequest(t, "GET", "/wallets", nil))
	var untrusted *tls.CertificateVerificationError
	if !errors.As(err, &untrusted) {
		t.Errorf("error %v, want one about the certificate", err)
	}
}

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
