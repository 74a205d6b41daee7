package walletauth_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walletauth/walletauth"
)

// Whatever a refresh is answered, and whatever the server repeats of what it
// was sent: the session ends only by WalletKit's own word, what is stored stays
// or is traded in for a whole one, the caller knows in time, and no token gets
// out. In a body, ECHO stands for the request that the server got. The token
// begins with what stands in no message of ours.
func FuzzErrorReply(f *testing.F) {
	good := string(encoded(f, freshSession()))
	f.Add("refresh-5ecret", 401, "", "", `{"code":null,"error":"invalid refresh token"}`)
	f.Add("refresh&<5ecret>", 400, "", "", `{"code":"ECHO","error":"cannot use ECHO"}`)
	f.Add("refresh/5ecret+=", 403, "", "Thu, 01 Jan 1970 00:00:00 GMT", `<html>forbidden: ECHO</html>`)
	f.Add("refresh\"5ecret\\", 503, "7", "", "ECHO")
	f.Add("refresh\n5ecret\xff", 429, "Sat, 01 Jan 2000 00:00:09 GMT", "Sat, 01 Jan 2000 00:00:00 GMT", `{"error":"slow down"}`)
	f.Add("refresh-5ecret", 307, "", "", "")
	f.Add("refresh-5ecret", 200, "", "", `{"id":"ECHO","created_at":"ECHO"}`)
	f.Add("refresh-5ecret", 200, "-1", "Fri, 31 Dec 9999 23:59:59 GMT", good)
	f.Add("refresh-5ecret", 500, "99999999999999999999", "Fri, 31 Dec 9999 23:59:59 GMT", good)
	f.Fuzz(func(t *testing.T, token string, status int, retryAfter, date, body string) {
		synctest.Test(t, func(t *testing.T) {
			s := freshSession()
			s.RefreshToken, s.AccessTokenExpiresAt = "t0ken-"+token, time.Now().Add(-time.Second)
			newRefusal(t, s, status, retryAfter, date, body).check(t)
		})
	})
}

// freshSession is a session at the time at which a synctest bubble begins.
func freshSession() *walletauth.Session {
	now := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	s := newSession()
	s.CreatedAt, s.AccessTokenExpiresAt, s.RefreshTokenExpiresAt = now, now.Add(5*time.Minute), now.Add(720*time.Hour)
	return s
}

// refusal is a server whose every answer to a refresh is the same.
type refusal struct {
	before *walletauth.Session
	store  walletauth.MemoryStore
	status int
	header http.Header
	body   string
	said   string // the body with the echo in it
	seen   witness

	tradedIn *walletauth.Session // what is stored since
}

func newRefusal(t *testing.T, before *walletauth.Session, status int, retryAfter, date, body string) *refusal {
	r := &refusal{before: before, status: status, body: body, header: http.Header{"Retry-After": {retryAfter}, "Date": {date}}}
	if err := walletauth.Save(t.Context(), &r.store, "", before); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *refusal) RoundTrip(req *http.Request) (*http.Response, error) {
	if !strings.HasSuffix(req.URL.Path, "/users/refresh-token") {
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody}, nil
	}
	sent, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	echo, _ := json.Marshal(string(sent)) // of a string it cannot fail
	r.said = strings.ReplaceAll(r.body, "ECHO", string(echo[1:len(echo)-1]))
	return &http.Response{StatusCode: r.status, Header: r.header.Clone(), Body: io.NopCloser(strings.NewReader(r.said))}, nil
}

func (r *refusal) check(t *testing.T) {
	tr := &walletauth.Transport{Store: &r.store, Base: r, OnEvent: func(_ context.Context, e walletauth.Event) {
		r.seen.print(e)
		r.seen.print(e.Err)
	}}
	r.checkRequest(t, tr)
	time.Sleep(time.Hour) // of the bubble: what the first left behind is over, but for a clock that was set
	r.checkRequest(t, tr)
	wantNoTokens(t, "an error or event", r.seen.text.String(), r.before, asSent(r.before))
	if err := tr.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

func (r *refusal) checkRequest(t *testing.T, tr *walletauth.Transport) {
	began := time.Now()
	resp, err := tr.RoundTrip(mustRequest(t, http.MethodGet, "/wallets"))
	if took := time.Since(began); took > 31*time.Second {
		t.Errorf("the caller waited for %v", took)
	}
	for e := err; e != nil; e = errors.Unwrap(e) {
		r.seen.print(e)
	}
	if (resp == nil) == (err == nil) {
		t.Errorf("response %v, error %v", resp, err)
	}
	r.checkEnd(t, err)
	r.checkStore(t, err)
}

// asSent is s with its tokens as they stand in the request's JSON.
func asSent(s *walletauth.Session) *walletauth.Session {
	sent, _ := json.Marshal(s.RefreshToken)
	return &walletauth.Session{AccessToken: s.AccessToken, RefreshToken: string(sent[1 : len(sent)-1])}
}

// checkEnd fails if the session ended by another word than WalletKit's, or a
// refusal is not described as it should be.
func (r *refusal) checkEnd(t *testing.T, err error) {
	if errors.Is(err, walletauth.ErrSessionExpired) && !r.isWalletKits() {
		t.Errorf("status %d and %q ended the session: %v", r.status, r.said, err)
	}
	var refused *walletauth.RefreshError
	if err != nil && !errors.As(err, &refused) {
		t.Fatalf("%v is no RefreshError", err)
	}
	if err != nil && (len(refused.Code) > 200 || len(refused.Message) > 200 || refused.RetryAfter < 0) {
		t.Errorf("too much is kept: %#v", refused)
	}
}

func (r *refusal) isWalletKits() bool {
	var reply map[string]any
	if json.Unmarshal([]byte(r.said), &reply) != nil || r.status != 400 && r.status != 401 && r.status != 403 {
		return false
	}
	for name, value := range reply {
		if _, ok := value.(string); ok && name == "error" {
			return true
		}
	}
	return false
}

// checkStore fails unless the session is as it was, or was traded in for a
// whole one with status 200.
func (r *refusal) checkStore(t *testing.T, err error) {
	stored, loadErr := r.store.Load(t.Context(), "")
	if loadErr != nil {
		t.Fatal(loadErr)
	}
	switch {
	case *stored == *r.before:
	case err != nil && r.tradedIn == nil:
		t.Errorf("a refresh that failed (%v) made %v", err, stored)
	case r.status != 200 || stored.UserID != r.before.UserID || stored.ProjectID != r.before.ProjectID:
		t.Errorf("status %d made %v", r.status, stored)
	default:
		r.tradedIn = stored
		encoded(t, stored)
	}
}
