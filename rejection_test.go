package walletauth_test

import (
	"bytes"
	"context"
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

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

// wantOver demands that a request fails because the session is over, at once
// and unsent.
func (w *wire) wantOver(t *testing.T, path string) {
	t.Helper()
	before, began := w.Stats().Requests, time.Now()
	resp, err := w.client.Do(w.newRequest(t, "GET", path, nil))
	if err == nil {
		drain(t, resp)
	}
	if !errors.Is(err, walletauth.ErrSessionExpired) {
		t.Errorf("%v, want ErrSessionExpired", err)
	}
	if sent, took := w.Stats().Requests-before, time.Since(began); sent != 0 || took != 0 {
		t.Errorf("%d requests were sent in %s, want that it fails at once and unsent", sent, took)
	}
}

func TestUnauthorized(t *testing.T) {
	for name, body := range map[string]func(*http.Request){
		"of a request without a body": func(req *http.Request) { req.Method = "GET" },
		"of one with GetBody":         func(req *http.Request) { setBody(req, "body"); req.GetBody = getBody("body") },
		"of one whose body is kept":   func(req *http.Request) { setBody(req, "body") },
		"of one that cannot be sent again": func(req *http.Request) {
			setBody(req, strings.Repeat("x", 64<<10+1))
		},
	} {
		inBubble(t, name+" that ends the session is the error, and so is every later request", func(t *testing.T) {
			w := newWire(t, walletauthtest.Config{})
			w.handleUpload()
			w.RevokeSessions("user-1")
			req := w.upload(t, nil)
			req.URL.Path = "/upload"
			body(req)
			if req.Method == "GET" {
				req.URL.Path = "/wallets"
			}
			resp, err := w.transport.RoundTrip(req)
			if resp != nil || !errors.Is(err, walletauth.ErrSessionExpired) {
				t.Errorf("response %v, error %v, want ErrSessionExpired", resp, err)
			}
			var refused *walletauth.RefreshError
			if !errors.As(err, &refused) || refused.StatusCode != 401 {
				t.Errorf("%v, want the RefreshError that says why", err)
			}
			wantNoToken(t, "the error", fmt.Sprintf("%v %#v", err, err), w.session)
			for range 3 {
				w.wantOver(t, "/wallets")
			}
			w.wantRefreshes(t, 1)
			w.login(t, "", "user-1")
			w.wantStatus(t, "GET", "/wallets", 200)
		})
		inBubble(t, name+" whose refresh fails for now is the 401 as it came", func(t *testing.T) {
			w := newWire(t, walletauthtest.Config{})
			w.handleUpload()
			w.RevokeAccess("user-1")
			w.FailRefresh(1, walletauthtest.Fault{Status: 404})
			req := w.upload(t, nil)
			body(req)
			if req.Method == "GET" {
				req.URL.Path = "/wallets"
			}
			resp, err := w.transport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			if text := drain(t, resp); resp.StatusCode != 401 || !strings.Contains(text, "invalid session token") {
				t.Errorf("status %d, body %q", resp.StatusCode, text)
			}
			time.Sleep(2 * time.Second)
			w.wantStatus(t, "GET", "/wallets", 200)
		})
	}
	inBubble(t, "for a hundred requests at once is one end for all", func(t *testing.T) {
		w := newWire(t, walletauthtest.Config{})
		w.RevokeSessions("user-1")
		over := w.countEvents(walletauth.SessionOver)
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				if _, err := w.client.Do(w.newRequest(t, "GET", "/wallets", nil)); !errors.Is(err, walletauth.ErrSessionExpired) {
					t.Errorf("%v, want ErrSessionExpired", err)
				}
			})
		}
		all.Wait()
		w.wantRefreshes(t, 1)
		if n := over.Load(); n != 1 {
			t.Errorf("%d events that it is over, want 1", n)
		}
	})
	inBubble(t, "that ends the session closes the response's body", func(t *testing.T) {
		w := newWire(t, walletauthtest.Config{})
		base := w.transport.Base
		var closed atomic.Int32
		w.transport.Base = baseFunc(func(req *http.Request) (*http.Response, error) {
			resp, err := base.RoundTrip(req)
			if err == nil && req.URL.Path == "/wallets" {
				resp.Body = &closeCounter{resp.Body, &closed}
			}
			return resp, err
		})
		w.RevokeSessions("user-1")
		_, _ = w.client.Do(w.newRequest(t, "GET", "/wallets", nil))
		synctest.Wait()
		if closed.Load() == 0 {
			t.Error("the body of the 401 was not closed")
		}
	})
	inBubble(t, "after an end that was learned ahead of time is the error", func(t *testing.T) {
		k := newKept(t)
		k.srv.FailRefresh(-1, errorReply(401, "application/json", ours))
		k.at(4*time.Minute + 46*time.Second)
		k.works(0) // and learns behind it
		time.Sleep(time.Second)
		k.works(0) // its access token serves
		k.sent(1)
		k.srv.RevokeAccess("user")
		if _, err := k.get(t.Context()); !errors.Is(err, walletauth.ErrSessionExpired) {
			t.Errorf("%v, want ErrSessionExpired", err)
		}
		before := k.srv.Stats().Requests
		for range 3 {
			if err := k.fails(0); !errors.Is(err, walletauth.ErrSessionExpired) {
				t.Errorf("%v, want ErrSessionExpired", err)
			}
		}
		if n := k.srv.Stats().Requests - before; n != 0 {
			t.Errorf("%d requests were sent of a session that is over", n)
		}
		k.sent(1)
	})
	inBubble(t, "is mended by the session that another process saves in the moment after", func(t *testing.T) {
		w := newWire(t, walletauthtest.Config{})
		w.RevokeAccess("user-1")
		fault := errorReply(401, "application/json", ours)
		saved := w.Login("user-1")
		row := &atomic.Pointer[walletauth.Session]{}
		row.Store(w.session)
		w.transport.Store = &walletauth.FuncStore{
			LoadFunc: func(context.Context, string) (*walletauth.Session, error) { return row.Load(), nil },
			SaveFunc: func(_ context.Context, _ string, s *walletauth.Session) error { row.Store(s); return nil },
		}
		fault.Do = func(*http.Request) { time.AfterFunc(300*time.Millisecond, func() { row.Store(saved) }) }
		w.FailRefresh(1, fault)
		w.wantStatus(t, "GET", "/wallets", 200)
		w.wantRefreshes(t, 1)
	})
}

