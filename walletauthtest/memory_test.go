package walletauthtest_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

// countedBody counts how often it was closed.
type countedBody struct {
	io.Reader
	closed atomic.Int32
}

func (b *countedBody) Close() error {
	b.closed.Add(1)
	return nil
}

func newRequest(t *testing.T, ctx context.Context, endpoint string, body io.Reader) *http.Request {
	t.Helper()
	method, path, _ := strings.Cut(endpoint, " ")
	req, err := http.NewRequestWithContext(ctx, method, "https://walletkit.test"+path, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-WalletKit-Project-ID", "project")
	return req
}

func TestMemoryClosesTheRequestBody(t *testing.T) {
	for _, row := range []struct {
		name  string
		fault fault
		close bool
		ctx   func(context.Context) context.Context
	}{
		{"when it answers", fault{}, false, nil},
		{"when the connection drops", fault{Drop: true}, false, nil},
		{"when the client leaves", fault{Delay: time.Hour}, false, func(ctx context.Context) context.Context {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			t.Cleanup(cancel)
			return ctx
		}},
		{"when the client has left", fault{}, false, func(ctx context.Context) context.Context {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return ctx
		}},
		{"when the server is closed", fault{}, true, nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := walletauthtest.NewUnstartedServer(walletauthtest.Config{})
				defer srv.Close()
				srv.Fail(walletauthtest.LoginAnonymously, 1, row.fault)
				if row.close {
					srv.Close()
				}
				ctx := t.Context()
				if row.ctx != nil {
					ctx = row.ctx(ctx)
				}
				body := &countedBody{Reader: strings.NewReader("{}")}
				resp, err := srv.RoundTripper().RoundTrip(newRequest(t, ctx, walletauthtest.LoginAnonymously, body))
				if err == nil {
					resp.Body.Close()
				}
				synctest.Wait()
				if got := body.closed.Load(); got != 1 {
					t.Errorf("the body was closed %d times, want 1", got)
				}
			})
		})
	}
}

func TestMemoryLeavesTheRequestAlone(t *testing.T) {
	srv := walletauthtest.NewUnstartedServer(walletauthtest.Config{TB: t})
	req := newRequest(t, t.Context(), walletauthtest.LoginAnonymously, nil)
	req.Body, req.Host = nil, ""
	resp, err := srv.RoundTripper().RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.Request != req || req.Body != nil || req.Host != "" || req.RequestURI != "" || len(req.Header) != 1 {
		t.Errorf("the request was changed, or is not the response's: %+v", req)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.Status != "200 OK" || resp.ContentLength != int64(len(body)) {
		t.Errorf("%s, Content-Length %d, %d bytes, %v", resp.Status, resp.ContentLength, len(body), err)
	}
}

func TestMemoryServesEveryHost(t *testing.T) {
	srv := walletauthtest.NewUnstartedServer(walletauthtest.Config{TB: t})
	req := newRequest(t, t.Context(), walletauthtest.LoginAnonymously, nil)
	req.URL.Host, req.Host = "mainnet.walletkit.com", ""
	resp, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Errorf("status %s, want 200", resp.Status)
	}
}

// A handler that streams is read as it goes, and learns that its reader has
// left, in a bubble as over a socket.
func TestMemoryStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := walletauthtest.NewUnstartedServer(walletauthtest.Config{TB: t})
		left := make(chan struct{})
		srv.Handle("GET /events", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer close(left)
			for n := 0; ; n++ {
				fmt.Fprintf(w, "%d", n)
				w.(http.Flusher).Flush()
				select {
				case <-time.After(time.Second):
				case <-r.Context().Done():
					return
				}
			}
		}))
		c, s := newClient(t, srv), srv.Login("user-1")
		req := newRequest(t, t.Context(), "GET /events", nil)
		for name, values := range bearer(s.AccessToken) {
			req.Header[name] = values
		}
		req.Header.Set("X-WalletKit-Token-Source", "walletkit")
		begun := time.Now()
		resp, err := c.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var got [3]byte
		if _, err := io.ReadFull(resp.Body, got[:]); err != nil || string(got[:]) != "012" || resp.ContentLength != -1 {
			t.Errorf("read %q, %v, Content-Length %d", got, err, resp.ContentLength)
		}
		if took := time.Since(begun); took != 2*time.Second {
			t.Errorf("it took %v, want 2s", took)
		}
		resp.Body.Close()
		<-left
		if _, err := resp.Body.Read(got[:]); err == nil {
			t.Error("a closed body can be read")
		}
	})
}

func TestMemoryBodyEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := walletauthtest.NewUnstartedServer(walletauthtest.Config{TB: t})
		srv.Handle("GET /slow", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}))
		c, s := newClient(t, srv), srv.Login("user-1")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		r := c.sendCtx(ctx, "GET /slow", "", bearer(s.AccessToken))
		if r.status != 200 || !errors.Is(r.err, context.DeadlineExceeded) {
			t.Errorf("status %d, %v, want 200 and then the deadline", r.status, r.err)
		}
	})
}

func TestMemoryDropsAReplyThatHasBegun(t *testing.T) {
	for form, newServer := range servers {
		t.Run(form, func(t *testing.T) {
			srv := newServer(walletauthtest.Config{TB: t})
			srv.Handle("GET /half", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				fmt.Fprint(w, "half")
				w.(http.Flusher).Flush()
				panic(http.ErrAbortHandler)
			}))
			c, s := newClient(t, srv), srv.Login("user-1")
			r := c.send("GET /half", "", bearer(s.AccessToken))
			if r.status != 200 || r.body != "half" || r.err == nil {
				t.Errorf("status %d, %q, %v, want the first half and an error", r.status, r.body, r.err)
			}
		})
	}
}

func TestMemoryHeadHasNoBody(t *testing.T) {
	for form, newServer := range servers {
		t.Run(form, func(t *testing.T) {
			srv := newServer(walletauthtest.Config{TB: t})
			c, s := newClient(t, srv), srv.Login("user-1")
			r := c.send("HEAD /wallets", "", bearer(s.AccessToken))
			if c.wantStatus("HEAD", r, 200); r.body != "" {
				t.Errorf("the body is %q", r.body)
			}
		})
	}
}

// A hundred requests at an expiry, five minutes from now, in no time.
func TestTransportInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := walletauthtest.NewUnstartedServer(walletauthtest.Config{TB: t})
		store := new(walletauth.MemoryStore)
		if err := walletauth.Save(t.Context(), store, "", srv.Login("user-1")); err != nil {
			t.Fatal(err)
		}
		client := &http.Client{Transport: &walletauth.Transport{
			Store: store, BaseURL: srv.URL, Base: srv.RoundTripper(),
		}}
		time.Sleep(5 * time.Minute)
		srv.FailRefresh(1, fault{Delay: time.Second})
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				resp, err := client.Get(srv.URL + "/wallets")
				if err != nil {
					t.Error(err)
					return
				}
				resp.Body.Close()
				if resp.StatusCode != 200 {
					t.Errorf("status %s, want 200", resp.Status)
				}
			})
		}
		all.Wait()
		want := walletauthtest.Stats{Requests: 101, Faults: 1, Refreshes: 1}
		if diff := cmp.Diff(want, srv.Stats()); diff != "" {
			t.Errorf("Stats (-want +got):\n%s", diff)
		}
		if got, err := store.Load(t.Context(), ""); err != nil || !cmp.Equal(srv.Sessions("user-1"), []*walletauth.Session{got}) {
			t.Errorf("the store has %v, %v, and the server %v", got, err, srv.Sessions("user-1"))
		}
	})
}

// Whatever is sent is answered, and what is refused is refused with an
// ErrorResponse.
func FuzzRequests(f *testing.F) {
	f.Add("POST", "/users/refresh-token", "application/json", `{"session_id":"s","refresh_token":"r"}`)
	f.Add("POST", "/users/verify-login", "application/json", `{"passkey_credential_assertion_response":{"response":{"clientDataJSON":"e30"}}}`)
	f.Add("POST", "/wallets", "application/json; charset=utf-8", `{"network":"Base","name":"n","control_mode":"user"}`)
	f.Add("GET", "/users/session-challenge", "", "")
	f.Fuzz(func(t *testing.T, method, path, contentType, body string) {
		srv := walletauthtest.NewUnstartedServer(walletauthtest.Config{})
		defer srv.Close()
		req, err := http.NewRequestWithContext(t.Context(), method, srv.URL+"/", strings.NewReader(body))
		if err != nil {
			return // no request can have such a method
		}
		req.URL.Path = path
		for name, values := range bearer(srv.Login("user-1").AccessToken) {
			req.Header[name] = values
		}
		if strings.HasPrefix(path, "/users/") {
			req.Header.Del("Authorization")
		}
		req.Header.Set("X-WalletKit-Project-ID", "project")
		req.Header.Set("Content-Type", contentType)
		resp, err := srv.RoundTripper().RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var refusal struct{ Error string }
		if resp.StatusCode < 400 || method == "HEAD" {
			return
		}
		if err := json.NewDecoder(resp.Body).Decode(&refusal); err != nil || refusal.Error == "" || resp.StatusCode >= 500 {
			t.Errorf("status %s, error %q, %v", resp.Status, refusal.Error, err)
		}
	})
}
