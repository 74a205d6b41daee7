package walletauth_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

// handleUpload adds POST /upload, which answers with the body. Its 401 comes
// before it has read any.
func (w *wire) handleUpload() {
	w.Handle("POST /upload", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		_, _ = rw.Write(body)
	}))
}

const uploads = "POST /upload"

func (w *wire) upload(t *testing.T, body io.Reader) *http.Request {
	return w.newRequest(t, "POST", "/upload", body)
}

// pattern is n bytes that tell if some are missing or twice there.
func pattern(n int) []byte {
	const block = "a prime number of bytes, here 37 -..." // so that no buffer is a multiple of it
	return bytes.Repeat([]byte(block), n/len(block)+1)[:n]
}

func TestBodyIsClosedOnce(t *testing.T) {
	for name, test := range map[string]struct {
		path string
		set  func(t *testing.T, w *wire, req *http.Request) *http.Request
	}{
		"when all is well":     {"/upload", nil},
		"at a public endpoint": {"/users/login-anonymously", nil},
		"when a login is captured": {"/users/login-anonymously", func(_ *testing.T, w *wire, req *http.Request) *http.Request {
			w.transport.CaptureLogin = true
			return req
		}},
		"when a logout is captured": {"/users/logout", func(_ *testing.T, w *wire, req *http.Request) *http.Request {
			w.transport.CaptureLogin = true
			return req
		}},
		"with the caller's own authorization": {"/upload", func(_ *testing.T, w *wire, req *http.Request) *http.Request {
			req.Header.Set("Authorization", "Bearer "+w.session.AccessToken)
			req.Header.Set("X-WalletKit-Token-Source", "walletkit")
			return req
		}},
		"to another host": {"/upload", func(_ *testing.T, _ *wire, req *http.Request) *http.Request {
			req.URL.Host = "other.example"
			req.Header.Set("X-WalletKit-Project-ID", "project")
			return req
		}},
		"when the base fails": {"/upload", func(_ *testing.T, w *wire, req *http.Request) *http.Request {
			w.Fail(uploads, 1, walletauthtest.Fault{Drop: true})
			return req
		}},
		"when the base fails after reading": {"/upload", func(_ *testing.T, w *wire, req *http.Request) *http.Request {
			w.Fail(uploads, 1, walletauthtest.Fault{After: true, Drop: true})
			return req
		}},
		"without a session": {"/upload", func(_ *testing.T, _ *wire, req *http.Request) *http.Request {
			return req.WithContext(walletauth.WithKey(req.Context(), "nobody"))
		}},
		"when the store fails": {"/upload", func(_ *testing.T, w *wire, req *http.Request) *http.Request {
			w.transport.Store = &walletauth.FuncStore{LoadFunc: func(context.Context, string) (*walletauth.Session, error) { return nil, errors.New("down") }}
			return req
		}},
		"when the store panics": {"/upload", func(_ *testing.T, w *wire, req *http.Request) *http.Request {
			w.transport.Store = &walletauth.FuncStore{LoadFunc: func(context.Context, string) (*walletauth.Session, error) { panic("bug") }}
			return req
		}},
		"when the token cannot be sent": {"/upload", func(_ *testing.T, w *wire, req *http.Request) *http.Request {
			s := *w.session
			s.AccessToken += "\n"
			w.transport.Store = &walletauth.FuncStore{LoadFunc: func(context.Context, string) (*walletauth.Session, error) { return &s, nil }}
			return req
		}},
		"when the session is over": {"/upload", func(_ *testing.T, w *wire, req *http.Request) *http.Request {
			time.Sleep(6 * time.Minute)
			w.RevokeSessions("user-1")
			return req
		}},
		"when an expired token is not refreshed": {"/upload", func(_ *testing.T, w *wire, req *http.Request) *http.Request {
			time.Sleep(6 * time.Minute)
			w.FailRefresh(-1, walletauthtest.Fault{Status: 503})
			return req
		}},
		"when the caller leaves before it is sent": {"/upload", func(t *testing.T, w *wire, req *http.Request) *http.Request {
			time.Sleep(6 * time.Minute)
			w.FailRefresh(1, walletauthtest.Fault{Delay: time.Minute})
			return req.WithContext(timeout(t, time.Second))
		}},
		"when the caller leaves after the 401": {"/upload", func(t *testing.T, w *wire, req *http.Request) *http.Request {
			w.RevokeAccess("user-1")
			w.FailRefresh(1, walletauthtest.Fault{Delay: time.Minute})
			return req.WithContext(timeout(t, time.Second))
		}},
		"when it is sent again": {"/upload", func(_ *testing.T, w *wire, req *http.Request) *http.Request {
			w.RevokeAccess("user-1")
			return req
		}},
		"when it is sent again in vain": {"/upload", func(_ *testing.T, w *wire, req *http.Request) *http.Request {
			w.Fail(uploads, -1, walletauthtest.Fault{Status: 401})
			return req
		}},
		"when sending it again fails": {"/upload", func(_ *testing.T, w *wire, req *http.Request) *http.Request {
			w.Fail(uploads, 1, walletauthtest.Fault{Status: 401})
			w.Fail(uploads, 1, walletauthtest.Fault{Drop: true})
			return req
		}},
		"when it is too long to be sent again": {"/upload", func(_ *testing.T, w *wire, req *http.Request) *http.Request {
			w.RevokeAccess("user-1")
			w.transport.MaxReplayBytes = 1
			return req
		}},
		"when its length says that it is too long": {"/upload", func(_ *testing.T, w *wire, req *http.Request) *http.Request {
			w.RevokeAccess("user-1")
			w.transport.MaxReplayBytes, req.ContentLength = 1, 2
			return req
		}},
		"when its 401 stands": {"/upload", func(_ *testing.T, w *wire, req *http.Request) *http.Request {
			w.RevokeAccess("user-1")
			w.FailRefresh(1, walletauthtest.Fault{Status: 404})
			return req
		}},
		"when its 401 ends the session": {"/upload", func(_ *testing.T, w *wire, req *http.Request) *http.Request {
			w.RevokeSessions("user-1")
			return req
		}},
		"when another user has logged in": {"/upload", func(t *testing.T, w *wire, req *http.Request) *http.Request {
			w.Fail(uploads, 1, walletauthtest.Fault{Status: 401, Do: func(*http.Request) { w.login(t, "", "user-2") }})
			return req
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWire(t, walletauthtest.Config{TB: silent{t}})
				w.handleUpload()
				body := newCountedBody("{}")
				req := w.newRequest(t, "POST", test.path, body)
				req.Header.Set("Content-Type", "application/json")
				if test.set != nil {
					req = test.set(t, w, req)
				}
				resp, err := w.transport.RoundTrip(req)
				if err == nil {
					drain(t, resp)
				}
				synctest.Wait() // a base may close the body after it has answered
				body.wantClosed(t)
				time.Sleep(2 * time.Minute)
				body.wantClosed(t)
			})
		})
	}
}