type closeCounter struct {
	io.ReadCloser
	n *atomic.Int32
}

func (c *closeCounter) Close() error { c.n.Add(1); return c.ReadCloser.Close() }

func setBody(req *http.Request, text string) {
	req.Body, req.GetBody, req.ContentLength = newCountedBody(text), nil, int64(len(text))
}

func getBody(text string) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return newCountedBody(text), nil }
}

// refreshTimes notes when refreshes are sent, and says how many there were at
// most in any five minutes.
type refreshTimes struct {
	mu sync.Mutex
	at []time.Time
}

func (r *refreshTimes) note() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.at = append(r.at, time.Now())
}

func (r *refreshTimes) most() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, begin := range r.at {
		within := 0
		for _, at := range r.at[i:] {
			if at.Sub(begin) < 5*time.Minute {
				within++
			}
		}
		n = max(n, within)
	}
	return n
}

func (r *refreshTimes) want(t *testing.T, most int) {
	t.Helper()
	if n := r.most(); n > most {
		t.Errorf("%d refreshes within five minutes, want %d at most", n, most)
	}
	if len(r.at) == 0 {
		t.Error("no refresh was sent")
	}
}

// An endpoint that refuses every token must not cost a session its refreshes.
func TestEndpointThatRefuses(t *testing.T) {
	sameToken := func(s *walletauth.Session) *walletauth.Session { same := *s; return &same }
	sameAccess := func(s *walletauth.Session) *walletauth.Session {
		same := *s
		same.RefreshToken += "'"
		return &same
	}
	later := func(s *walletauth.Session) *walletauth.Session {
		same := *s
		same.AccessTokenExpiresAt = same.AccessTokenExpiresAt.Add(time.Second)
		return &same
	}
	another := func(s *walletauth.Session) *walletauth.Session {
		next := *s
		next.AccessToken += "'"
		next.RefreshToken += "'"
		return &next
	}
	for what, answer := range map[string]func(*walletauth.Session) *walletauth.Session{
		"a new token": another, "the same session": sameToken, "the same access token": sameAccess, "the same access token, later expiry": later,
	} {
		for where, path := range map[string]func(i int) string{
			"one path":      func(int) string { return "/refusing" },
			"two paths":     func(i int) string { return fmt.Sprint("/refusing/", i%2) },
			"hundred paths": func(i int) string { return fmt.Sprint("/refusing/", i%100) },
			"ever new ones": func(i int) string { return fmt.Sprint("/refusing/", i) },
		} {
			for how, pause := range map[string]time.Duration{"at once": 0, "over half an hour": 3 * time.Second} {
				inBubble(t, fmt.Sprintf("on %s, %s, refreshes 3 times in 5 minutes at most: %s", where, how, what), func(t *testing.T) {
					var times refreshTimes
					st := &walletauth.MemoryStore{}
					r := &issuer{ttl: 24 * time.Hour}
					k := &kept{t: t, Transport: quiet(st, refreshFunc(func(_ context.Context, s *walletauth.Session) (*walletauth.Session, error) {
						times.note()
						return answer(s), nil
					}))}
					k.Base = roundTripFunc(func(*http.Request) (*http.Response, error) {
						return &http.Response{StatusCode: 401, Body: http.NoBody}, nil
					})
					if err := walletauth.Save(t.Context(), st, "", r.issue(time.Now(), 0)); err != nil {
						t.Fatal(err)
					}
					for i := range 600 {
						k.wants401(path(i))
						time.Sleep(pause)
					}
					times.want(t, 3)
				})
			}
		}
	}
	inBubble(t, "a hundred paths at the same time refreshes 3 times in 5 minutes at most", func(t *testing.T) {
		w := newWire(t, walletauthtest.Config{AccessTokenTTL: 24 * time.Hour})
		var times refreshTimes
		w.Handle("GET /refusing/{id}", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) }))
		w.FailRefresh(-1, walletauthtest.Fault{Do: func(*http.Request) { times.note() }, Delay: 100 * time.Millisecond})
		for range 10 {
			var all sync.WaitGroup
			for i := range 100 {
				all.Go(func() { w.wantStatus(t, "GET", fmt.Sprint("/refusing/", i), 401) })
			}
			all.Wait()
			w.wantStatus(t, "GET", "/wallets", 200)
			time.Sleep(10 * time.Second)
		}
		times.want(t, 3)
	})
	inBubble(t, "outside of HTTP: Renew refreshes 3 times in 5 minutes at most", func(t *testing.T) {
		k := newKeptBy(t, walletauthtest.Config{TB: t, AccessTokenTTL: 24 * time.Hour})
		var times refreshTimes
		k.srv.FailRefresh(-1, walletauthtest.Fault{Do: func(*http.Request) { times.note() }})
		rejected := k.first
		for range 600 {
			if next, err := k.Renew(t.Context(), rejected); err == nil {
				rejected = next
			} else if errors.Is(err, walletauth.ErrSessionExpired) || errors.Is(err, walletauth.ErrNoSession) {
				t.Fatalf("%v, though the session is good", err)
			}
			time.Sleep(3 * time.Second)
		}
		times.want(t, 3)
	})
	inBubble(t, "in and outside of HTTP shares the 3 refreshes in 5 minutes", func(t *testing.T) {
		w := newWire(t, walletauthtest.Config{AccessTokenTTL: 24 * time.Hour})
		var times refreshTimes
		w.FailRefresh(-1, walletauthtest.Fault{Do: func(*http.Request) { times.note() }})
		w.Handle("GET /refusing/{id}", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) }))
		for i := range 100 {
			w.wantStatus(t, "GET", fmt.Sprint("/refusing/", i), 401)
			_, _ = w.transport.Renew(t.Context(), w.stored(t, ""))
			time.Sleep(3 * time.Second)
		}
		times.want(t, 3)
	})
	inBubble(t, "is not a token that is revoked again and again, which is refreshed and replayed each time", func(t *testing.T) {
		w := newWire(t, walletauthtest.Config{AccessTokenTTL: 24 * time.Hour})
		for range 30 { // 5 minutes
			w.RevokeAccess("user-1")
			w.wantStatus(t, "GET", "/wallets", 200)
			time.Sleep(10 * time.Second)
		}
		w.wantRefreshes(t, 30)
	})
	inBubble(t, "costs another key nothing", func(t *testing.T) {
		w := newWire(t, walletauthtest.Config{AccessTokenTTL: 24 * time.Hour})
		w.login(t, "b", "user-b")
		w.Handle("GET /refusing/{id}", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) }))
		for i := range 100 {
			w.wantStatus(t, "GET", fmt.Sprint("/refusing/", i), 401)
		}
		w.RevokeAccess("user-b")
		req := w.newRequest(t, "GET", "/wallets", nil)
		resp := w.mustDo(t, req.WithContext(walletauth.WithKey(t.Context(), "b")))
		if drain(t, resp); resp.StatusCode != 200 {
			t.Errorf("status %d", resp.StatusCode)
		}
	})
	inBubble(t, "leaves refreshes ahead of expiry as they are", func(t *testing.T) {
		w := newWire(t, walletauthtest.Config{})
		w.Handle("GET /refusing/{id}", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) }))
		for i := range 240 { // an hour
			w.wantStatus(t, "GET", fmt.Sprint("/refusing/", i), 401)
			w.wantStatus(t, "GET", "/wallets", 200)
			time.Sleep(15 * time.Second)
		}
	})
}

