package walletauth

import (
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"time"

	"github.com/walletauth/walletauth/internal/api"
)

// Session is WalletKit's reply to a login and to a refresh, and has its
// JSON. Lifetimes seen are 5 minutes for an access token and 30 days for a
// refresh token; nothing relies on either. A Session that a [TokenStore]
// returned is shared: copy it before you change it.
//
// Printing is safe: every verb of package fmt and every slog handler shows
// the fields that identify the session and neither token. Three exceptions
// never ask the type: [encoding/json], which stores rely on (and which
// [slog.JSONHandler] uses for a struct that contains a Session); a Session
// in an unexported field; and the verb %p of a Session that is not a
// pointer, which go vet rejects.
type Session struct {
	ID        string    `json:"id"`
	CreatedAt time.Time `json:"created_at"` // by the server's clock
	ProjectID string    `json:"project_id"` // the app, as WalletKit names it
	UserID    string    `json:"user_id"`    // who is logged in; no refresh changes it

	// The access token is sent as a bearer. It expires by the server's clock.
	AccessToken          string    `json:"access_token"`
	AccessTokenExpiresAt time.Time `json:"access_token_expires_at"`

	// The refresh token is sent for the next session, and is taken to work once.
	RefreshToken          string    `json:"refresh_token"`
	RefreshTokenExpiresAt time.Time `json:"refresh_token_expires_at"`
}

// String shows the ids and when the tokens expire.
func (s Session) String() string {
	return fmt.Sprintf("walletauth.Session{ID:%q UserID:%q ProjectID:%q AccessToken:[redacted] AccessTokenExpiresAt:%s RefreshToken:[redacted] RefreshTokenExpiresAt:%s}",
		s.ID, s.UserID, s.ProjectID,
		s.AccessTokenExpiresAt.Format(time.RFC3339), s.RefreshTokenExpiresAt.Format(time.RFC3339))
}

// GoString is [Session.String], for the verb %#v.
func (s Session) GoString() string { return s.String() }

// Format prints [Session.String] for every verb, and quotes it for %q.
func (s Session) Format(f fmt.State, verb rune) {
	text := s.String()
	if verb == 'q' {
		text = strconv.Quote(text)
	}
	_, _ = io.WriteString(f, text) // a fmt.State has no way to fail
}

// LogValue is a group of the ids and the times of expiry.
func (s Session) LogValue() slog.Value {
	return slog.GroupValue(
		slog.String("id", s.ID),
		slog.String("user_id", s.UserID),
		slog.String("project_id", s.ProjectID),
		slog.Time("access_token_expires_at", s.AccessTokenExpiresAt),
		slog.Time("refresh_token_expires_at", s.RefreshTokenExpiresAt),
	)
}

// Valid reports whether s is complete and its access token has not expired
// at now, the server's time. A nil Session is not valid.
func (s *Session) Valid(now time.Time) bool {
	return s.check() == nil && s.AccessTokenExpiresAt.After(now)
}

// check says which required field is missing, or that the access token cannot be
// sent.
func (s *Session) check() error { return (*api.Session)(s).Check() }

// sameTokens reports whether a and b are the same state of a session: both
// nil, or equal in both tokens. One token alone does not tell, since a server
// may renew either and keep the other.
func sameTokens(a, b *Session) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.AccessToken == b.AccessToken && a.RefreshToken == b.RefreshToken
}

// sameLogin reports whether a and b, of which only the access token may be
// known, stem from one login.
func sameLogin(a, b *Session) bool {
	return a.AccessToken == b.AccessToken || b.ID != "" &&
		(a.ID == b.ID || a.UserID == b.UserID && a.CreatedAt.Equal(b.CreatedAt))
}