func timeout(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestBodyIsClosedOnceOverSockets(t *testing.T) {
	overSockets(t, func(t *testing.T, w *wire) {
		w.handleUpload()
		for range 2 { // the second time it is sent twice
			body := &waitedBody{newCountedBody("body"), make(chan struct{}, 9)}
			drain(t, w.mustDo(t, w.upload(t, body)))
			<-body.gone
			body.wantClosed(t)
			w.RevokeAccess("user-1")
		}
	})
}

// waitedBody tells when it is closed.
type waitedBody struct {
	*countedBody
	gone chan struct{}
}

func (b *waitedBody) Close() error {
	defer func() { b.gone <- struct{}{} }()
	return b.countedBody.Close()
}

func TestBodyIsSentAgain(t *testing.T) {
	const limit = 100
	for name, test := range map[string]struct {
		size, limit, length int64
		again               bool
	}{
		"of the limit":                      {limit, limit, 0, true},
		"a byte more than the limit":        {limit + 1, limit, 0, false},
		"of a known length at the limit":    {limit, limit, limit, true},
		"of a known length above the limit": {limit + 1, limit, limit + 1, false},
		"of an unknown length, said":        {limit, limit, -1, true},
		"that is empty after all":           {0, limit, 0, true},
		"shorter than it says":              {limit - 1, limit, limit, false},
		"of 64 KiB by default":              {64 << 10, 0, 0, true},
		"a byte more by default":            {64<<10 + 1, 0, 0, false},
		"where nothing is to be kept":       {1, -1, 0, false},
		"of one byte where one is kept":     {1, 1, 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWire(t, walletauthtest.Config{})
				w.handleUpload()
				w.transport.MaxReplayBytes = test.limit
				w.RevokeAccess("user-1")
				sent := pattern(int(test.size))
				req := w.upload(t, newCountedBody(string(sent)))
				req.ContentLength = test.length
				resp := w.mustDo(t, req)
				got := drain(t, resp)
				if again := resp.StatusCode == 200; again != test.again || again && got != string(sent) {
					t.Errorf("status %d, sent again: %t, want %t", resp.StatusCode, again, test.again)
				}
				w.wantRefreshes(t, 1) // for the next request, if not for this
				w.wantStatus(t, "GET", "/wallets", 200)
				w.wantRefreshes(t, 1)
			})
		})
	}
}