// wants401 demands that a request gets its 401 back.
func (k *kept) wants401(path string) {
	k.t.Helper()
	req, err := http.NewRequestWithContext(k.t.Context(), http.MethodGet, k.BaseURL+path, nil)
	if err != nil {
		k.t.Fatal(err)
	}
	resp, err := k.RoundTrip(req)
	if err != nil {
		k.t.Fatal(err)
	}
	if _ = resp.Body.Close(); resp.StatusCode != 401 {
		k.t.Errorf("status %d, want 401", resp.StatusCode)
	}
}

// file is a body that shares its offset with all who read it, as an *os.File
// that is rewound by GetBody does.
type file struct {
	mu  sync.Mutex
	r   *bytes.Reader
	got int // calls of GetBody
}

func (f *file) Read(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.r.Read(p)
}

func (f *file) getBody() (io.ReadCloser, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.got++
	_, err := f.r.Seek(0, io.SeekStart)
	return io.NopCloser(f), err
}

func TestReplay(t *testing.T) {
	const size = 64 << 10
	for name, c := range map[string]struct {
		reads time.Duration // how long the first attempt reads on after its 401
		ends  func(body io.ReadCloser)
		want  int
	}{
		"sends a body that shares its offset whole, though the first attempt reads on": {300 * time.Millisecond, closeBody, 200},
		"sends it whole after a first attempt that was done":                           {0, closeBody, 200},
		"stops a first attempt that would read on for an hour":                         {time.Hour, closeBody, 200},
	} {
		inBubble(t, name, func(t *testing.T) {
			w := newWire(t, walletauthtest.Config{})
			want := pattern(size)
			f := &file{r: bytes.NewReader(want)}
			var reading sync.WaitGroup
			first := true
			w.transport.Base = baseFunc(func(req *http.Request) (*http.Response, error) {
				switch {
				case req.URL.Path != "/upload":
					return w.RoundTripper().RoundTrip(req)
				case first: // answered at once; the rest of the body is on its way
					first = false
					body := req.Body
					reading.Go(func() {
						for range 16 {
							_, _ = io.ReadFull(body, make([]byte, size/16))
							time.Sleep(c.reads / 16)
						}
						c.ends(body)
					})
					synctest.Wait()
					return reply(&http.Request{}, 401, "no"), nil
				default:
					var got []byte
					for p, n := make([]byte, size/32), 1; n > 0; {
						n, _ = req.Body.Read(p)
						got = append(got, p[:n]...)
						time.Sleep(5 * time.Millisecond) // as a connection does
					}
					_ = req.Body.Close()
					if !bytes.Equal(got, want) {
						t.Errorf("the second attempt sent %d bytes that differ", len(got))
					}
					return reply(&http.Request{}, 200, ""), nil
				}
			})
			req := w.upload(t, f)
			req.Body, req.GetBody, req.ContentLength = io.NopCloser(f), f.getBody, size
			began := time.Now()
			resp := w.mustDo(t, req)
			if body := drain(t, resp); resp.StatusCode != c.want {
				t.Errorf("status %d, body %q, want %d", resp.StatusCode, body, c.want)
			}
			if took := time.Since(began); took > time.Minute {
				t.Errorf("it took %s", took)
			}
			reading.Wait()
		})
	}
	inBubble(t, "sends a body of its own offset by GetBody", func(t *testing.T) {
		w := newWire(t, walletauthtest.Config{})
		w.handleUpload()
		w.RevokeAccess("user-1")
		req := w.upload(t, strings.NewReader("body"))
		if resp := w.mustDo(t, req); drain(t, resp) != "body" || resp.StatusCode != 200 {
			t.Errorf("status %d", resp.StatusCode)
		}
	})
}

