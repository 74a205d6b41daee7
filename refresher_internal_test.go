package walletauth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/walletauth/walletauth/internal/api"
	"github.com/walletauth/walletauth/internal/serverclock"
)

func secrets() *Session {
	return &Session{AccessToken: "acc/5ecret?=&+", RefreshToken: "ref\n5ecret\"\x01"}
}

func TestARedactedRefreshErrorIsStillOne(t *testing.T) {
	s := secrets()
	err := redactError(&RefreshError{
		StatusCode: 403, Code: s.AccessToken, Message: strings.Repeat("x", 190) + s.AccessToken,
		RetryAfter: time.Second, Err: fmt.Errorf("%w: %s", ErrSessionExpired, s.RefreshToken),
	}, nil, &Session{}, s)
	var refused *RefreshError
	if !errors.As(err, &refused) || refused.StatusCode != 403 || refused.RetryAfter != time.Second || !errors.Is(err, ErrSessionExpired) {
		t.Fatalf("got %#v", err)
	}
	if len(refused.Message) > maxMessage || strings.Contains(refused.Message, "acc/") {
		t.Errorf("the message was cut before it was redacted: %q", refused.Message)
	}
	if text := fmt.Sprintf("%v %+v %#v", refused, *refused, refused.Err); strings.Contains(text, "5ecret") {
		t.Errorf("a token is left: %s", text)
	}
}

func TestRedactErrorLeavesTheOriginalAlone(t *testing.T) {
	s := secrets()
	original := &RefreshError{Message: s.AccessToken}
	_ = redactError(original, s)
	if original.Message != s.AccessToken {
		t.Error("the error of somebody else was changed")
	}
	if redactError(nil, s) != nil || redactError(io.EOF, s) != io.EOF {
		t.Error("a clean error was replaced")
	}
}

func TestALongMessageIsCut(t *testing.T) {
	err := redactError(&RefreshError{Message: strings.Repeat("é", 5000), Code: strings.Repeat("c", 5000)})
	if refused := err.(*RefreshError); len(refused.Message) > maxMessage || len(refused.Code) != maxMessage || !strings.HasSuffix(refused.Message, "é...") {
		t.Errorf("got %d and %d bytes", len(refused.Message), len(refused.Code))
	}
	whole := strings.Repeat("m", maxMessage)
	if refused := redactError(&RefreshError{Message: whole}).(*RefreshError); refused.Message != whole {
		t.Errorf("what is long enough became %q", refused.Message)
	}
}

func TestRefreshErrorSaysWhatIsKnown(t *testing.T) {
	for _, row := range []struct {
		err  RefreshError
		want string
	}{
		{RefreshError{}, "walletauth: refresh failed"},
		{RefreshError{Err: io.EOF}, "walletauth: refresh failed: EOF"},
		{RefreshError{StatusCode: 599}, "walletauth: refresh failed: status 599"},
		{
			RefreshError{StatusCode: 401, Code: "invalid", Message: "no such token", Err: ErrSessionExpired},
			`walletauth: refresh failed: status 401 Unauthorized: code "invalid": "no such token": the session is over: log in again`,
		},
		{RefreshError{StatusCode: 429, RetryAfter: 3 * time.Second}, "walletauth: refresh failed: status 429 Too Many Requests: retry after 3s"},
	} {
		if got := row.err.Error(); got != row.want {
			t.Errorf("got  %s\nwant %s", got, row.want)
		}
	}
}

func TestStoreErrorWrapsWhatIsTheStores(t *testing.T) {
	alive := t.Context()
	left, leave := context.WithCancel(alive)
	leave()
	full, none, already := errors.New("full"), fmt.Errorf("%w: wrapped", ErrNoSession), &StoreError{Op: "exclusion", Err: io.EOF}
	for name, row := range map[string]struct {
		ctx  context.Context
		err  error
		want string // "" if the error comes as it is
		is   error
	}{
		"the store's own":                {alive, full, "walletauth: session store: load: full", full},
		"not that there is none":         {alive, none, "", none},
		"not twice":                      {alive, already, "", already},
		"not the end of the caller":      {left, fmt.Errorf("gave up: %w", context.Canceled), "gave up: context canceled", context.Canceled},
		"the store's own end":            {alive, context.Canceled, "walletauth: session store: load: context canceled", context.Canceled},
		"what failed as the caller left": {left, full, "walletauth: session store: load: full", full},
	} {
		t.Run(name, func(t *testing.T) {
			got := storeError(row.ctx, "load", row.err)
			if !errors.Is(got, row.is) || row.want == "" && got != row.err || row.want != "" && got.Error() != row.want {
				t.Errorf("got %v, want %s", got, row.want)
			}
		})
	}
	if err := storeError(alive, "load", nil); err != nil {
		t.Errorf("success is %v", err)
	}
}

