package walletauth_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/http/httptrace"
	"net/http/httputil"
	"net/textproto"
	"net/url"
	"slices"
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
		t.Errorf("session %v, error %v, want user-b's", s, err)
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
	transport := &walletauth.Transport{Base: roundTripFunc(nil)}
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
	w.transport.Base = roundTripFunc(func(req *http.Request) (*http.Response, error) { return nil, broken })
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
			w.transport.Base = roundTripFunc(func(req *http.Request) (*http.Response, error) {
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

// oddCalls are requests of each kind, and the path whose answer is odd.
var oddCalls = map[string]struct {
	method, path string
	odd          string // default: path
	set          func(t *testing.T, w *wire, req *http.Request)
}{
	"a request":                {method: "GET", path: "/wallets"},
	"a public endpoint":        {method: "POST", path: "/users/login-with-email"},
	"a captured login":         {method: "POST", path: "/users/login-anonymously"},
	"a captured verification":  {method: "POST", path: "/users/verify-login"},
	"a captured logout":        {method: "POST", path: "/users/logout"},
	"a refresh before":         {method: "GET", path: "/wallets", odd: "/users/refresh-token", set: func(_ *testing.T, w *wire, _ *http.Request) { time.Sleep(5 * time.Minute) }},
	"a refresh after a 401":    {method: "GET", path: "/wallets", odd: "/users/refresh-token", set: func(_ *testing.T, w *wire, _ *http.Request) { w.RevokeAccess("user-1") }},
	"a host that is passed to": {method: "GET", path: "/wallets", set: func(_ *testing.T, _ *wire, req *http.Request) { req.URL.Host = "other.example" }},
	"the caller's own token": {method: "GET", path: "/wallets", set: func(_ *testing.T, w *wire, req *http.Request) {
		ownToken(req, w.session)
	}},
	"a captured logout with the caller's own token": {method: "POST", path: "/users/logout", set: func(_ *testing.T, w *wire, req *http.Request) {
		ownToken(req, w.session)
	}},
}

// odd makes w's base answer requests to path by answer.
func (w *wire) odd(path string, answer func(*http.Request) (*http.Response, error)) {
	base := w.transport.Base
	w.transport.Base = roundTripFunc(func(req *http.Request) (*http.Response, error) {
		if req.URL.Path != path {
			return base.RoundTrip(req)
		}
		if req.Body != nil {
			_ = req.Body.Close()
		}
		return answer(req)
	})
}

// panicsAreErrors fails the test if an event tells of a panic.
func (w *wire) panicsAreErrors(t *testing.T) {
	w.transport.OnEvent = func(_ context.Context, e walletauth.Event) {
		if e.Err != nil && strings.Contains(e.Err.Error(), "panicked") {
			t.Errorf("%s: %v", e.Type, e.Err)
		}
	}
}

func TestBaseThatAnswersNothing(t *testing.T) {
	nothing := func(*http.Request) (*http.Response, error) { return nil, nil }
	for name, c := range oddCalls {
		inBubble(t, "is an error for "+name, func(t *testing.T) {
			w := newWire(t, walletauthtest.Config{})
			w.transport.CaptureLogin, w.transport.ProjectID = true, "project"
			odd := c.path
			if c.odd != "" {
				odd = c.odd
			}
			w.odd(odd, nothing)
			w.panicsAreErrors(t)
			body := newCountedBody("{}")
			req := w.newRequest(t, c.method, c.path, body)
			if c.set != nil {
				c.set(t, w, req)
			}
			resp, err := w.transport.RoundTrip(req)
			if c.odd != "" && w.stored(t, "").AccessTokenExpiresAt.After(time.Now()) {
				if err != nil || resp.StatusCode != 401 { // the refresh failed for now
					t.Errorf("response %v, %v, want the 401", resp, err)
				}
			} else if resp != nil || err == nil || !strings.Contains(err.Error(), "Base") {
				t.Errorf("response %v, error %v, want an error that names Base", resp, err)
			}
			if resp != nil {
				drain(t, resp)
			}
			body.wantClosed(t)
			if s := w.stored(t, ""); s == nil || *s != *w.session {
				t.Errorf("the store holds %v", s)
			}
		})
	}
	inBubble(t, "is an error of the replay", func(t *testing.T) {
		w := newWire(t, walletauthtest.Config{})
		n := 0
		w.odd("/wallets", func(req *http.Request) (*http.Response, error) {
			if n++; n == 1 {
				return reply(&http.Request{}, 401, ""), nil
			}
			return nil, nil
		})
		if resp, err := w.transport.RoundTrip(w.newRequest(t, "GET", "/wallets", nil)); resp != nil || err == nil || !strings.Contains(err.Error(), "Base") {
			t.Errorf("response %v, error %v, want an error that names Base", resp, err)
		}
	})
	inBubble(t, "is an error of Logout, and the session is forgotten", func(t *testing.T) {
		w := newWire(t, walletauthtest.Config{})
		w.odd("/users/logout", nothing)
		if err := w.transport.Logout(t.Context()); err == nil || !strings.Contains(err.Error(), "Base") {
			t.Errorf("%v, want an error that names Base", err)
		}
		if s := w.stored(t, ""); s != nil {
			t.Errorf("the store holds %v", s)
		}
	})
}

func TestResponseWithoutABody(t *testing.T) {
	for name, c := range oddCalls {
		for _, status := range []int{200, 204, 401, 403, 500} {
			inBubble(t, "has an empty one: "+name+" with "+http.StatusText(status), func(t *testing.T) {
				w := newWire(t, walletauthtest.Config{})
				w.transport.CaptureLogin, w.transport.ProjectID = true, "project"
				odd := c.path
				if c.odd != "" {
					odd = c.odd
				}
				w.odd(odd, func(req *http.Request) (*http.Response, error) {
					return &http.Response{StatusCode: status}, nil
				})
				w.panicsAreErrors(t)
				req := w.newRequest(t, c.method, c.path, nil)
				if c.set != nil {
					c.set(t, w, req)
				}
				resp, err := w.transport.RoundTrip(req)
				if c.odd != "" && err != nil {
					return // an expired token whose refresh was refused
				}
				if err != nil {
					t.Fatal(err)
				}
				if resp.Body == nil {
					t.Fatal("the response has no body")
				}
				if text := drain(t, resp); c.odd == "" && (text != "" || resp.StatusCode != status) {
					t.Errorf("status %d, body %q", resp.StatusCode, text)
				}
			})
		}
	}
	inBubble(t, "has an empty one: a replay", func(t *testing.T) {
		w := newWire(t, walletauthtest.Config{})
		n := 0
		w.odd("/wallets", func(*http.Request) (*http.Response, error) {
			if n++; n == 1 {
				return &http.Response{StatusCode: 401}, nil
			}
			return &http.Response{StatusCode: 204}, nil
		})
		resp := w.mustDo(t, w.newRequest(t, "GET", "/wallets", nil))
		if text := drain(t, resp); text != "" || resp.StatusCode != 204 {
			t.Errorf("status %d, body %q", resp.StatusCode, text)
		}
		w.wantRefreshes(t, 1)
	})
	inBubble(t, "of Logout is no failure", func(t *testing.T) {
		w := newWire(t, walletauthtest.Config{})
		w.odd("/users/logout", func(*http.Request) (*http.Response, error) { return &http.Response{StatusCode: 204}, nil })
		if err := w.transport.Logout(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// hooks is a trace that counts what it sees, of connections and of requests.
type hooks struct{ dials, wrote, first, informed atomic.Int32 }

func (h *hooks) in(ctx context.Context, err error) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		ConnectStart:         func(string, string) { h.dials.Add(1) },
		WroteRequest:         func(httptrace.WroteRequestInfo) { h.wrote.Add(1) },
		GotFirstResponseByte: func() { h.first.Add(1) },
		Got1xxResponse: func(int, textproto.MIMEHeader) error {
			h.informed.Add(1)
			return err
		},
	})
}

func TestTrace(t *testing.T) {
	// front sends a 103 before the answer to a refresh.
	front := func(t *testing.T, w *wire) *atomic.Int32 {
		var refreshes atomic.Int32
		srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/users/refresh-token" {
				refreshes.Add(1)
				rw.Header().Set("Link", "</style.css>; rel=preload")
				rw.WriteHeader(http.StatusEarlyHints)
				rw.Header().Del("Link")
			}
			w.ServeHTTP(rw, r)
		}))
		t.Cleanup(srv.Close)
		w.URL, w.transport.BaseURL = srv.URL, srv.URL
		base := http.DefaultTransport.(*http.Transport).Clone()
		base.DisableKeepAlives = true                                    // each request dials
		w.transport.Base, w.transport.RefreshTimeout = base, time.Second // of a refresh that the hooks break
		return &refreshes
	}
	for name, c := range map[string]struct {
		age  func(w *wire)
		sent int32 // as the caller's request
	}{
		"after a 401 of a token that has expired": {func(w *wire) { w.SetClockOffset(6 * time.Minute) }, 0},
		"after a 401":         {func(w *wire) { w.RevokeAccess("user-1") }, 2},
		"of an expired token": {func(w *wire) {}, 1},
	} {
		for how, hookErr := range map[string]error{"": nil, ", and ends no refresh by its error": errors.New("the browser has gone")} {
			t.Run("of a request does not see the refresh "+name+how, func(t *testing.T) {
				w := connect(t, walletauthtest.NewServer(walletauthtest.Config{TB: t}))
				refreshes := front(t, w)
				want := c.sent
				if c.sent == 0 {
					want = 2 // the server's clock is ahead, which a 401 tells
				}
				if c.sent == 1 {
					s := *w.session
					s.AccessTokenExpiresAt = time.Now().Add(-time.Minute)
					if err := walletauth.Save(t.Context(), w.store, "", &s); err != nil {
						t.Fatal(err)
					}
				}
				c.age(w)
				var h hooks
				req := w.newRequest(t, "GET", "/wallets", nil)
				resp := w.mustDo(t, req.WithContext(h.in(t.Context(), hookErr)))
				if drain(t, resp); resp.StatusCode != 200 || refreshes.Load() != 1 {
					t.Errorf("status %d, %d refreshes", resp.StatusCode, refreshes.Load())
				}
				if d, wr, f, i := h.dials.Load(), h.wrote.Load(), h.first.Load(), h.informed.Load(); d != want || wr != want || f != want || i != 0 {
					t.Errorf("%d dials, %d requests, %d responses and %d informational ones, want %d, %d, %d and none", d, wr, f, i, want, want, want)
				}
			})
		}
	}
	t.Run("of a ReverseProxy hands no 103 of a refresh to the browser", func(t *testing.T) {
		w := connect(t, walletauthtest.NewServer(walletauthtest.Config{TB: t}))
		front(t, w)
		w.RevokeAccess("user-1")
		api, err := url.Parse(w.URL)
		if err != nil {
			t.Fatal(err)
		}
		proxy := httptest.NewServer(&httputil.ReverseProxy{
			Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(api) },
			Transport: w.transport,
		})
		t.Cleanup(proxy.Close)
		var h hooks
		req, err := http.NewRequestWithContext(h.in(t.Context(), nil), http.MethodGet, proxy.URL+"/wallets", nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp := do(t, &http.Client{}, req); drain(t, resp) == "" || resp.StatusCode != 200 {
			t.Errorf("status %d", resp.StatusCode)
		}
		if n := h.informed.Load(); n != 0 {
			t.Errorf("the browser got %d informational responses, want none", n)
		}
		w.wantRefreshes(t, 1)
	})
	t.Run("of Session and Renew does not see the refresh", func(t *testing.T) {
		w := connect(t, walletauthtest.NewServer(walletauthtest.Config{TB: t}))
		front(t, w)
		var h hooks
		ctx := h.in(t.Context(), errors.New("the browser has gone"))
		if _, err := w.transport.Renew(ctx, w.session); err != nil {
			t.Error(err)
		}
		w.wantRefreshes(t, 1)
		if d, i := h.dials.Load(), h.informed.Load(); d != 0 || i != 0 {
			t.Errorf("%d dials and %d informational responses, want none", d, i)
		}
	})
	t.Run("of a request still has the values of its context in the refresh", func(t *testing.T) {
		w := newWire(t, walletauthtest.Config{})
		seen := map[string]any{}
		base := w.transport.Base
		w.transport.Base = roundTripFunc(func(req *http.Request) (*http.Response, error) {
			seen[req.URL.Path] = req.Context().Value(keptTrace{})
			if req.URL.Path == "/users/refresh-token" && httptrace.ContextClientTrace(req.Context()) != nil {
				t.Error("the refresh has the caller's hooks")
			}
			if req.URL.Path == "/wallets" && httptrace.ContextClientTrace(req.Context()) == nil {
				t.Error("the request lacks the caller's hooks")
			}
			return base.RoundTrip(req)
		})
		w.RevokeAccess("user-1")
		var h hooks
		ctx := h.in(context.WithValue(t.Context(), keptTrace{}, "value"), nil)
		drain(t, w.mustDo(t, w.newRequest(t, "GET", "/wallets", nil).WithContext(ctx)))
		if seen["/users/refresh-token"] != "value" || seen["/wallets"] != "value" {
			t.Errorf("values %v", seen)
		}
	})
}

