package walletauth_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

const (
	ours     = `{"code":null,"error":"no"}` // WalletKit's ErrorResponse
	wallHTML = "<html><h1>Blocked by policy</h1></html>"
)

// What a refresh may be answered, and what is made of it while the access
// token has expired.
var answers = map[string]struct {
	fault   walletauthtest.Fault
	retried bool // at once
	over    bool
	says    string // the error, if it is not retried
}{
	"400 of WalletKit":             {fault: errorReply(400, "application/json", ours), over: true, says: "log in again"},
	"401 of WalletKit":             {fault: errorReply(401, "application/json", ours), over: true, says: "log in again"},
	"403 of WalletKit":             {fault: errorReply(403, "application/json", `{"code":"E7","error":"no"}`), over: true, says: `code "E7": "no"`},
	"400 in HTML":                  {fault: walletauthtest.Fault{Status: 400, Body: wallHTML}, says: "firewall or proxy"},
	"401 in HTML":                  {fault: walletauthtest.Fault{Status: 401, Body: wallHTML}, says: "firewall or proxy"},
	"a firewall's 403":             {fault: walletauthtest.Fault{Status: 403, Body: wallHTML}, says: "status 403 Forbidden: the reply is not WalletKit's"},
	"401 with another's JSON":      {fault: walletauthtest.Fault{Status: 401, Body: `{"message":"unauthorized"}`}, says: "firewall or proxy"},
	"403 with an error object":     {fault: walletauthtest.Fault{Status: 403, Body: `{"error":{"code":403}}`}, says: "firewall or proxy"},
	"401 without a body":           {fault: walletauthtest.Fault{Status: 401}, says: "firewall or proxy"},
	"401 with a null error":        {fault: walletauthtest.Fault{Status: 401, Body: `{"code":null,"error":null}`}, says: "firewall or proxy"},
	"404":                          {fault: walletauthtest.Fault{Status: 404, Body: ours}, says: "check BaseURL"},
	"204":                          {fault: walletauthtest.Fault{Status: 204}, says: "check BaseURL"},
	"422":                          {fault: walletauthtest.Fault{Status: 422, Body: ours}, says: "status 422"},
	"300":                          {fault: walletauthtest.Fault{Status: 300}, says: "no redirect"},
	"302":                          {fault: walletauthtest.Fault{Status: 302, Header: http.Header{"Location": {"https://elsewhere.test/"}}}, says: "no redirect"},
	"307 to another host":          {fault: walletauthtest.Fault{Status: 307, Header: http.Header{"Location": {"https://elsewhere.test/"}}}, says: "no redirect"},
	"308 to the same host":         {fault: walletauthtest.Fault{Status: 308, Header: http.Header{"Location": {"/users/refresh-token"}}}, says: "no redirect"},
	"408":                          {fault: walletauthtest.Fault{Status: 408, Body: wallHTML}, retried: true},
	"429":                          {fault: walletauthtest.Fault{Status: 429, Body: ours}, retried: true},
	"500 of WalletKit":             {fault: walletauthtest.Fault{Status: 500, Body: ours}, retried: true},
	"502":                          {fault: walletauthtest.Fault{Status: 502, Body: wallHTML}, retried: true},
	"503":                          {fault: walletauthtest.Fault{Status: 503}, retried: true},
	"504":                          {fault: walletauthtest.Fault{Status: 504}, retried: true},
	"a dropped connection":         {fault: walletauthtest.Fault{Drop: true}, retried: true},
	"a reply that breaks off":      {fault: walletauthtest.Fault{Header: http.Header{"Content-Length": {"1000"}}, Body: `{"id":`}, retried: true},
	"200 in HTML":                  {fault: walletauthtest.Fault{Status: 200, Body: wallHTML}, says: "not valid JSON"},
	"200 without a body":           {fault: walletauthtest.Fault{Status: 200}, says: "not valid JSON"},
	"200 with half a session":      {fault: walletauthtest.Fault{Body: `{"id":"`}, says: "not valid JSON"},
	"200 with an empty object":     {fault: walletauthtest.Fault{Body: `{}`}, says: "lacks access_token"},
	"200 with 20 MiB":              {fault: walletauthtest.Fault{Body: strings.Repeat("x", 20<<20)}, says: "larger than 1 MiB"},
	"200 with no access token":     {fault: replyWith(func(s *walletauth.Session) { s.AccessToken = "" }), says: "lacks access_token"},
	"200 for another user":         {fault: replyWith(func(s *walletauth.Session) { s.UserID = "mallory" }), says: "another user's"},
	"200 for another project":      {fault: replyWith(func(s *walletauth.Session) { s.ProjectID = "else" }), says: "another project's"},
	"200 with a line break":        {fault: replyWith(func(s *walletauth.Session) { s.AccessToken = "a\r\nX-Evil: 1" }), says: "cannot be sent in a header"},
	"200 with a time that is none": {fault: walletauthtest.Fault{Body: `{"id":"i","created_at":"soon"}`}, says: "lacks access_token"},
}