func TestRequestWithoutABodyIsSentAgain(t *testing.T) {
	for name, body := range map[string]io.ReadCloser{"nil": nil, "http.NoBody": http.NoBody} {
		t.Run(name, func(t *testing.T) {
			w := newWire(t, walletauthtest.Config{})
			w.RevokeAccess("user-1")
			w.transport.MaxReplayBytes = -1
			req := w.newRequest(t, "GET", "/wallets", nil)
			req.Body = body
			if resp := w.mustDo(t, req); resp.StatusCode != 200 {
				t.Errorf("status %d", resp.StatusCode)
			}
		})
	}
}

func TestGetBodyServesTheSecondTryWhateverItsSize(t *testing.T) {
	w := newWire(t, walletauthtest.Config{})
	w.handleUpload()
	w.RevokeAccess("user-1")
	w.transport.MaxReplayBytes = -1
	sent := string(pattern(1 << 20))
	first, second := newCountedBody(sent), newCountedBody(sent)
	req := w.upload(t, first)
	req.GetBody = func() (io.ReadCloser, error) { return second, nil }
	resp := w.mustDo(t, req)
	if got := drain(t, resp); got != sent {
		t.Errorf("status %d, %d bytes", resp.StatusCode, len(got))
	}
	first.wantClosed(t)
	second.wantClosed(t)
}

func TestGetBodyThatFailsLeavesThe401(t *testing.T) {
	w := newWire(t, walletauthtest.Config{})
	w.handleUpload()
	w.RevokeAccess("user-1")
	req := w.upload(t, newCountedBody("body"))
	req.GetBody = func() (io.ReadCloser, error) { return nil, errors.New("the file is gone") }
	resp := w.mustDo(t, req)
	if body := drain(t, resp); resp.StatusCode != 401 || !strings.Contains(body, "invalid session token") {
		t.Errorf("status %d, body %q, want the 401 as it came", resp.StatusCode, body)
	}
	w.wantStatus(t, "GET", "/wallets", 200)
	w.wantRefreshes(t, 1)
}

