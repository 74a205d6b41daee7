package walletauth

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

var (
	// ErrNoSession means that the store holds no session for the key: log in.
	// Errors of stores and of the Transport wrap it: use errors.Is.
	ErrNoSession = errors.New("walletauth: no session for this key: log in")

	// ErrSessionExpired means that the session is over and no refresh will
	// bring it back: log in again. Errors wrap it, most of them a
	// RefreshError that says why: use errors.Is.
	ErrSessionExpired = errors.New("walletauth: the session is over: log in again")

	// ErrUnreadable means that what is stored for the key cannot be read: the
	// key that sealed it is missing, it is damaged, or another program wrote it.
	// Errors of stores and codecs wrap it: use errors.Is. Save and Delete still
	// work.
	ErrUnreadable = errors.New("walletauth: the stored session cannot be read")
)

// StoreError is a failure of the [TokenStore]. Find it by [errors.As], as a
// *StoreError. [ErrNoSession], the errors of the caller's context and those of a
// refresh are not wrapped in one.
type StoreError struct {
	// Op is what failed: "load", reading the session; "exclusion", taking the
	// lock for a refresh, so none was sent; "update", storing a change.
	Op string
	// Err is the store's error, without tokens.
	Err error
}

// Error names the operation and the store's error.
func (e *StoreError) Error() string {
	return "walletauth: session store: " + e.Op + ": " + strings.TrimPrefix(e.Err.Error(), "walletauth: ")
}

// Unwrap returns Err.
func (e *StoreError) Unwrap() error { return e.Err }

// RefreshError is a refresh that did not yield a session. Find it by
// [errors.As], as a *RefreshError.
//
// errors.Is(err, [ErrSessionExpired]) tells that the session is over. Any
// other RefreshError may pass: the stored session is kept, and trying later
// may help.
//
// A [Refresher] of your own returns one to be understood: StatusCode 0, 408,
// 429 and 5xx are tried again, no sooner than RetryAfter, and
// ErrSessionExpired in Err ends the session.
type RefreshError struct {
	// StatusCode is the HTTP status of the reply, 0 if there was none.
	StatusCode int
	// Code and Message are the fields "code" and "error" of WalletKit's
	// ErrorResponse, empty if the reply was something else. Each is cut after
	// 200 bytes, and a token in it is replaced by [redacted].
	Code, Message string
	// RetryAfter is how long the server asked to be left alone, 0 if it did
	// not ask (RFC 9110, section 10.2.3).
	RetryAfter time.Duration
	// Err is the cause, if there is one: the network's error, what was wrong
	// with the reply, or ErrSessionExpired.
	Err error
}

// Error describes the failure, without any part of the reply but Code and
// Message.
func (e *RefreshError) Error() string {
	var b strings.Builder
	b.WriteString("walletauth: refresh failed")
	if e.StatusCode != 0 {
		fmt.Fprintf(&b, ": status %d", e.StatusCode)
		if text := http.StatusText(e.StatusCode); text != "" {
			b.WriteString(" " + text)
		}
	}
	if e.Code != "" {
		fmt.Fprintf(&b, ": code %q", e.Code)
	}
	if e.Message != "" {
		fmt.Fprintf(&b, ": %q", e.Message)
	}
	if e.RetryAfter > 0 {
		fmt.Fprintf(&b, ": retry after %s", e.RetryAfter)
	}
	if e.Err != nil {
		b.WriteString(": " + strings.TrimPrefix(e.Err.Error(), "walletauth: "))
	}
	return b.String()
}

// Unwrap returns Err, nil if there is none.
func (e *RefreshError) Unwrap() error { return e.Err }

// crash is a panic or Goexit in somebody else's code.
type crash struct{ text string }

func (c *crash) Error() string { return "walletauth: " + c.text }

func crashed(err error) bool {
	var c *crash
	return errors.As(err, &c)
}