// trailing is the body of a response whose trailers come at its end, after a
// second, as net/http sets them.
type trailing struct {
	text io.Reader
	resp *http.Response
}

func (b *trailing) Read(p []byte) (int, error) {
	n, err := b.text.Read(p)
	if err == io.EOF {
		time.Sleep(time.Second)
		b.resp.Trailer["X-End"] = []string{"reached"}
	}
	return n, err
}

func (b *trailing) Close() error { return nil }

func withTrailer(status int) *http.Response {
	resp := &http.Response{StatusCode: status, Header: http.Header{}, Trailer: http.Header{"X-End": nil}, ContentLength: -1}
	resp.Body = &trailing{strings.NewReader("body"), resp}
	return resp
}

// Under the race detector, which is how these tests run.
func TestTrailer(t *testing.T) {
	for name, c := range map[string]struct {
		fault walletauthtest.Fault
		set   func(*http.Request)
	}{
		"of a 401 that is handed back": {walletauthtest.Fault{Status: 404}, nil},
		"of a 401 that cannot be sent again": {walletauthtest.Fault{}, func(req *http.Request) {
			setBody(req, strings.Repeat("x", 64<<10+1))
		}},
	} {
		inBubble(t, name+" comes with its end", func(t *testing.T) {
			w := newWire(t, walletauthtest.Config{})
			w.FailRefresh(1, c.fault)
			w.odd("/wallets", func(*http.Request) (*http.Response, error) { return withTrailer(401), nil })
			req := w.newRequest(t, "GET", "/wallets", nil)
			if c.set != nil {
				c.set(req)
			}
			resp := w.mustDo(t, req)
			announced := resp.Trailer.Clone() // as a proxy does that copies it
			time.Sleep(5 * time.Second)
			if diff := cmp.Diff(announced, resp.Trailer); diff != "" {
				t.Errorf("the trailer changed though nobody read (-before +after):\n%s", diff)
			}
			if text := drain(t, resp); text != "body" || resp.Trailer.Get("X-End") != "reached" {
				t.Errorf("body %q, trailer %v", text, resp.Trailer)
			}
		})
	}
	t.Run("of a 401 over sockets comes with its end", func(t *testing.T) {
		overSockets(t, func(t *testing.T, w *wire) {
			w.Handle("GET /trailer", http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
				rw.Header().Set("Trailer", "X-End")
				rw.WriteHeader(401)
				_, _ = io.WriteString(rw, "body")
				rw.(http.Flusher).Flush()
				rw.Header().Set("X-End", "reached")
			}))
			w.FailRefresh(-1, walletauthtest.Fault{Status: 404})
			resp := w.mustDo(t, w.newRequest(t, "GET", "/trailer", nil))
			for range resp.Trailer {
			}
			if text := drain(t, resp); text != "body" || resp.Trailer.Get("X-End") != "reached" {
				t.Errorf("body %q, trailer %v", text, resp.Trailer)
			}
		})
	})
	inBubble(t, "of a captured login comes with its end", func(t *testing.T) {
		w := newCapture(t)
		w.odd("/users/login-anonymously", func(*http.Request) (*http.Response, error) { return withTrailer(200), nil })
		resp := w.mustDo(t, w.newRequest(t, "POST", "/users/login-anonymously", nil))
		if text := drain(t, resp); text != "body" || resp.Trailer.Get("X-End") != "reached" {
			t.Errorf("body %q, trailer %v", text, resp.Trailer)
		}
	})
}