func closeBody(body io.ReadCloser) { _ = body.Close() }

// Somebody else logs in under the key while a request waits.
func TestAnotherUser(t *testing.T) {
	newUser := func(t *testing.T, age time.Duration, user string) (*kept, func() *walletauth.Session) {
		k := newKept(t)
		k.at(age)
		release := k.hold()
		login := k.srv.Login(user)
		go func() { _ = walletauth.Save(context.Background(), k.Store, "", login) }()
		synctest.Wait() // first in line
		time.AfterFunc(time.Second, release)
		return k, func() *walletauth.Session { return login }
	}
	wantNeither := func(t *testing.T, what string, err error) {
		t.Helper()
		if err == nil || errors.Is(err, walletauth.ErrNoSession) || errors.Is(err, walletauth.ErrSessionExpired) {
			t.Errorf("%s: %v, want an error that wraps neither sentinel", what, err)
		}
	}
	inBubble(t, "does not get a POST that waited with an expired token", func(t *testing.T) {
		k, _ := newUser(t, 5*time.Minute, "other")
		body := newCountedBody("{}")
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, k.BaseURL+"/wallets", body)
		if err != nil {
			t.Fatal(err)
		}
		sentNothing := k.mark()
		resp, err := k.RoundTrip(req)
		if resp != nil {
			t.Errorf("status %d", resp.StatusCode)
		}
		wantNeither(t, "RoundTrip", err)
		sentNothing(t)
		body.wantClosed(t)
		if n := k.srv.User("other").Requests; n != 0 {
			t.Errorf("%d requests as the other user", n)
		}
		time.Sleep(time.Second)
		k.works(0) // the next one begins as the other user
	})
	inBubble(t, "does not get a request that waited with a token about to expire", func(t *testing.T) {
		k, _ := newUser(t, late, "other")
		_, _ = k.get(t.Context()) // an error, or as the user that it began as
		if n := k.srv.User("other").Requests; n != 0 {
			t.Errorf("%d requests as the other user", n)
		}
	})
	inBubble(t, "does not get what Session was asked for", func(t *testing.T) {
		k, _ := newUser(t, 5*time.Minute, "other")
		s, err := k.Session(t.Context())
		if s != nil {
			t.Errorf("session %v", s)
		}
		wantNeither(t, "Session", err)
	})
	inBubble(t, "does not get what Renew was asked for, after a wait", func(t *testing.T) {
		k, _ := newUser(t, time.Minute, "other")
		s, err := k.Renew(t.Context(), k.first)
		if s != nil {
			t.Errorf("session %v", s)
		}
		wantNeither(t, "Renew", err)
	})
	inBubble(t, "does not get what Renew was asked for, at once", func(t *testing.T) {
		k := newKept(t)
		k.login("", "other")
		s, err := k.Renew(t.Context(), k.first)
		if s != nil {
			t.Errorf("session %v", s)
		}
		wantNeither(t, "Renew", err)
		k.sent(0)
	})
	inBubble(t, "is not the same user who logged in again, as whom the request goes out", func(t *testing.T) {
		k, login := newUser(t, 5*time.Minute, "user")
		k.works(time.Second)
		k.wentOutWith(login())
		k.sent(0)
	})
}