func TestOnlyWhatWalletKitSaysEndsASession(t *testing.T) {
	for _, name := range slices.Sorted(maps.Keys(answers)) {
		c := answers[name]
		inBubble(t, name, func(t *testing.T) {
			k := newKept(t)
			k.at(5 * time.Minute)
			k.srv.FailRefresh(1, c.fault)
			if c.retried {
				if _, err := k.get(t.Context()); err != nil {
					t.Fatal(err)
				}
				k.sent(2)
				k.isLatest(k.stored())
				return
			}

			_, err := k.get(t.Context())
			var refused *walletauth.RefreshError
			if !errors.As(err, &refused) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want a RefreshError that says %q", err, c.says)
			}
			if want := max(c.fault.Status, 200); refused.StatusCode != want {
				t.Errorf("StatusCode is %d, want %d", refused.StatusCode, want)
			}
			if errors.Is(err, walletauth.ErrSessionExpired) != c.over {
				t.Errorf("%v: over is %t, want %t", err, !c.over, c.over)
			}
			k.sent(1)
			if *k.stored() != *k.first {
				t.Error("the stored session was changed")
			}
			if c.over {
				return
			}
			if again := k.fails(0); again != err {
				t.Errorf("the next request failed with %v, want the same error", again)
			}
			time.Sleep(1200 * time.Millisecond) // a second, and a fifth of jitter
			k.works(0)
			k.sent(2)
		})
	}
}

func TestARefreshFollowsNoRedirect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKept(t)
		base := k.Base
		k.Base = roundTripFunc(func(r *http.Request) (*http.Response, error) {
			if r.URL.Host != "walletkit.test" {
				t.Errorf("a request to %s", r.URL)
			}
			return base.RoundTrip(r)
		})
		k.srv.FailRefresh(-1, walletauthtest.Fault{Status: 307, Header: http.Header{"Location": {"https://elsewhere.test/"}}})
		k.at(5 * time.Minute)
		client := &http.Client{Transport: k.Transport}
		if resp, err := client.Get(k.BaseURL + "/wallets"); err == nil {
			t.Errorf("status %d", resp.StatusCode)
		}
		k.sent(1)
	})
}

func TestAConnectionThatIsRefusedIsRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKept(t)
		base, refused := k.Base, 0
		k.Base = roundTripFunc(func(r *http.Request) (*http.Response, error) {
			if refused < 3 {
				refused++
				return nil, errors.New("connect: connection refused")
			}
			return base.RoundTrip(r)
		})
		k.at(5 * time.Minute)
		if _, err := k.get(t.Context()); err != nil {
			t.Error(err)
		}
		k.sent(1)
	})
}

// The server has rotated and its answer is lost: sending the used token again
// is all that can be done, and a server that takes it for theft ends the
// session.
func TestAnAnswerThatIsLostIsAskedForAgain(t *testing.T) {
	inBubble(t, "and the same refresh token may still do", func(t *testing.T) {
		k := newKeptBy(t, walletauthtest.Config{TB: t, KeepRefreshToken: true})
		k.srv.FailRefresh(1, walletauthtest.Fault{Drop: true, After: true})
		k.at(5 * time.Minute)
		if _, err := k.get(t.Context()); err != nil {
			t.Error(err)
		}
		k.sent(2)
	})
	inBubble(t, "or is a reuse that ends the session", func(t *testing.T) {
		k := newKeptBy(t, walletauthtest.Config{})
		k.srv.FailRefresh(1, walletauthtest.Fault{Drop: true, After: true})
		k.at(5 * time.Minute)
		if _, err := k.get(t.Context()); !errors.Is(err, walletauth.ErrSessionExpired) {
			t.Errorf("%v, want ErrSessionExpired", err)
		}
		k.sent(2)
		if n := k.srv.Stats().Reuses; n != 1 {
			t.Errorf("%d reuses, want 1", n)
		}
	})
}

func TestRetriesBackOffExponentiallyWithJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKept(t)
		k.at(5 * time.Minute)
		var at []time.Time
		k.srv.FailRefresh(-1, walletauthtest.Fault{Status: 503, Do: func(*http.Request) { at = append(at, time.Now()) }})
		_ = k.fails(5 * time.Second)
		time.Sleep(25*time.Second - 1) // it goes on behind
		k.srv.ClearFaults()
		k.stop()
		for i := 1; i < len(at); i++ {
			if pause := at[i].Sub(at[i-1]); pause > 4800*time.Millisecond {
				t.Errorf("pause %d was %s, want 4 s and a fifth at most", i, pause)
			}
		}
		if first := at[1].Sub(at[0]); first > 300*time.Millisecond {
			t.Errorf("the first pause was %s, want 250 ms and a fifth at most", first)
		}
		if len(at) < 8 || len(at) > 20 {
			t.Errorf("%d attempts in 30 seconds", len(at))
		}
	})
}

func TestRetryAfterIsObeyed(t *testing.T) {
	for name, value := range map[string]func() string{
		"seconds": func() string { return "3" },
		"a date":  func() string { return time.Now().Add(3 * time.Second).UTC().Format(http.TimeFormat) },
	} {
		inBubble(t, name, func(t *testing.T) {
			k := newKept(t)
			k.at(5 * time.Minute)
			k.srv.FailRefresh(1, walletauthtest.Fault{Status: 429, Header: http.Header{"Retry-After": {value()}}})
			took, err := k.get(t.Context())
			if err != nil || took < 3*time.Second || took > 3600*time.Millisecond { // a fifth of jitter
				t.Errorf("after %s: %v", took, err)
			}
			k.sent(2)
		})
	}
	inBubble(t, "a date by a server whose clock differs", func(t *testing.T) {
		k := newKept(t, func(k *kept) { k.srv.SetClockOffset(-time.Hour) })
		k.at(5 * time.Minute)
		date := time.Now().Add(3*time.Second - time.Hour).UTC().Format(http.TimeFormat)
		k.srv.FailRefresh(1, walletauthtest.Fault{Status: 429, Header: http.Header{"Retry-After": {date}}})
		took, err := k.get(t.Context())
		if err != nil || took < 2*time.Second || took > 3600*time.Millisecond { // Date is known to the second
			t.Errorf("after %s: %v", took, err)
		}
		k.sent(2)
	})
}

func TestARetryAfterThatExceedsTheTimeLeftGivesUpAtOnce(t *testing.T) {
	for _, c := range []struct {
		name, value string
		pause       time.Duration
	}{
		{"just too long", "30", 30 * time.Second},
		{"two minutes", "120", 2 * time.Minute},
		{"a day counts as an hour", "86400", time.Hour},
	} {
		inBubble(t, c.name, func(t *testing.T) {
			k := newKept(t)
			k.at(5 * time.Minute)
			k.srv.FailRefresh(1, walletauthtest.Fault{Status: 429, Header: http.Header{"Retry-After": {c.value}}})
			err := k.fails(0)
			if want := "retry after"; !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %q in it", err, want)
			}
			time.Sleep(c.pause - time.Millisecond)
			if again := k.fails(0); again != err {
				t.Errorf("%v, want the same error", again)
			}
			k.sent(1)
			time.Sleep(c.pause/5 + 2*time.Millisecond) // of jitter
			k.works(0)
			k.sent(2)
		})
	}
}

func TestARefreshSendsWhatTheAPIAsksForAndNoMore(t *testing.T) {
	for name, c := range map[string]struct{ project, want string }{
		"the session's project":   {"", "project"},
		"the Transport's project": {"another", "another"},
	} {
		inBubble(t, name, func(t *testing.T) {
			k := newKeptBy(t, walletauthtest.Config{}, func(k *kept) { k.ProjectID = c.project })
			var got *http.Request
			var body string
			k.Base = roundTripFunc(func(r *http.Request) (*http.Response, error) {
				data, err := io.ReadAll(r.Body)
				if err != nil {
					t.Error(err)
				}
				got, body = r, string(data)
				return nil, errors.New("enough")
			})
			k.RefreshTimeout = time.Millisecond
			k.at(5 * time.Minute)
			_ = k.fails(0)

			want := http.Header{
				"Accept": {"application/json"}, "Content-Type": {"application/json"}, "X-Walletkit-Project-Id": {c.want},
			}
			if fmt.Sprint(got.Header) != fmt.Sprint(want) {
				t.Errorf("header %v, want %v", got.Header, want)
			}
			if got.Method != "POST" || got.URL.String() != k.BaseURL+"/users/refresh-token" || got.ContentLength != int64(len(body)) {
				t.Errorf("%s %s of %d bytes", got.Method, got.URL, got.ContentLength)
			}
			if want := fmt.Sprintf(`{"session_id":%q,"refresh_token":%q}`, k.first.ID, k.first.RefreshToken); body != want {
				t.Error("the body is not session_id and refresh_token")
			}
		})
	}
}

