package walletauth_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walletauth/walletauth"
)

// chatter is a store, a refresher and a base transport that put every token
// they see into their errors, panics and replies.
type chatter struct {
	walletauth.MemoryStore
	load, update, updateAfter, refresh func(tokens string) error
	reply                              func(req *http.Request, body string) *http.Response
	loads                              int
}

func (c *chatter) Load(ctx context.Context, key string) (*walletauth.Session, error) {
	s, err := c.MemoryStore.Load(ctx, key)
	if c.loads++; c.load != nil && s != nil && c.loads > 1 { // of a token that it has never seen the transport cannot know
		return nil, c.load(tokensIn(s))
	}
	return s, err
}

func (c *chatter) Update(ctx context.Context, key string, fn func(context.Context, *walletauth.Session) (*walletauth.Session, error)) error {
	return c.MemoryStore.Update(ctx, key, func(ctx context.Context, s *walletauth.Session) (*walletauth.Session, error) {
		if c.update != nil {
			return nil, c.update(tokensIn(s))
		}
		next, err := fn(ctx, s)
		if c.updateAfter != nil && err == nil {
			return nil, c.updateAfter(tokensIn(s) + tokensIn(next))
		}
		return next, err
	})
}

func (c *chatter) Refresh(_ context.Context, s *walletauth.Session) (*walletauth.Session, error) {
	if c.refresh != nil {
		return nil, c.refresh(tokensIn(s))
	}
	next := secretSession()
	next.AccessToken, next.RefreshToken = "new-access-5ecret", "new-refresh-5ecret"
	next.AccessTokenExpiresAt = time.Now().Add(5 * time.Minute)
	return &next, nil
}

func (c *chatter) RoundTrip(req *http.Request) (*http.Response, error) {
	body := ""
	if req.Body != nil {
		data, _ := io.ReadAll(req.Body)
		_ = req.Body.Close()
		body = string(data)
	}
	if c.reply == nil {
		return nil, errors.New("base: cannot send " + req.Header.Get("Authorization") + " " + body)
	}
	return c.reply(req, body), nil
}

func tokensIn(s *walletauth.Session) string {
	if s == nil {
		return ""
	}
	return fmt.Sprintf(" %s %q ", s.AccessToken, s.RefreshToken)
}

func replying(status int, body func(req *http.Request, body string) string) func(*http.Request, string) *http.Response {
	return func(req *http.Request, sent string) *http.Response {
		return &http.Response{
			StatusCode: status, Header: http.Header{}, Request: req,
			Body: io.NopCloser(strings.NewReader(body(req, sent))),
		}
	}
}

// TestNoErrorEventOrLogLineHoldsAToken drives every way a request can fail, with
// everybody around the transport printing the tokens they know.
func TestNoErrorEventOrLogLineHoldsAToken(t *testing.T) {
	wrapped := func(tokens string) error { return errors.New("failed with" + tokens) }
	refused := func(tokens string) error {
		return &walletauth.RefreshError{StatusCode: 401, Code: tokens, Message: "not" + tokens, Err: fmt.Errorf("%w: %s", walletauth.ErrSessionExpired, tokens)}
	}
	panics := func(tokens string) error { panic("panic with" + tokens) }
	echo := func(req *http.Request, sent string) string {
		return fmt.Sprintf(`{"code":%q,"error":%q}`, sent, "cannot use "+sent)
	}
	for _, row := range []struct {
		promise  string
		chatter  *chatter
		expired  bool // the stored session's access token
		over     bool // and its refresh token
		own      bool // refreshes go by the default Refresher
		succeeds bool
	}{
		{promise: "the base transport fails"},
		{promise: "loading fails", chatter: &chatter{load: wrapped}},
		{promise: "loading panics", chatter: &chatter{load: panics}},
		{promise: "updating fails", chatter: &chatter{update: wrapped}, expired: true},
		{promise: "updating panics", chatter: &chatter{update: panics}, expired: true},
		{promise: "saving fails", chatter: &chatter{updateAfter: wrapped}, expired: true},
		{promise: "saving panics", chatter: &chatter{updateAfter: panics}, expired: true},
		{promise: "the refresher fails", chatter: &chatter{refresh: wrapped}, expired: true},
		{promise: "the refresher panics", chatter: &chatter{refresh: panics}, expired: true},
		{promise: "the refresher says it is over", chatter: &chatter{refresh: refused}, expired: true},
		{promise: "the refresh token has expired", expired: true, over: true},
		{promise: "the network fails", expired: true, own: true},
		{promise: "the server echoes and ends the session", chatter: &chatter{reply: replying(401, echo)}, expired: true, own: true},
		{promise: "the server echoes and is overloaded", chatter: &chatter{reply: replying(503, echo)}, expired: true, own: true},
		{promise: "the server echoes with status 200", chatter: &chatter{reply: replying(200, func(_ *http.Request, sent string) string { return sent })}, expired: true, own: true},
		{promise: "the server puts a token where a time belongs", chatter: &chatter{reply: replying(200, func(*http.Request, string) string {
			return `{"id":"ACCESS-5ecret","created_at":"ACCESS-5ecret"}`
		})}, expired: true, own: true},
		{promise: "the API answers 401 and the refresh fails", chatter: &chatter{refresh: wrapped, reply: replying(401, func(*http.Request, string) string { return "" })}, succeeds: true},
	} {
		t.Run(row.promise, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				seen := drive(t, cmp.Or(row.chatter, &chatter{}), row.expired, row.over, row.own)
				if seen.err == nil && !row.succeeds {
					t.Error("the request succeeded; this row tests nothing")
				}
				for line := range strings.Lines(seen.text.String()) {
					if leaks(line) {
						t.Errorf("a token got out: %s", line)
					}
				}
			})
		})
	}
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

func drive(t *testing.T, c *chatter, expired, over, own bool) *witness {
	s := secretSession()
	s.AccessToken = "ACCESS-5ecret"
	s.AccessTokenExpiresAt = time.Now().Add(5 * time.Minute)
	s.RefreshTokenExpiresAt = time.Now().Add(time.Hour)
	if expired {
		s.AccessTokenExpiresAt = time.Now().Add(-time.Second)
	}
	if over {
		s.RefreshTokenExpiresAt = time.Now().Add(-time.Second)
	}
	if err := walletauth.Save(t.Context(), &c.MemoryStore, "", &s); err != nil {
		t.Fatal(err)
	}
	w := &witness{}
	var logged bytes.Buffer
	logs := []func(context.Context, walletauth.Event){
		walletauth.LogEvents(slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))),
		walletauth.LogEvents(slog.New(slog.NewJSONHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))),
	}
	tr := &walletauth.Transport{Store: c, Base: c, Refresher: c, OnEvent: func(ctx context.Context, e walletauth.Event) {
		w.print(e)
		w.print(e.Err)
		for _, log := range logs {
			log(ctx, e)
		}
	}}
	if own {
		tr.Refresher = nil
	}
	for range 3 { // the second meets what the first left: a cool-down, an end; the third an expired token
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, walletauth.Testnet+"/wallets", nil)
		resp, err := (&http.Client{Transport: tr}).Do(req)
		for e := err; e != nil; e = errors.Unwrap(e) {
			w.print(e)
		}
		w.print(resp)
		if resp != nil {
			_ = resp.Body.Close()
		}
		w.err = errors.Join(w.err, err)
		time.Sleep(3 * time.Minute)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	err := tr.Shutdown(ctx)
	w.print(err)
	w.err = errors.Join(w.err, err)
	w.print(tr)
	_, _ = w.text.Write(logged.Bytes())
	return w
}
