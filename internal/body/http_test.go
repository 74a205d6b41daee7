package body_test

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/walletauth/walletauth/internal/body"
)

func newServer(t *testing.T, http2 bool, handler http.HandlerFunc) *httptest.Server {
	srv := httptest.NewUnstartedServer(handler)
	if srv.EnableHTTP2 = http2; http2 {
		srv.StartTLS()
	} else {
		srv.Start()
	}
	t.Cleanup(srv.Close)
	return srv
}

// newPipeServer speaks HTTP/1.1 over connections that buffer nothing.
func newPipeServer(t *testing.T, handler http.HandlerFunc) *httptest.Server {
	srv := httptest.NewUnstartedServer(handler)
	conns := make(chan net.Conn)
	srv.Listener = pipeListener{srv.Listener, conns}
	srv.Start()
	t.Cleanup(srv.Close)
	srv.Client().Transport.(*http.Transport).DialContext = func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		conns <- server
		return client, nil
	}
	return srv
}

// pipeListener has the address and the end of a listener that nobody dials.
type pipeListener struct {
	net.Listener
	conns chan net.Conn
}

func (l pipeListener) Accept() (net.Conn, error) {
	ended := make(chan error, 1)
	go func() { _, err := l.Listener.Accept(); ended <- err }()
	select {
	case c := <-l.conns:
		return c, nil
	case err := <-ended:
		return nil, err
	}
}

func overHTTP(t *testing.T, test func(t *testing.T, http2 bool)) {
	t.Run("HTTP/1.1", func(t *testing.T) { test(t, false) })
	t.Run("HTTP/2", func(t *testing.T) { test(t, true) })
}

func roundTrip(t *testing.T, base http.RoundTripper, req *http.Request) *http.Response {
	t.Helper()
	resp, err := base.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func mustRequest(t *testing.T, method, url string, source io.Reader) *http.Request {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // a test that hangs says where
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, method, url, source)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// The caller looks at resp.Trailer while the rest of the 401 is being read in
// the background: the race detector is the judge of that.
func TestReadAhead_TrailersOfAResponseThatIsHeld(t *testing.T) {
	for name, announce := range map[string]bool{"announced": true, "not announced": false} {
		t.Run(name, func(t *testing.T) {
			overHTTP(t, func(t *testing.T, http2 bool) {
				goOn := make(chan struct{})
				srv := newServer(t, http2, func(w http.ResponseWriter, _ *http.Request) {
					if announce {
						w.Header().Set("Trailer", "Sum")
					}
					w.WriteHeader(http.StatusUnauthorized)
					_, _ = io.WriteString(w, "first ")
					_ = http.NewResponseController(w).Flush()
					<-goOn
					_, _ = io.WriteString(w, "second")
					w.Header().Set(map[bool]string{true: "Sum", false: http.TrailerPrefix + "Sum"}[announce], "42")
				})
				resp := body.ReadAhead(roundTrip(t, srv.Client().Transport, mustRequest(t, "GET", srv.URL, nil)))
				defer resp.Body.Close()
				if _, ok := resp.Trailer["Sum"]; ok != announce {
					t.Errorf("announced trailers: %v", resp.Trailer)
				}
				close(goOn)
				got := ""
				for p := make([]byte, 4); ; {
					sum := resp.Trailer.Get("Sum")
					n, err := resp.Body.Read(p)
					if got += string(p[:n]); err == io.EOF {
						break
					}
					if err != nil || sum != "" {
						t.Fatalf("error %v, trailer %q before the end", err, sum)
					}
				}
				if sum := resp.Trailer.Get("Sum"); got != "first second" || sum != "42" {
					t.Errorf("body %q, trailer %q", got, sum)
				}
			})
		})
	}
}

// limiter lets one response be open at a time, and counts it as open until its
// body is closed.
type limiter struct {
	base http.RoundTripper
	free chan struct{}
}

func (l *limiter) RoundTrip(req *http.Request) (*http.Response, error) {
	select {
	case <-l.free:
	case <-req.Context().Done():
		return nil, req.Context().Err()
	}
	resp, err := l.base.RoundTrip(req)
	if err != nil {
		l.free <- struct{}{}
		return nil, err
	}
	resp.Body = &placed{resp.Body, sync.OnceFunc(func() { l.free <- struct{}{} })}
	return resp, nil
}

type placed struct {
	io.ReadCloser
	leave func()
}

func (p *placed) Close() error { defer p.leave(); return p.ReadCloser.Close() }

func TestReadAhead_LimiterBelowIsFreeDuringTheRefresh(t *testing.T) {
	overHTTP(t, func(t *testing.T, http2 bool) {
		srv := newServer(t, http2, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/refresh" {
				w.WriteHeader(http.StatusUnauthorized)
			}
			_, _ = io.WriteString(w, "a text")
		})
		base := &limiter{srv.Client().Transport, make(chan struct{}, 1)}
		base.free <- struct{}{}
		held := body.ReadAhead(roundTrip(t, base, mustRequest(t, "GET", srv.URL+"/wallets", nil)))
		refresh := roundTrip(t, base, mustRequest(t, "GET", srv.URL+"/refresh", nil)) // hangs if the 401 keeps its place
		_ = refresh.Body.Close()
		if got, err := io.ReadAll(held.Body); string(got) != "a text" || err != nil {
			t.Errorf("the 401's body %q, error %v", got, err)
		}
		_ = held.Body.Close()
		select {
		case <-base.free:
		default:
			t.Error("no place is free after both responses")
		}
	})
}