// Whatever a Refresher of one's own gives back is checked like the API's.
func TestAReplyOfOneMiBIsRead(t *testing.T) {
	inBubble(t, "with a session in it", func(t *testing.T) {
		k := newKept(t)
		fault := replyWith(func(s *walletauth.Session) { s.UserID = k.first.UserID })
		fault.Body += strings.Repeat(" ", 1<<20-len(fault.Body))
		k.srv.FailRefresh(1, fault)
		k.srv.Fail(walletauthtest.ListWallets, 1, walletauthtest.Fault{Status: 200}) // which knows nothing of that session
		k.at(5 * time.Minute)
		k.works(0)
		if k.stored().AccessToken != "access-next" {
			t.Errorf("stored %v", k.stored())
		}
	})
}

func TestARefreshersAnswerIsChecked(t *testing.T) {
	for name, c := range map[string]struct {
		answer func(s walletauth.Session) (*walletauth.Session, error)
		over   bool
		says   string
	}{
		"nil and no error":    {func(walletauth.Session) (*walletauth.Session, error) { return nil, nil }, false, "the session is nil"},
		"another user":        {func(s walletauth.Session) (*walletauth.Session, error) { s.UserID = "mallory"; return &s, nil }, false, "another user's"},
		"an error of its own": {func(walletauth.Session) (*walletauth.Session, error) { return nil, errors.New("backend says no") }, false, "backend says no"},
		"ErrSessionExpired": {func(walletauth.Session) (*walletauth.Session, error) {
			return nil, fmt.Errorf("backend: %w", walletauth.ErrSessionExpired)
		}, true, "backend"},
		"a RefreshError": {func(walletauth.Session) (*walletauth.Session, error) {
			return nil, &walletauth.RefreshError{StatusCode: 418}
		}, false, "418"},
	} {
		inBubble(t, name, func(t *testing.T) {
			sent := 0
			k := newKept(t, func(k *kept) {
				k.Refresher = refreshFunc(func(_ context.Context, s *walletauth.Session) (*walletauth.Session, error) {
					sent++
					return c.answer(*s)
				})
			})
			k.at(5 * time.Minute)
			_, err := k.get(t.Context())
			if err == nil || !strings.Contains(err.Error(), c.says) || errors.Is(err, walletauth.ErrSessionExpired) != c.over {
				t.Errorf("%v, want %q, over: %t", err, c.says, c.over)
			}
			if again := k.fails(0); again.Error() != err.Error() {
				t.Errorf("the next request failed with %v, want the same error", again)
			}
			if sent != 1 {
				t.Errorf("%d refreshes, want 1", sent)
			}
			if *k.stored() != *k.first {
				t.Error("the stored session was changed")
			}
		})
	}
}

func TestARefresherOfOnesOwnIsRetriedLikeTheAPI(t *testing.T) {
	for name, err := range map[string]error{
		"no reply":   &walletauth.RefreshError{Err: errors.New("no reply")},
		"status 503": &walletauth.RefreshError{StatusCode: 503},
		"cut off":    fmt.Errorf("backend: %w", io.ErrUnexpectedEOF),
		"hung up":    fmt.Errorf("backend: %w", io.EOF),
		"no network": fmt.Errorf("backend: %w", &net.OpError{Op: "dial", Err: errors.New("unreachable")}),
	} {
		inBubble(t, name, func(t *testing.T) {
			sent := 0
			k := newKept(t, func(k *kept) {
				k.Refresher = refreshFunc(func(_ context.Context, s *walletauth.Session) (*walletauth.Session, error) {
					if sent++; sent < 4 {
						return nil, err
					}
					return k.srv.Login(s.UserID), nil
				})
			})
			k.at(5 * time.Minute)
			if _, err := k.get(t.Context()); err != nil || sent != 4 {
				t.Errorf("%d refreshes and %v, want 4", sent, err)
			}
		})
	}
}

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
	if err := tr.Shutdown(t.Context()); err != nil { // after which no event comes
		t.Error(err)
	}
	wantNoToken(t, "an error or event", r.seen.String(), r.before, asSent(r.before))
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
