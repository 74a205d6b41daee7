package walletauth_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

func TestAPlainRequestMakesNoEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKept(t)
		for range 100 {
			k.works(0)
			time.Sleep(2 * time.Second)
		}
		k.were()
	})
}

func TestEventsTellWhyARefreshBeganAndHowItEnded(t *testing.T) {
	for why, c := range map[walletauth.Reason]struct {
		age    time.Duration
		before func(*kept)
		after  []walletauth.EventType
	}{
		walletauth.Expiring: {age: early},
		walletauth.Expired:  {age: 5 * time.Minute},
		walletauth.Rejected: {
			age:    time.Minute,
			before: func(k *kept) { k.srv.RevokeAccess("user") },
			after:  []walletauth.EventType{walletauth.RequestReplayed},
		},
	} {
		inBubble(t, string(why), func(t *testing.T) {
			k := newKept(t)
			k.srv.FailRefresh(1, walletauthtest.Fault{Status: 503, Header: map[string][]string{"Retry-After": {"2"}}})
			k.at(c.age)
			if c.before != nil {
				c.before(k)
			}
			if _, err := k.get(t.Context()); err != nil {
				t.Fatal(err)
			}
			k.shutdown()
			want := []walletauth.Event{
				{Type: walletauth.RefreshBegan, Reason: why, SessionID: k.first.ID, UserID: "user"},
				{Type: walletauth.RefreshSucceeded, Reason: why, SessionID: k.first.ID, UserID: "user", Duration: 2 * time.Second, Attempts: 2},
			}
			for _, more := range c.after {
				want = append(want, walletauth.Event{Type: more, SessionID: k.first.ID, UserID: "user"})
			}
			got := k.events.all()
			for i, e := range got {
				if e.Duration > 2*time.Second && e.Duration <= 2400*time.Millisecond { // a fifth of jitter
					got[i].Duration = 2 * time.Second
				}
			}
			if diff := cmp.Diff(want, got, cmpopts.EquateErrors()); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
		})
	}
}

func TestEventsNameTheKeyAndTheSessionThatIsCurrent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKeptBy(t, walletauthtest.Config{TB: t, NewSessionID: true})
		s := k.login("key", "other")
		k.at(5 * time.Minute)
		if _, err := k.get(walletauth.WithKey(t.Context(), "key")); err != nil {
			t.Fatal(err)
		}
		now := k.srv.Sessions("other")[0]
		k.were(
			walletauth.Event{Type: walletauth.RefreshBegan, Reason: walletauth.Expired, Key: "key", SessionID: s.ID, UserID: "other"},
			walletauth.Event{Type: walletauth.RefreshSucceeded, Reason: walletauth.Expired, Key: "key", SessionID: now.ID, UserID: "other", Attempts: 1},
		)
	})
}

func TestEventsTellAFailedRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKept(t)
		k.srv.FailRefresh(1, walletauthtest.Fault{Status: 404, Delay: time.Second})
		k.at(5 * time.Minute)
		err := k.fails(time.Second)
		_ = k.fails(0) // no further event
		k.were(
			walletauth.Event{Type: walletauth.RefreshBegan, Reason: walletauth.Expired, SessionID: k.first.ID, UserID: "user"},
			walletauth.Event{Type: walletauth.RefreshFailed, Reason: walletauth.Expired, SessionID: k.first.ID, UserID: "user", Duration: time.Second, Attempts: 1, Err: err},
		)
	})
}

func TestEventsTellOnceThatASessionIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKept(t)
		k.srv.RevokeSessions("user")
		k.at(5 * time.Minute)
		for _, took := range []time.Duration{750 * time.Millisecond, 0, 0} {
			_ = k.fails(took)
		}
		k.were(
			walletauth.Event{Type: walletauth.RefreshBegan, Reason: walletauth.Expired, SessionID: k.first.ID, UserID: "user"},
			walletauth.Event{Type: walletauth.SessionOver, Reason: walletauth.Expired, SessionID: k.first.ID, UserID: "user", Duration: 750 * time.Millisecond, Attempts: 1, Err: walletauth.ErrSessionExpired},
		)
	})
}