func TestStreamedUploadWhose401ComesEarly(t *testing.T) {
	for name, test := range map[string]struct{ size, status int }{
		"8 KiB are sent again":      {8 << 10, 200},
		"8 MiB get their 401":       {8 << 20, 401},
		"8 MiB with a valid token":  {8 << 20, 200},
		"64 KiB are sent again":     {64 << 10, 200},
		"64 KiB and a byte are not": {64<<10 + 1, 401},
	} {
		t.Run(name, func(t *testing.T) {
			overSockets(t, func(t *testing.T, w *wire) {
				w.handleUpload()
				if !strings.Contains(name, "valid") {
					w.RevokeAccess("user-1")
				}
				sent := pattern(test.size)
				body := &waitedBody{newCountedBody(string(sent)), make(chan struct{}, 9)}
				resp := w.mustDo(t, w.upload(t, body))
				got := drain(t, resp)
				if resp.StatusCode != test.status || test.status == 200 && got != string(sent) {
					t.Errorf("status %d and %d bytes, want %d", resp.StatusCode, len(got), test.status)
				}
				<-body.gone
				body.wantClosed(t)
				w.wantStatus(t, "GET", "/wallets", 200)
			})
		})
	}
}

// answerEarly puts a server in front of w that answers an upload while the
// body is still on its way: over HTTP/1.1 net/http by itself would wait for the
// first 256 KiB of it.
func (w *wire) answerEarly(t *testing.T) {
	front := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/upload" {
			_ = http.NewResponseController(rw).EnableFullDuplex()
			rw.Header().Set("Connection", "close")
		}
		w.ServeHTTP(rw, r)
	}))
	t.Cleanup(front.Close)
	w.URL, w.transport.BaseURL = front.URL, front.URL
}

// silentSender is a body whose sender writes a few bytes and then nothing more.
func silentSender(t *testing.T) io.ReadCloser {
	out, in := io.Pipe()
	go func() { _, _ = in.Write([]byte("some")) }()
	t.Cleanup(func() { _ = out.Close() })
	return out
}

// endless is a body that never ends.
type endless struct{ closed atomic.Bool }

func (e *endless) Read(p []byte) (int, error) {
	if e.closed.Load() {
		return 0, errors.New("read after Close")
	}
	return len(p), nil
}

func (e *endless) Close() error { e.closed.Store(true); return nil }

func TestBodyThatDoesNotEndGetsIts401(t *testing.T) {
	for name, makeBody := range map[string]func(*testing.T) io.ReadCloser{
		"as its sender is silent": silentSender,
		"as it is endless":        func(*testing.T) io.ReadCloser { return &endless{} },
	} {
		t.Run(name+" over HTTP/1.1", func(t *testing.T) {
			w := connect(t, walletauthtest.NewServer(walletauthtest.Config{TB: t}))
			w.answerEarly(t)
			w.wantEarly401(t, makeBody(t))
		})
		t.Run(name+" over HTTP/2", func(t *testing.T) {
			srv := walletauthtest.NewUnstartedServer(walletauthtest.Config{TB: t})
			srv.StartTLS()
			connect(t, srv).wantEarly401(t, makeBody(t))
		})
	}
}

func (w *wire) wantEarly401(t *testing.T, body io.Reader) {
	t.Helper()
	w.handleUpload()
	w.RevokeAccess("user-1")
	resp := w.mustDo(t, w.upload(t, body))
	if text := drain(t, resp); resp.StatusCode != 401 || !strings.Contains(text, "invalid session token") {
		t.Errorf("status %d, body %q", resp.StatusCode, text)
	}
	w.wantStatus(t, "GET", "/wallets", 200)
	w.wantRefreshes(t, 1)
}

func TestSilentSenderIsWaitedForASecondOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, walletauthtest.Config{})
		w.handleUpload()
		w.RevokeAccess("user-1")
		out, in := io.Pipe()
		began := time.Now()
		resp := w.mustDo(t, w.upload(t, out))
		if took := time.Since(began); resp.StatusCode != 401 || took != time.Second {
			t.Errorf("status %d after %s, want 401 after 1 s", resp.StatusCode, took)
		}
		drain(t, resp)
		synctest.Wait()
		if _, err := in.Write([]byte("late")); err != io.ErrClosedPipe {
			t.Errorf("the sender's error %v, want that the body was closed", err)
		}
	})
}