// guarded runs fn, which is somebody else's code, and turns a panic or a
// runtime.Goexit in it into an error. It takes a goroutine, because a Goexit
// can be survived in no other way.
func guarded(name string, fn func() error) (err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer recovered(name, &err)
		err = &crash{name + " ended its goroutine (runtime.Goexit)"}
		err = fn()
	}()
	<-done
	return err
}

// recovered is to be deferred around somebody else's code: it turns a panic
// into an error that says where it came from.
func recovered(name string, err *error) {
	if p := recover(); p != nil {
		*err = &crash{fmt.Sprintf("%s panicked: %v%s", name, p, panicSite())}
	}
}

// panicSite is the line that panicked: a stack would be a screenful in every
// log line, and without any place the error helps nobody.
func panicSite() string {
	pc := make([]uintptr, 32)
	frames := runtime.CallersFrames(pc[:runtime.Callers(3, pc)])
	for {
		frame, more := frames.Next()
		if !strings.HasPrefix(frame.Function, "runtime.") {
			return fmt.Sprintf(" (in %s, line %d)", frame.Function, frame.Line)
		}
		if !more {
			return ""
		}
	}
}

// redacted stands for an error whose text held a token. It keeps what
// errors.Is finds and nothing else: the error itself would hand the token to
// the next errors.As or %#v.
type redacted struct {
	text string
	is   func(error) bool
}

func (e *redacted) Error() string { return e.text }

func (e *redacted) Is(target error) bool { return e.is(target) }

// scrub returns err, or a stand-in if its text holds a token of one of the
// sessions. Every error that somebody else's code made passes here before it
// leaves the package: a server may echo a token back, and a store may print
// what it failed to write.
func scrub(err error, sessions ...*Session) error {
	if err == nil {
		return nil
	}
	if refused, ok := err.(*RefreshError); ok { // stays one, for errors.As
		c := *refused
		c.Code, c.Message = scrubText(c.Code, sessions...), scrubText(c.Message, sessions...)
		c.Err = scrub(c.Err, sessions...)
		return &c
	}
	text := err.Error()
	clean := scrubText(text, sessions...)
	if clean == text {
		return err
	}
	return &redacted{text: clean, is: func(target error) bool { return errors.Is(err, target) }}
}

// scrubText replaces the sessions' tokens in text, also where they were
// escaped for a URL, quoted once or twice, as JSON in a log line is, or stand
// as in the request that a refresh sends, which a server may repeat. The
// longest form comes first, since a shorter one may be part of it.
func scrubText(text string, sessions ...*Session) string {
	var forms []string
	for _, s := range sessions {
		if s != nil {
			forms = append(forms, spellings(s.AccessToken)...)
			forms = append(forms, spellings(s.RefreshToken)...)
		}
	}
	slices.SortFunc(forms, func(a, b string) int { return len(b) - len(a) })
	pairs := make([]string, 0, 2*len(forms))
	for _, form := range forms {
		pairs = append(pairs, form, "[redacted]")
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

func spellings(token string) []string {
	if token == "" {
		return nil
	}
	sent := asJSON(token)
	return []string{token, quote(token), quote(quote(token)), sent, quote(sent), url.QueryEscape(token), url.PathEscape(token)}
}

// asJSON is s as package encoding/json writes it: unlike quote it escapes <, >
// and &.
func asJSON(s string) string {
	data, _ := json.Marshal(s) // of a string it cannot fail
	return string(data[1 : len(data)-1])
}

func quote(s string) string {
	s = strconv.Quote(s)
	return s[1 : len(s)-1]
}

// presentable is scrub for what may be a server's refusal, whose text is cut:
// after scrubbing, as half a token would not be found.
func presentable(err error, sessions ...*Session) error {
	err = scrub(err, sessions...)
	if refused, ok := err.(*RefreshError); ok { // scrub's own copy
		refused.Code, refused.Message = cut(refused.Code), cut(refused.Message)
	}
	return err
}

const maxMessage = 200

func cut(s string) string {
	if len(s) <= maxMessage {
		return s
	}
	return strings.ToValidUTF8(s[:maxMessage-3], "") + "..."
}