// retry sends req and, after a 401, sends it again as a transport does.
func retry(t *testing.T, base http.RoundTripper, req *http.Request) (resp *http.Response, again bool) {
	t.Helper()
	b := body.NewReplay(req, 64<<10)
	defer b.Release()
	first := *req
	if first.Body = b; req.GetBody != nil {
		first.GetBody = b.GetBody
	}
	held := body.ReadAhead(roundTrip(t, base, &first))
	if held.StatusCode != http.StatusUnauthorized {
		return held, false
	}
	second := *req
	var ok bool
	if second.Body, second.GetBody, ok = b.Rewind(req.Context(), realClock{}); !ok {
		return held, false
	}
	body.Discard(req.Context(), realClock{}, held)
	return roundTrip(t, base, &second), true
}

// fileSize is more than is on its way between client and server: nothing over a
// pipe, and the window of 1 MiB over HTTP/2.
const fileSize = 2 << 20

// fileContent has no two blocks alike.
var fileContent = sync.OnceValue(func() []byte {
	content := make([]byte, fileSize)
	_, _ = rand.NewChaCha8([32]byte{}).Read(content)
	return content
})

func openFile(t *testing.T) *os.File {
	t.Helper()
	name := filepath.Join(t.TempDir(), "upload")
	if err := os.WriteFile(name, fileContent(), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// earlyServer answers the first request with a 401 before it has read it, and
// reads on while the second one comes in.
type earlyServer struct {
	mu     sync.Mutex
	tries  int
	second context.Context // done when the second request has begun, or the test is over
	begun  context.CancelFunc
	got    []byte // of the second request
}

func newEarlyServer(t *testing.T, http2 bool) (*earlyServer, *httptest.Server) {
	s := &earlyServer{}
	s.second, s.begun = context.WithCancel(t.Context())
	var srv *httptest.Server
	if http2 {
		srv = newServer(t, http2, s.ServeHTTP)
	} else {
		srv = newPipeServer(t, s.ServeHTTP)
	}
	t.Cleanup(s.begun) // before srv waits for the first request
	return s, srv
}

func (s *earlyServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.tries++
	try := s.tries
	s.mu.Unlock()
	if try > 1 {
		var head [1 << 10]byte
		_, _ = io.ReadFull(r.Body, head[:])
		s.begun()
		rest, _ := io.ReadAll(r.Body)
		s.got = append(head[:], rest...)
		return
	}
	c := http.NewResponseController(w)
	_ = c.EnableFullDuplex()
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(http.StatusUnauthorized)
	_ = c.Flush()
	<-s.second.Done()
	_, _ = io.Copy(io.Discard, r.Body)
}

// go-retryablehttp's body over an *os.File is one file for all attempts: its
// GetBody seeks to the beginning, and its Close does nothing.
func TestReplay_UploadOfAFileIsNotCorruptedByAnEarly401(t *testing.T) {
	overHTTP(t, func(t *testing.T, http2 bool) {
		f := openFile(t)
		early, srv := newEarlyServer(t, http2)
		req := mustRequest(t, "PUT", srv.URL, io.NopCloser(f))
		req.ContentLength = fileSize
		req.GetBody = func() (io.ReadCloser, error) {
			_, err := f.Seek(0, io.SeekStart)
			return io.NopCloser(f), err
		}
		resp, again := retry(t, srv.Client().Transport, req)
		_ = resp.Body.Close()
		if resp.StatusCode != 200 || !again || !bytes.Equal(early.got, fileContent()) {
			t.Errorf("status %d, sent again: %t, %d bytes of %d, equal: %t",
				resp.StatusCode, again, len(early.got), fileSize, bytes.Equal(early.got, fileContent()))
		}
	})
}

// A GetBody that returns the file itself, which net/http closes after the first
// attempt, works with net/http's own retries no better.
func TestReplay_FileThatTheFirstAttemptClosesIsNotSentAgain(t *testing.T) {
	f := openFile(t)
	_, srv := newEarlyServer(t, false)
	req := mustRequest(t, "PUT", srv.URL, f)
	req.ContentLength = fileSize
	req.GetBody = func() (io.ReadCloser, error) {
		_, err := f.Seek(0, io.SeekStart)
		return f, err
	}
	resp, again := retry(t, srv.Client().Transport, req)
	_ = resp.Body.Close()
	if resp.StatusCode != 401 || again {
		t.Errorf("status %d, sent again: %t, want the 401", resp.StatusCode, again)
	}
}

// A GetBody that opens the file anew has an offset of its own.
func TestReplay_FileThatIsOpenedAnewIsSentAgain(t *testing.T) {
	overHTTP(t, func(t *testing.T, http2 bool) {
		f := openFile(t)
		early, srv := newEarlyServer(t, http2)
		req := mustRequest(t, "PUT", srv.URL, f)
		req.ContentLength = fileSize
		req.GetBody = func() (io.ReadCloser, error) { return os.Open(f.Name()) }
		resp, again := retry(t, srv.Client().Transport, req)
		_ = resp.Body.Close()
		if resp.StatusCode != 200 || !again || !bytes.Equal(early.got, fileContent()) {
			t.Errorf("status %d, sent again: %t, %d bytes of %d", resp.StatusCode, again, len(early.got), fileSize)
		}
	})
}

// net/http calls GetBody by itself if the server has closed an idle connection.
func TestReplay_TransportsOwnRetryOverAClosedConnection(t *testing.T) {
	var mu sync.Mutex
	tries := 0
	srv := newServer(t, false, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		tries++
		try := tries
		mu.Unlock()
		got, _ := io.ReadAll(r.Body)
		switch try {
		case 1: // leaves an idle connection
		case 2: // which breaks when it is used again
			panic(http.ErrAbortHandler)
		case 3:
			w.WriteHeader(http.StatusUnauthorized)
		default:
			_, _ = w.Write(got)
		}
	})
	base := srv.Client().Transport
	resp := roundTrip(t, base, mustRequest(t, "GET", srv.URL, nil))
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()

	text := strings.NewReader("some text")
	shared := &sharedBody{ReadSeeker: text}
	req := mustRequest(t, "PUT", srv.URL, io.NopCloser(shared))
	req.Header.Set("Idempotency-Key", "1") // so that net/http may repeat it
	req.ContentLength, req.GetBody = text.Size(), shared.getBody
	var reused []bool
	req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { reused = append(reused, info.Reused) },
	}))
	resp, again := retry(t, base, req)
	got, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if string(got) != "some text" || !again || tries != 4 || shared.overlap.Load() {
		t.Errorf("body %q, sent again: %t, %d tries (connections reused: %v), want 4", got, again, tries, reused)
	}
}

func TestDiscard_ConnectionIsUsedAgain(t *testing.T) {
	srv := newServer(t, false, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = w.Write(make([]byte, 300<<10))
	})
	base := srv.Client().Transport.(*http.Transport)
	dials := 0
	base.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		dials++
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}
	base.MaxConnsPerHost = 1
	for range 5 {
		resp := body.ReadAhead(roundTrip(t, base, mustRequest(t, "GET", srv.URL, nil)))
		body.Discard(t.Context(), realClock{}, resp)
	}
	if dials != 1 {
		t.Errorf("%d connections for five responses, one after the other", dials)
	}
}
