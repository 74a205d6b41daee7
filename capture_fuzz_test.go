package walletauth_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/walletauth/walletauth"
)

// Whatever a login is answered, the caller gets it as it came, and what is
// stored is the session that it carries, whole, or what was stored before.
func FuzzLoginCapture(f *testing.F) {
	data := encoded(f, newSession())
	f.Add(200, "", data, byte(7), byte(0), false, false)
	f.Add(201, "", data, byte(1), byte(200), false, true)
	f.Add(200, "", data, byte(0), byte(0), true, false)
	f.Add(200, "", append(data, "    trailing"...), byte(0), byte(130), false, false)
	f.Add(200, "gzip", []byte(gzipped(string(data))), byte(9), byte(0), false, true)
	f.Add(200, "GZIP", []byte(gzipped(string(data))), byte(9), byte(0), false, false)
	f.Add(200, "", data, byte(9), byte(255), false, false)
	f.Add(200, "", data, byte(9), byte(254), false, false)
	f.Add(200, "", data, byte(9), byte(192), false, false)
	f.Add(200, "gzip", []byte(gzipped(string(data)))[:60], byte(9), byte(0), true, false)
	f.Add(400, "", []byte(`{"code":null,"error":"no"}`), byte(3), byte(0), false, false)
	f.Add(204, "br", []byte(nil), byte(0), byte(0), false, false)
	f.Fuzz(func(t *testing.T, status int, encoding string, body []byte, piece, padding byte, breaksOff, saveFails bool) {
		synctest.Test(t, func(t *testing.T) {
			a := answer{status: status, header: http.Header{"Content-Encoding": {encoding}}, piece: int(piece), breaksOff: breaksOff}
			a.body = padded(body, padding)
			checkCapture(t, a, saveFails)
		})
	})
}

// padded brings a body near the size above which it is not looked at, by space
// before it or behind, which is none of its meaning. Most bodies stay small, so
// that many are tried.
func padded(body []byte, padding byte) []byte {
	if padding < 128 {
		return body
	}
	space := bytes.Repeat([]byte{' '}, max(0, tooLarge-len(body)+int(padding)-192))
	if padding%2 == 0 {
		return append(space, body...)
	}
	return append(bytes.Clone(body), space...)
}

const tooLarge = 1 << 20

func checkCapture(t *testing.T, a answer, saveFails bool) {
	before := secretSession()
	store := &failingStore{}
	if err := walletauth.Save(t.Context(), store, "", &before); err != nil {
		t.Fatal(err)
	}
	store.setFail(saveFails)
	seen, said := &witness{}, &strings.Builder{}
	tr := &walletauth.Transport{
		Store: store, ProjectID: "project-1", CaptureLogin: true,
		Base: baseFunc(func(*http.Request) (*http.Response, error) { return a.response(), nil }),
		OnEvent: func(_ context.Context, e walletauth.Event) {
			seen.print(e)
			seen.print(e.Err)
			_, _ = fmt.Fprintln(said, e.Err)
		},
	}
	req := mustRequest(t, http.MethodPost, "/users/verify-login")
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatalf("the caller gets %v instead of the answer", err)
	}
	a.check(t, resp)
	store.setFail(false)
	if err := tr.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkCaptured(t, store, a, &before)
	wantNoTokens(t, "an event", seen.text.String(), &before)
	wantNoTokens(t, "an error", said.String(), a.session()) // an event's own words may be a token in there
}

func checkCaptured(t *testing.T, store walletauth.TokenStore, a answer, before *walletauth.Session) {
	stored, err := store.Load(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	want := before
	if s := a.session(); s != nil {
		want = s
	}
	if diff := cmp.Diff(want, stored); diff != "" {
		t.Errorf("stored (-want +got):\n%s", diff)
	}
	if _, err := (walletauth.JSONCodec{}).Encode("", stored); err != nil {
		t.Errorf("what is stored is no session: %v", err)
	}
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

// wantNoTokens fails if text holds a token of one of the sessions, if that is
// long enough not to be part of a text by chance.
func wantNoTokens(t *testing.T, where, text string, sessions ...*walletauth.Session) {
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