func TestSlowSenderIsWaitedForUntilItIsDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, walletauthtest.Config{})
		w.handleUpload()
		w.RevokeAccess("user-1")
		out, in := io.Pipe()
		go func() {
			for _, word := range []string{"one ", "two ", "three"} {
				time.Sleep(200 * time.Millisecond)
				_, _ = io.WriteString(in, word)
			}
			_ = in.Close()
		}()
		resp := w.mustDo(t, w.upload(t, out))
		if got := drain(t, resp); resp.StatusCode != 200 || got != "one two three" {
			t.Errorf("status %d, echo %q", resp.StatusCode, got)
		}
	})
}

func TestSenderThatKeepsItsPipeOpenIsDoneAtTheAnnouncedLength(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, walletauthtest.Config{})
		w.handleUpload()
		w.RevokeAccess("user-1")
		out, in := io.Pipe()
		defer in.Close()
		go func() { _, _ = io.WriteString(in, "body") }()
		req := w.upload(t, out)
		req.ContentLength = 4
		w.Fail(uploads, 1, walletauthtest.Fault{Status: 401})
		w.Fail(uploads, 1, walletauthtest.Fault{Status: 200})
		if resp := w.mustDo(t, req); resp.StatusCode != 200 {
			t.Errorf("status %d", resp.StatusCode)
		}
	})
}

func TestBodyThatFailsIsNotSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, walletauthtest.Config{})
		w.handleUpload()
		w.RevokeAccess("user-1")
		body := io.MultiReader(strings.NewReader("half"), errReader{})
		began := time.Now()
		resp := w.mustDo(t, w.upload(t, body))
		if took := time.Since(began); resp.StatusCode != 401 || took != 0 {
			t.Errorf("status %d after %s, want 401 at once", resp.StatusCode, took)
		}
	})
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, errors.New("the disk broke") }

func TestBodyOfA401IsWhole(t *testing.T) {
	for name, size := range map[string]int{
		"none": 0, "300 KiB": 300 << 10, "1 MiB": 1 << 20, "1 MiB and a byte": 1<<20 + 1, "3 MiB": 3 << 20,
	} {
		t.Run(name, func(t *testing.T) {
			overSockets(t, func(t *testing.T, w *wire) {
				want := pattern(size)
				w.Fail(walletauthtest.ListWallets, -1, walletauthtest.Fault{Status: 401, Body: string(want), Header: http.Header{"Content-Type": {"text/x-test"}}})
				for range 2 { // first the 401 of the second try, then one that is not mended
					resp := w.mustDo(t, w.newRequest(t, "GET", "/wallets", nil))
					if got := drain(t, resp); got != string(want) || resp.Header.Get("Content-Type") != "text/x-test" {
						t.Errorf("got %d bytes that differ, or another header %v", len(got), resp.Header)
					}
				}
				w.wantRefreshes(t, 1)
			})
		})
	}
}

// trickle is the body of an answer: a byte every 100 ms, for ever or for n
// bytes.
type trickle struct {
	n      int
	closed chan struct{}
}

func (b *trickle) Read(p []byte) (int, error) {
	if b.n == 0 {
		return 0, io.EOF
	}
	select {
	case <-time.After(100 * time.Millisecond):
		b.n--
		p[0] = 'x'
		return 1, nil
	case <-b.closed:
		return 0, errors.New("read after Close")
	}
}

func (b *trickle) Close() error { close(b.closed); return nil }