func TestEventsTellThatASessionWasAdopted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newKept(t)
		b := a.another()
		a.srv.FailRefresh(1, walletauthtest.Fault{Delay: time.Second})
		a.at(5 * time.Minute)
		var wg sync.WaitGroup
		wg.Go(func() { a.works(time.Second) })
		synctest.Wait()
		wg.Go(func() { b.works(time.Second) })
		wg.Wait()
		b.were(walletauth.Event{Type: walletauth.SessionAdopted, Reason: walletauth.Expired, SessionID: a.first.ID, UserID: "user"})
	})
}

func TestEventsTellWhatCouldNotBeStoredAndThatItWasLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, _, works := newUnsaving(t)
		k.at(5 * time.Minute)
		k.works(0)
		works()
		k.shutdown()
		refresh := walletauth.Event{Reason: walletauth.Expired, SessionID: k.first.ID, UserID: "user", Attempts: 1}
		began, succeeded, failed := refresh, refresh, refresh
		began.Type, began.Attempts = walletauth.RefreshBegan, 0
		succeeded.Type = walletauth.RefreshSucceeded
		failed.Type, failed.Err = walletauth.SaveFailed, errFull
		k.were(began, succeeded, failed, walletauth.Event{Type: walletauth.SavedLater, SessionID: k.first.ID, UserID: "user"})
	})
}

func TestLogEventsWritesFieldsThatApplyAtTheLevelOfTheEvent(t *testing.T) {
	levels := map[walletauth.EventType]string{
		walletauth.RefreshBegan: "DEBUG", walletauth.RefreshSucceeded: "DEBUG", walletauth.SessionAdopted: "DEBUG",
		walletauth.RequestReplayed: "DEBUG", walletauth.SavedLater: "DEBUG",
		walletauth.RefreshFailed: "WARN", walletauth.SaveFailed: "WARN", walletauth.SessionOver: "WARN",
	}
	for _, what := range slices.Sorted(maps.Keys(levels)) {
		if got, want := logged(walletauth.Event{Type: what}), "level="+levels[what]+` msg=walletauth event="`+string(what)+"\"\n"; got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	full := walletauth.Event{
		Type: walletauth.RefreshFailed, Reason: walletauth.Rejected, Key: "k", SessionID: "s", UserID: "u",
		Duration: time.Second, Attempts: 3, Err: errors.New("oh no"),
	}
	fields := `event="refresh failed" reason=rejected key=k session_id=s user_id=u duration=1s attempts=3 error="oh no"`
	if got, want := logged(full), "level=WARN msg=walletauth "+fields+"\n"; got != want {
		t.Errorf("%s, want %s", got, want)
	}

	var b bytes.Buffer
	textLogger(&b).Info("m", "e", full)
	if got := b.String(); strings.Count(got, " e.") != 8 || !strings.Contains(got, ` e.event="refresh failed" e.reason=rejected `) {
		t.Errorf("LogValue gives %s", got)
	}
}

func TestLogEventsOfNilIsTheDefaultLoggerOfTheMoment(t *testing.T) {
	log := walletauth.LogEvents(nil)
	before := slog.Default()
	defer slog.SetDefault(before)
	var b bytes.Buffer
	slog.SetDefault(textLogger(&b))
	log(t.Context(), walletauth.Event{Type: walletauth.SessionOver})
	if !strings.Contains(b.String(), "session over") {
		t.Errorf("the default logger got %q", b.String())
	}
}

func logged(e walletauth.Event) string {
	var b bytes.Buffer
	walletauth.LogEvents(textLogger(&b))(context.Background(), e)
	return b.String()
}

// textLogger writes all levels, without the time.
func textLogger(b *bytes.Buffer) *slog.Logger {
	return slog.New(slog.NewTextHandler(b, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

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
				if row.chatter == nil {
					row.chatter = &chatter{}
				}
				seen := drive(t, row.chatter, row.expired, row.over, row.own)
				if seen.err == nil && !row.succeeds {
					t.Error("the request succeeded; this row tests nothing")
				}
				for line := range strings.Lines(seen.String()) {
					if leaks(line) {
						t.Errorf("a token got out: %s", line)
					}
				}
			})
		})
	}
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
