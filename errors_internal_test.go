package walletauth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"time"
)

func secrets() *Session {
	return &Session{AccessToken: "acc/5ecret?=&+", RefreshToken: "ref\n5ecret\"\x01"}
}

func TestScrubRemovesATokenInAnySpelling(t *testing.T) {
	s := secrets()
	for _, token := range []string{s.AccessToken, s.RefreshToken} {
		for name, text := range map[string]string{
			"as it is":     "tried " + token + " twice: " + token,
			"quoted":       fmt.Sprintf("tried %q", token),
			"in a query":   "tried ?token=" + url.QueryEscape(token),
			"in a path":    "tried /" + url.PathEscape(token),
			"in a request": "tried " + asJSON(token),
			"repeated":     fmt.Sprintf("tried %q", asJSON(token)),
			"in an error":  (&url.Error{Op: "Get", URL: url.PathEscape(token), Err: io.EOF}).Error(),
			"all but that": "tried " + token,
		} {
			got := scrub(errors.New(text), nil, &Session{}, s)
			if strings.Contains(got.Error(), "5ecret") || !strings.Contains(got.Error(), "[redacted]") {
				t.Errorf("%s: %q", name, got)
			}
		}
	}
}

func TestScrubTakesTheLongestFormAndNoneOfItsOwnText(t *testing.T) {
	s := &Session{AccessToken: "e", RefreshToken: "eee"}
	if got := scrubText("eee, then e", s); got != "[redacted], th[redacted]n [redacted]" {
		t.Errorf("got %q", got)
	}
}

func TestScrubLeavesACleanErrorAsItIs(t *testing.T) {
	if err := scrub(io.EOF, secrets()); err != io.EOF {
		t.Errorf("got %v", err)
	}
	if err := scrub(nil, secrets()); err != nil {
		t.Errorf("got %v", err)
	}
}

type tokenError struct{ token string }

func (e tokenError) Error() string { return "bad token " + e.token }

func TestAScrubbedErrorIsStillWhatItWas(t *testing.T) {
	s := secrets()
	err := fmt.Errorf("outer: %w", scrub(fmt.Errorf("%w: %w: %w", tokenError{s.AccessToken}, context.Canceled, ErrSessionExpired), s))
	if !errors.Is(err, context.Canceled) || !errors.Is(err, ErrSessionExpired) || errors.Is(err, io.EOF) {
		t.Errorf("errors.Is finds something else in %v", err)
	}
	var token tokenError
	if errors.As(err, &token) {
		t.Error("errors.As gets at the error that holds the token")
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%q", "%s"} {
		if text := fmt.Sprintf(verb, errors.Unwrap(err)); strings.Contains(text, "5ecret") {
			t.Errorf("%s prints %s", verb, text)
		}
	}
}

func TestAScrubbedRefreshErrorIsStillOne(t *testing.T) {
	s := secrets()
	err := presentable(&RefreshError{
		StatusCode: 403, Code: s.AccessToken, Message: strings.Repeat("x", 190) + s.AccessToken,
		RetryAfter: time.Second, Err: fmt.Errorf("%w: %s", ErrSessionExpired, s.RefreshToken),
	}, s)
	var refused *RefreshError
	if !errors.As(err, &refused) || refused.StatusCode != 403 || refused.RetryAfter != time.Second || !errors.Is(err, ErrSessionExpired) {
		t.Fatalf("got %#v", err)
	}
	if len(refused.Message) > maxMessage || strings.Contains(refused.Message, "acc/") {
		t.Errorf("the message was cut before it was scrubbed: %q", refused.Message)
	}
	if text := fmt.Sprintf("%v %+v %#v", refused, *refused, refused.Err); strings.Contains(text, "5ecret") {
		t.Errorf("a token is left: %s", text)
	}
}

func TestALongMessageIsCut(t *testing.T) {
	err := presentable(&RefreshError{Message: strings.Repeat("é", 5000), Code: strings.Repeat("c", 5000)})
	if refused := err.(*RefreshError); len(refused.Message) > maxMessage || len(refused.Code) > maxMessage || !strings.HasSuffix(refused.Message, "...") {
		t.Errorf("got %d and %d bytes", len(refused.Message), len(refused.Code))
	}
}