// trickling answers the first request to /wallets with a 401 whose body is b.
func (w *wire) trickling(b *trickle) {
	base, first := w.transport.Base, true
	w.transport.Base = baseFunc(func(req *http.Request) (*http.Response, error) {
		if req.URL.Path != "/wallets" || !first {
			return base.RoundTrip(req)
		}
		first = false
		resp := reply(req, 401, "")
		resp.Body, resp.ContentLength = b, -1
		return resp, nil
	})
}

func Test401ThatNeverEndsIsMendedAllTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, walletauthtest.Config{})
		body := &trickle{-1, make(chan struct{})}
		w.trickling(body)
		began := time.Now()
		w.wantStatus(t, "GET", "/wallets", 200)
		if took := time.Since(began); took != time.Second {
			t.Errorf("it took %s, want the second that it is waited for", took)
		}
		select {
		case <-body.closed:
		default:
			t.Error("the body of the 401 was not closed")
		}
	})
}

func Test401ThatNeverEndsReachesTheCallerAsItComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, walletauthtest.Config{})
		w.RevokeAccess("user-1")
		w.FailRefresh(-1, walletauthtest.Fault{Status: 404})
		w.trickling(&trickle{-1, make(chan struct{})})
		resp := w.mustDo(t, w.newRequest(t, "GET", "/wallets", nil))
		began, got := time.Now(), make([]byte, 20)
		if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != strings.Repeat("x", 20) {
			t.Errorf("body %q, %v", got, err)
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("the first 20 bytes, which take 2 s, took %s", took)
		}
		_ = resp.Body.Close()
		if _, err := io.ReadAll(resp.Body); err == nil {
			t.Error("the body goes on after Close")
		}
	})
}

func Test401ThatTricklesIsWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, walletauthtest.Config{})
		w.RevokeAccess("user-1")
		w.FailRefresh(-1, walletauthtest.Fault{Status: 404})
		w.trickling(&trickle{30, make(chan struct{})})
		if got := drain(t, w.mustDo(t, w.newRequest(t, "GET", "/wallets", nil))); got != strings.Repeat("x", 30) {
			t.Errorf("body %q", got)
		}
	})
}

func TestCallerThatLeavesDuringA401ThatNeverEndsIsNotHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, walletauthtest.Config{})
		body := &trickle{-1, make(chan struct{})}
		w.trickling(body)
		began := time.Now()
		_, err := w.transport.RoundTrip(w.newRequest(t, "GET", "/wallets", nil).WithContext(timeout(t, 500*time.Millisecond)))
		if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || took != 500*time.Millisecond {
			t.Errorf("error %v after %s", err, took)
		}
		<-body.closed
	})
}

func Test401CutOffOnTheWayIsMendedOrCutOffForTheCallerToo(t *testing.T) {
	cutOff := walletauthtest.Fault{Status: 401, Body: "half", Header: http.Header{"Content-Length": {"8"}}}
	w := connect(t, walletauthtest.NewServer(walletauthtest.Config{TB: t}))
	w.Fail(walletauthtest.ListWallets, 1, cutOff)
	w.wantStatus(t, "GET", "/wallets", 200)
	w.Fail(walletauthtest.ListWallets, 1, cutOff)
	w.RevokeAccess("user-1")
	w.FailRefresh(-1, walletauthtest.Fault{Status: 404})
	resp := w.mustDo(t, w.newRequest(t, "GET", "/wallets", nil))
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); string(body) != "half" || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("body %q, error %v", body, err)
	}
}

// countDials makes w's base dial anew, with at most most connections at a
// time, and counts.
func (w *wire) countDials(t *testing.T, most int) *atomic.Int32 {
	base := w.transport.Base.(*http.Transport).Clone()
	base.MaxConnsPerHost = most
	var n atomic.Int32
	base.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		n.Add(1)
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}
	w.transport.Base = base
	t.Cleanup(base.CloseIdleConnections)
	return &n
}

