package walletauth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/walletauth/walletauth/internal/redact"
	"github.com/walletauth/walletauth/internal/throttle"
)

var (
	// ErrNoSession means that the store holds no session for the key: log in. Use errors.Is.
	ErrNoSession = errors.New("walletauth: no session for this key: log in")

	// ErrSessionExpired means that the session is over: log in again. Use errors.Is.
	ErrSessionExpired = errors.New("walletauth: the session is over: log in again")

	// ErrUnreadable means that what is stored for the key cannot be read: its sealing key is
	// missing, it is damaged, or another program wrote it. Save and Delete still work.
	ErrUnreadable = errors.New("walletauth: the stored session cannot be read")
)

// StoreError is a failure of the [TokenStore]. Find it by [errors.As], as a
// *StoreError. [ErrNoSession] and the errors of the caller's context are not
// wrapped in one.
type StoreError struct {
	// Op is "load"; "exclusion", the lock for a refresh, so none was sent; or "update", storing.
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

// RefreshError is a refresh that brought no session. Find it by [errors.As],
// as a *RefreshError. If errors.Is(err, [ErrSessionExpired]), the session is
// over; otherwise it is kept, and trying later may help.
type RefreshError struct {
	// StatusCode is the HTTP status of the reply, 0 if there was none.
	StatusCode int
	// Code and Message are "code" and "error" of WalletKit's ErrorResponse, if the reply was
	// one. Each is cut after 200 bytes, and a token in it is replaced by [redacted].
	Code, Message string
	// RetryAfter is how long the server asked to wait, else 0 (RFC 9110, section 10.2.3).
	RetryAfter time.Duration
	// Err is the cause, if any: of the network, in the reply, or ErrSessionExpired.
	Err error
}

// Error holds nothing of the reply but Code and Message.
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

var (
	errShutdown     = errors.New("walletauth: the Transport was shut down")
	errNilSession   = fmt.Errorf("walletauth: TokenStore.Load returned nil and no error: %w", ErrNoSession)
	errLockLost     = errors.New("walletauth: refresh not started: the store's exclusion was lost before it was sent")
	errEndpointDown = errors.New("not sent, because the refreshes of other sessions failed")
	errOtherUser    = errors.New("walletauth: another user logged in while the request waited: it was not sent")
	errRejected     = errors.New("walletauth: not refreshed: new tokens were refused as well, " +
		"so the fault is probably not the token's; a refresh is possible again within 5 minutes")
)

// redactError returns err without the tokens of the sessions. Every error that
// somebody else's code made passes here before it leaves the package: a server
// may echo a token back, and a store may print what it failed to write. The texts
// of a RefreshError are cut afterwards, as half a token would not be found.
func redactError(err error, sessions ...*Session) error {
	if err == nil {
		return nil
	}
	tokens := make([]string, 0, 2*len(sessions))
	for _, s := range sessions {
		if s != nil {
			tokens = append(tokens, s.AccessToken, s.RefreshToken)
		}
	}
	if refused, ok := err.(*RefreshError); ok { // stays one, for errors.As
		c := *refused
		c.Code, c.Message = truncate(redact.Text(c.Code, tokens...)), truncate(redact.Text(c.Message, tokens...))
		c.Err = redactError(c.Err, sessions...)
		return &c
	}
	return redact.Error(err, tokens...)
}

const maxMessage = 200

func truncate(s string) string {
	if len(s) <= maxMessage {
		return s
	}
	return strings.ToValidUTF8(s[:maxMessage-3], "") + "..."
}

// wrapError puts prefix before the text of err, which it wraps. It leaves out the
// package's name of an error of this package, which prefix has already.
func wrapError(prefix string, err error) error {
	return &wrappedError{prefix + strings.TrimPrefix(err.Error(), "walletauth: "), err}
}

type wrappedError struct {
	text string
	err  error
}

func (e *wrappedError) Error() string { return e.text }

func (e *wrappedError) Unwrap() error { return e.err }

// storeError returns what a store's error is to its caller: [ErrNoSession] and
// the errors of ctx as they are, everything else as a [StoreError].
func storeError(ctx context.Context, op string, err error) error {
	var already *StoreError
	switch {
	case err == nil, errors.Is(err, ErrNoSession), errors.As(err, &already),
		ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return err
	default:
		return &StoreError{Op: op, Err: err}
	}
}

func transientStatus(status int) bool {
	return status == 0 || status == http.StatusRequestTimeout || status == http.StatusTooManyRequests || status >= 500
}

// neverSent reports whether err shows that no connection was to be had, so that
// the server cannot have acted.
func neverSent(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// transient reports whether trying again at once may help.
func transient(err error) bool {
	var refused *RefreshError
	if errors.As(err, &refused) {
		return transientStatus(refused.StatusCode) && !errors.Is(err, ErrSessionExpired)
	}
	var network net.Error
	return errors.As(err, &network) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// sharedError is what other sessions may know of err: they belong to other users,
// so nothing that the server said to this one.
func sharedError(err error) error {
	shared := &RefreshError{Err: errEndpointDown}
	var refused *RefreshError
	if errors.As(err, &refused) {
		shared.StatusCode, shared.RetryAfter = refused.StatusCode, refused.RetryAfter
	}
	var network *net.OpError
	switch {
	case errors.As(err, &network):
		shared.Err = fmt.Errorf("%w: %w", errEndpointDown, network)
	case errors.Is(err, context.DeadlineExceeded):
		shared.Err = fmt.Errorf("%w: %w", errEndpointDown, context.DeadlineExceeded)
	}
	return shared
}

// heldBackError is err, why a refresh was not sent, as a RefreshError.
func heldBackError(err error) error {
	if errors.Is(err, throttle.ErrUnanswered) {
		return &RefreshError{Err: fmt.Errorf("%w: %w", errEndpointDown, err)}
	}
	return err
}

func retryAfterOf(err error) time.Duration {
	var refused *RefreshError
	if errors.As(err, &refused) {
		return refused.RetryAfter
	}
	return 0
}