func TestTransientFailures(t *testing.T) {
	dial, read := &net.OpError{Op: "dial", Err: io.EOF}, &net.OpError{Op: "read", Err: errors.New("reset")}
	for name, row := range map[string]struct {
		err              error
		transient, never bool
	}{
		"no reply":               {&RefreshError{Err: io.EOF}, true, false},
		"408":                    {&RefreshError{StatusCode: 408}, true, false},
		"429":                    {&RefreshError{StatusCode: 429}, true, false},
		"500":                    {&RefreshError{StatusCode: 500}, true, false},
		"599":                    {&RefreshError{StatusCode: 599}, true, false},
		"404":                    {&RefreshError{StatusCode: 404}, false, false},
		"a page with status 200": {&RefreshError{StatusCode: 200}, false, false},
		"a redirect":             {&RefreshError{StatusCode: 307}, false, false},
		"the end of a session":   {&RefreshError{Err: ErrSessionExpired}, false, false},
		"a connection refused":   {fmt.Errorf("post: %w", dial), true, true},
		"a connection reset":     {&RefreshError{Err: read}, true, false},
		"cut off":                {io.ErrUnexpectedEOF, true, false},
		"closed":                 {fmt.Errorf("post: %w", io.EOF), true, false},
		"anything else":          {errors.New("odd"), false, false},
	} {
		if got, never := transient(row.err), neverSent(row.err); got != row.transient || never != row.never {
			t.Errorf("%s: transient %t, never sent %t, want %t, %t", name, got, never, row.transient, row.never)
		}
	}
}

func TestWhatMayReplaceAStaleSession(t *testing.T) {
	stale := &Session{AccessToken: "a", AccessTokenExpiresAt: noon}
	later := &Session{AccessToken: "a", AccessTokenExpiresAt: noon.Add(time.Second)}
	another := &Session{AccessToken: "b", AccessTokenExpiresAt: noon}
	for name, c := range map[string]struct {
		s    *Session
		why  Reason
		want bool
	}{
		"another token, before the expiry":             {another, Expiring, true},
		"another token, after a 401":                   {another, Rejected, true},
		"a later expiry, before the expiry":            {later, Expiring, true},
		"a later expiry, after it":                     {later, Expired, true},
		"not a later expiry of a token that got a 401": {later, Rejected, false},
		"not the same":                                 {stale, Expired, false},
	} {
		if got := newer(c.s, stale, c.why); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func FuzzRefreshReply(f *testing.F) {
	f.Add(200, "application/json", `{"id":"s","created_at":"2026-03-01T12:00:00Z","project_id":"p","user_id":"u","access_token":"a","access_token_expires_at":"2026-03-01T12:05:00Z","refresh_token":"r","refresh_token_expires_at":"2026-04-01T12:05:00Z"}`)
	f.Add(200, "application/json", `{"access_token":"a"}`)
	f.Add(401, "application/json", `{"code":null,"error":"invalid refresh token"}`)
	f.Add(401, "application/problem+json; charset=utf-8", `{"error":"invalid refresh token"}`)
	f.Add(401, "application/json", `{"Error":"somebody else's"}`)
	f.Add(403, "text/html", `<html>forbidden</html>`)
	f.Add(503, "", "")
	f.Add(307, "", "")
	f.Fuzz(func(t *testing.T, status int, kind, body string) {
		r := httpRefresher{server: &serverclock.Clock{Local: &testClock{noon}}}
		header := http.Header{"Content-Type": {kind}}
		s, err := r.read(&http.Response{StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader(body))})
		if err == nil {
			if status != http.StatusOK || s == nil {
				t.Fatalf("status %d and %q made %v", status, body, s)
			}
			old := sessionOf("user", 1)
			if next, err := (*api.Session)(old).Renew((*api.Session)(s), noon); err == nil && (next.UserID != old.UserID || next.ProjectID != old.ProjectID || next.Check() != nil) {
				t.Fatalf("%q made %v of %v", body, next, old)
			}
			return
		}
		var refused *RefreshError
		if s != nil || !errors.As(err, &refused) {
			t.Fatalf("a failure is %v and %T, not a RefreshError", s, err)
		}
		over := errors.Is(err, ErrSessionExpired)
		if _, _, ours := api.ErrorResponse(header, []byte(body)); over != (ours && (status == 400 || status == 401 || status == 403)) {
			t.Fatalf("status %d, %q and %q ended the session: %t", status, kind, body, over)
		}
		if over && transient(err) {
			t.Fatal("an end that is tried again")
		}
	})
}