func TestAMessageThatIsLongEnoughIsWhole(t *testing.T) {
	whole := strings.Repeat("m", maxMessage)
	if refused := presentable(&RefreshError{Message: whole}).(*RefreshError); refused.Message != whole {
		t.Errorf("got %q", refused.Message)
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

func TestGuardedTurnsPanicAndGoexitIntoErrors(t *testing.T) {
	for _, row := range []struct {
		promise string
		fn      func() error
		want    string
	}{
		{"a panic", func() error { panic("boom") }, "Hook panicked: boom (in github.com/walletauth/walletauth.TestGuarded"},
		{"a nil dereference", func() error { return errors.New((*Session)(nil).ID) }, "Hook panicked: runtime error: invalid memory address"},
		{"a panic with a session prints none of it", func() error { panic(*secrets()) }, "[redacted]"},
		{"runtime.Goexit", func() error { runtime.Goexit(); return nil }, "Hook ended its goroutine"},
	} {
		t.Run(row.promise, func(t *testing.T) {
			err := guarded("Hook", row.fn)
			if err == nil || !strings.Contains(err.Error(), row.want) || !crashed(err) {
				t.Errorf("got %v, want %q", err, row.want)
			}
		})
	}
	if err := guarded("Hook", func() error { return io.EOF }); err != io.EOF || crashed(err) {
		t.Errorf("an error came out as %v", err)
	}
	if err := guarded("Hook", func() error { return nil }); err != nil {
		t.Errorf("success came out as %v", err)
	}
}

func FuzzRetryAfter(f *testing.F) {
	f.Add("120")
	f.Add("Sun, 01 Mar 2026 13:00:00 GMT")
	f.Add("-1")
	f.Add("99999999999999999999")
	f.Add(" 7 ")
	f.Fuzz(func(t *testing.T, value string) {
		got := retryAfter(http.Header{"Retry-After": {value}}, noon)
		if got < 0 {
			t.Fatalf("Retry-After %q is %v, which lies behind", value, got)
		}
		if delay := retryDelay(1, &RefreshError{RetryAfter: got}); delay < got {
			t.Fatalf("Retry-After %q is not obeyed: %v", value, delay)
		}
	})
}

func FuzzRefreshReply(f *testing.F) {
	f.Add(200, "application/json", `{"id":"s","created_at":"2026-03-01T12:00:00Z","project_id":"p","user_id":"u","access_token":"a","access_token_expires_at":"2026-03-01T12:05:00Z","refresh_token":"r","refresh_token_expires_at":"2026-04-01T12:05:00Z"}`)
	f.Add(401, "application/json", `{"code":null,"error":"invalid refresh token"}`)
	f.Add(403, "text/html", `<html>forbidden</html>`)
	f.Add(503, "", "")
	f.Add(307, "", "")
	f.Fuzz(func(t *testing.T, status int, kind, body string) {
		r := httpRefresher{clock: &serverClock{clock: fixedClock{}}}
		resp := &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {kind}}, Body: io.NopCloser(strings.NewReader(body))}
		s, err := r.read(resp)
		if err == nil {
			if status != http.StatusOK || s.check() != nil {
				t.Fatalf("status %d and %q made a session", status, body)
			}
			return
		}
		var refused *RefreshError
		if s != nil || !errors.As(err, &refused) {
			t.Fatalf("a failure is %v and %T, not a RefreshError", s, err)
		}
		over := errors.Is(err, ErrSessionExpired)
		if _, _, ours := parseErrorResponse([]byte(body)); over && (!ours || status != 400 && status != 401 && status != 403) {
			t.Fatalf("status %d and %q ended the session", status, body)
		}
		if over && transient(err) {
			t.Fatal("an end that is tried again")
		}
	})
}

type fixedClock struct{}

func (fixedClock) Now() time.Time                       { return noon }
func (fixedClock) After(time.Duration) <-chan time.Time { return nil }