// limiter lets a few requests be under way at a time, each until its response's
// body is closed. Who waits for more than a minute gives up.
type limiter struct {
	base  http.RoundTripper
	slots chan struct{}
}

var errNoSlot = errors.New("no request was done for a minute")

func (l *limiter) RoundTrip(req *http.Request) (*http.Response, error) {
	select {
	case l.slots <- struct{}{}:
	case <-time.After(time.Minute):
		return nil, errNoSlot
	}
	resp, err := l.base.RoundTrip(req)
	if err != nil {
		<-l.slots
		return nil, err
	}
	resp.Body = &slot{ReadCloser: resp.Body, free: func() { <-l.slots }}
	return resp, nil
}

type slot struct {
	io.ReadCloser
	once sync.Once
	free func()
}

func (s *slot) Close() error { s.once.Do(s.free); return s.ReadCloser.Close() }

func TestLimiterBelow(t *testing.T) {
	for _, n := range []int{1, 4} {
		for name, c := range map[string]struct {
			fail func(w *wire)
			want int
		}{
			"mended":      {func(w *wire) { w.RevokeAccess("user-1") }, 200},
			"handed back": {func(w *wire) { w.RevokeAccess("user-1"); w.FailRefresh(-1, walletauthtest.Fault{Status: 404}) }, 401},
			"refused for all": {func(w *wire) {

				w.ClearFaults()
				w.Fail(walletauthtest.ListWallets, -1, walletauthtest.Fault{Status: 401, Body: strings.Repeat("x", 100<<10), Delay: time.Second})

			}, 401},
		} {
			inBubble(t, fmt.Sprintf("of %d is free for the refresh while a 401 is held that is %s", n, name), func(t *testing.T) {
				w := newWire(t, walletauthtest.Config{})
				l := &limiter{w.transport.Base, make(chan struct{}, n)}
				w.transport.Base = l
				w.Fail(walletauthtest.ListWallets, n, walletauthtest.Fault{Delay: time.Second}) // so that all are under way
				c.fail(w)
				var all sync.WaitGroup
				began := time.Now()
				for range n {
					all.Go(func() { w.wantStatus(t, "GET", "/wallets", c.want) })
				}
				all.Wait()
				if took := time.Since(began); took >= time.Minute {
					t.Errorf("it took %s", took)
				}
				synctest.Wait()
				if used := len(l.slots); used != 0 {
					t.Errorf("%d places are still taken", used)
				}
			})
		}
	}
	inBubble(t, "is free before the caller has read a 401 that is handed back", func(t *testing.T) {
		w := newWire(t, walletauthtest.Config{})
		l := &limiter{w.transport.Base, make(chan struct{}, 1)}
		w.transport.Base = l
		w.RevokeAccess("user-1")
		w.FailRefresh(1, walletauthtest.Fault{Status: 404})
		resp := w.mustDo(t, w.newRequest(t, "GET", "/wallets", nil))
		time.Sleep(2 * time.Second)
		w.wantStatus(t, "GET", "/wallets", 200)
		if text := drain(t, resp); resp.StatusCode != 401 || !strings.Contains(text, "invalid session token") {
			t.Errorf("status %d, body %q", resp.StatusCode, text)
		}
	})
}