func TestConnectionIsUsedAgainAfterA401(t *testing.T) {
	for name, most := range map[string]int{"among many": 0, "with one connection per host": 1} {
		t.Run(name, func(t *testing.T) {
			overSockets(t, func(t *testing.T, w *wire) {
				dialled := w.countDials(t, most)
				long := string(pattern(300 << 10))
				for range 5 {
					w.Fail(walletauthtest.ListWallets, 1, walletauthtest.Fault{Status: 401, Body: long})
					w.wantStatus(t, "GET", "/wallets", 200) // mended
				}
				w.RevokeAccess("user-1")
				w.FailRefresh(-1, walletauthtest.Fault{Status: 404})
				for range 5 {
					w.wantStatus(t, "GET", "/wallets", 401) // not mended
				}
				// A refresh may begin while the 401 is still being read, and on a busy
				// machine a connection comes back late. Ten would be one for each 401.
				if n := dialled.Load(); n > 5 {
					t.Errorf("%d connections for ten times a 401", n)
				}
			})
		})
	}
}

func TestOneConnectionPerHostIsEnough(t *testing.T) {
	for name, test := range map[string]struct {
		body  func(t *testing.T) io.Reader
		early bool
	}{
		"for an upload that is sent again":    {body: func(*testing.T) io.Reader { return newCountedBody("body") }},
		"for an upload of 8 MiB":              {body: func(*testing.T) io.Reader { return newCountedBody(string(pattern(8 << 20))) }},
		"for an upload whose sender is quiet": {func(t *testing.T) io.Reader { return silentSender(t) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := connect(t, walletauthtest.NewServer(walletauthtest.Config{TB: t}))
			if test.early {
				w.answerEarly(t)
			}
			w.countDials(t, 1)
			w.handleUpload()
			w.RevokeAccess("user-1")
			drain(t, w.mustDo(t, w.upload(t, test.body(t))))
			w.wantStatus(t, "GET", "/wallets", 200)
			w.wantRefreshes(t, 1)
		})
	}
}

func TestBytesThatTheBaseReadAreNotLostForTheSecondTry(t *testing.T) {
	for name, read := range map[string]int{"none": 0, "some": 3, "all but the end": 8, "all": 9} {
		t.Run(name, func(t *testing.T) {
			w := newWire(t, walletauthtest.Config{})
			tries := 0
			w.transport.Base = baseFunc(func(req *http.Request) (*http.Response, error) {
				if req.URL.Path != "/upload" {
					return w.RoundTripper().RoundTrip(req)
				}
				if tries++; tries == 1 {
					_, _ = io.ReadFull(req.Body, make([]byte, read))
					_ = req.Body.Close()
					if _, err := req.Body.Read(make([]byte, 1)); err == nil {
						t.Error("the base can read a body that it has closed")
					}
					return reply(&http.Request{}, 401, ""), nil
				}
				body, _ := io.ReadAll(req.Body)
				return reply(req, 200, string(body)), nil
			})
			if got := drain(t, w.mustDo(t, w.upload(t, newCountedBody("some text")))); got != "some text" {
				t.Errorf("the second try had %q", got)
			}
		})
	}
}

func TestBaseMayCloseTheBodyAfterRoundTripReturned(t *testing.T) {
	w := newWire(t, walletauthtest.Config{})
	var body io.ReadCloser
	w.transport.Base = baseFunc(func(req *http.Request) (*http.Response, error) {
		body = req.Body
		return reply(&http.Request{}, 200, ""), nil
	})
	own := newCountedBody("body")
	drain(t, w.mustDo(t, w.upload(t, own)))
	if n := own.closed.Load(); n != 0 {
		t.Error("the body was closed while the base still reads it")
	}
	if got, err := io.ReadAll(body); err != nil || !bytes.Equal(got, []byte("body")) {
		t.Errorf("the base reads %q, %v", got, err)
	}
	for range 2 {
		_ = body.Close()
	}
	own.wantClosed(t)
}