// OnEvent may use the store: who logs in and out by events does.
func TestOnEvent(t *testing.T) {
	ten := func(t *testing.T) context.Context { return timeout(t, 10*time.Second) }
	for name, meet := range map[string]func(k *kept){
		"of an expired token": func(k *kept) { k.at(5 * time.Minute) },
		"of a 401":            func(k *kept) {},
		"ahead of time":       func(k *kept) { k.at(4*time.Minute + 46*time.Second) },
	} {
		inBubble(t, "may delete a session that is over "+name, func(t *testing.T) {
			k := newKept(t)
			var over atomic.Int32
			k.OnEvent = func(_ context.Context, e walletauth.Event) {
				if e.Type == walletauth.SessionOver {
					over.Add(1)
					if err := walletauth.Delete(ten(t), k.Store, e.Key); err != nil {
						t.Errorf("Delete: %v", err)
					}
				}
			}
			meet(k)
			if name == "ahead of time" {
				k.srv.FailRefresh(1, errorReply(401, "application/json", ours))
			} else {
				k.srv.RevokeSessions("user")
			}
			_, _ = k.get(t.Context())
			time.Sleep(time.Second)
			if n := over.Load(); n != 1 {
				t.Errorf("%d events that it is over, want 1", n)
			}
			if err := k.fails(0); !errors.Is(err, walletauth.ErrNoSession) {
				t.Errorf("%v, want ErrNoSession", err)
			}
			if err := walletauth.Save(ten(t), k.Store, "", k.srv.Login("user")); err != nil {
				t.Fatalf("the key is locked: %v", err)
			}
			k.works(0)
			if err := k.Shutdown(ten(t)); err != nil {
				t.Error(err)
			}
		})
	}
	inBubble(t, "may save a login when a session is over", func(t *testing.T) {
		k := newKept(t)
		login := k.srv.Login("user")
		k.OnEvent = func(_ context.Context, e walletauth.Event) {
			if e.Type == walletauth.SessionOver {
				if err := walletauth.Save(ten(t), k.Store, e.Key, login); err != nil {
					t.Errorf("Save: %v", err)
				}
			}
		}
		k.srv.FailRefresh(1, errorReply(401, "application/json", ours))
		k.at(5 * time.Minute)
		_, _ = k.get(t.Context())
		if s := k.stored(); *s != *login {
			t.Errorf("the store holds %v", s)
		}
		if err := k.Shutdown(ten(t)); err != nil {
			t.Error(err)
		}
	})
	inBubble(t, "may take the exclusion at every event", func(t *testing.T) {
		st := newKeptStore()
		k := newKept(t, st.in)
		seen := map[walletauth.EventType]bool{}
		var mu sync.Mutex
		k.OnEvent = func(_ context.Context, e walletauth.Event) {
			mu.Lock()
			seen[e.Type] = true
			mu.Unlock()
			err := k.Store.Update(ten(t), e.Key, func(_ context.Context, s *walletauth.Session) (*walletauth.Session, error) { return s, nil })
			if err != nil {
				t.Errorf("%s: %v", e.Type, err)
			}
		}
		k.at(5 * time.Minute)
		k.works(0) // began, succeeded
		k.srv.RevokeAccess("user")
		k.works(0) // replayed
		time.Sleep(5 * time.Minute)
		k.srv.FailRefresh(1, walletauthtest.Fault{Status: 404})
		_, _ = k.get(t.Context()) // failed
		time.Sleep(2 * time.Second)
		first := true
		st.set(func(st *keptStore) {
			st.after = func(*walletauth.Session) error {
				if first {
					first = false
					return errFull
				}
				return nil
			}
		})
		k.works(0) // save failed
		time.Sleep(time.Second)
		time.Sleep(5 * time.Minute)
		other := k.another()
		other.OnEvent = k.OnEvent
		release := k.hold()
		var all sync.WaitGroup
		all.Go(func() { _, _ = k.get(t.Context()) })
		all.Go(func() { _, _ = other.get(t.Context()) }) // adopted
		synctest.Wait()
		release()
		all.Wait()
		k.srv.RevokeSessions("user")
		_, _ = k.get(t.Context()) // over
		for _, what := range []walletauth.EventType{
			walletauth.RefreshBegan, walletauth.RefreshSucceeded, walletauth.RefreshFailed, walletauth.SessionAdopted,
			walletauth.RequestReplayed, walletauth.SaveFailed, walletauth.SavedLater, walletauth.SessionOver,
		} {
			if !seen[what] {
				t.Errorf("there was no event %q; the test meant to cause one", what)
			}
		}
		if err := k.Shutdown(ten(t)); err != nil {
			t.Error(err)
		}
	})
	inBubble(t, "hears each event at once and in order, before those who wait go on", func(t *testing.T) {
		k := newKept(t)
		var mu sync.Mutex
		var types []walletauth.EventType
		var at []time.Duration
		k.at(5 * time.Minute)
		start := time.Now()
		k.OnEvent = func(_ context.Context, e walletauth.Event) {
			since := time.Since(start)
			time.Sleep(100 * time.Millisecond) // a slow one
			mu.Lock()
			defer mu.Unlock()
			types, at = append(types, e.Type), append(at, since)
		}
		k.srv.FailRefresh(1, walletauthtest.Fault{Delay: time.Second})
		if _, err := k.get(t.Context()); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		defer mu.Unlock()
		if !slices.Equal(types, []walletauth.EventType{walletauth.RefreshBegan, walletauth.RefreshSucceeded}) {
			t.Fatalf("events %q", types)
		}
		if at[0] != 0 || at[1] < time.Second || at[1] > 1100*time.Millisecond {
			t.Errorf("events after %s", at)
		}
	})
	t.Run("logs the end of a session as a warning", func(t *testing.T) {
		if got := logged(walletauth.Event{Type: walletauth.SessionOver}); !strings.HasPrefix(got, "level=WARN ") {
			t.Errorf("logged %s", got)
		}
	})
}
