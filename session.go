package walletauth

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"time"
)

// Session is what WalletKit answers to a login and to a refresh: an access
// token that lives minutes and the refresh token for the next one. Its
// JSON is the API's own.
//
// The API documents all fields as required, and a Session that lacks one is
// refused by [Save]. It does not document whether a refresh changes the ID or
// the refresh token. Lifetimes seen are 5 minutes for an access token and 30
// days for a refresh token; nothing relies on either.
//
// A Session that a [TokenStore] returned is shared: do not change it. Copy it
// first.
//
// Printing is safe: every verb of package fmt and every slog handler shows the
// fields that identify the session and neither token, also through a pointer
// and inside a struct that holds a Session in an exported field. Three ways out
// remain, because they never ask the type: [encoding/json], which has to
// write the tokens since stores rely on it (and which [slog.JSONHandler] uses
// for a struct that merely contains a Session); a Session in an unexported
// field; and the verb %p of a Session that is not a pointer, which go vet
// rejects.
type Session struct {
	ID        string    `json:"id"`
	CreatedAt time.Time `json:"created_at"` // by the server's clock
	ProjectID string    `json:"project_id"` // the app, as WalletKit names it
	UserID    string    `json:"user_id"`    // who is logged in; no refresh changes it

	// The access token goes into the header Authorization, as a bearer. It
	// expires by the server's clock.
	AccessToken          string    `json:"access_token"`
	AccessTokenExpiresAt time.Time `json:"access_token_expires_at"`

	// The refresh token is sent for the next session, and is taken to work once.
	RefreshToken          string    `json:"refresh_token"`
	RefreshTokenExpiresAt time.Time `json:"refresh_token_expires_at"`
}

// String describes the session without its tokens: ids, and when the tokens
// expire.
func (s Session) String() string {
	return fmt.Sprintf("walletauth.Session{ID:%q UserID:%q ProjectID:%q AccessToken:[redacted] AccessTokenExpiresAt:%s RefreshToken:[redacted] RefreshTokenExpiresAt:%s}",
		s.ID, s.UserID, s.ProjectID,
		s.AccessTokenExpiresAt.Format(time.RFC3339), s.RefreshTokenExpiresAt.Format(time.RFC3339))
}

// GoString is [Session.String], so that the verb %#v prints no token.
func (s Session) GoString() string { return s.String() }

// Format prints [Session.String] for every verb, and quotes it for %q.
func (s Session) Format(f fmt.State, verb rune) {
	text := s.String()
	if verb == 'q' {
		text = strconv.Quote(text)
	}
	_, _ = io.WriteString(f, text) // a fmt.State has no way to fail
}

// LogValue is the session for package slog: a group of id, user_id, project_id,
// access_token_expires_at and refresh_token_expires_at, without the tokens.
func (s Session) LogValue() slog.Value {
	return slog.GroupValue(
		slog.String("id", s.ID),
		slog.String("user_id", s.UserID),
		slog.String("project_id", s.ProjectID),
		slog.Time("access_token_expires_at", s.AccessTokenExpiresAt),
		slog.Time("refresh_token_expires_at", s.RefreshTokenExpiresAt),
	)
}

// Valid reports whether s is complete and its access token has not expired at
// now. A nil Session is not valid. A [Transport] compares with the server's
// clock rather than the local one.
func (s *Session) Valid(now time.Time) bool {
	return s.check() == nil && s.AccessTokenExpiresAt.After(now)
}

// check says which required field is missing. The API documents all eight as
// required, and a session with a hole in it fails later and less clearly.
func (s *Session) check() error {
	if s == nil {
		return errors.New("the session is nil")
	}
	for _, field := range []struct {
		name    string
		missing bool
	}{
		{"id", s.ID == ""},
		{"created_at", s.CreatedAt.IsZero()},
		{"project_id", s.ProjectID == ""},
		{"user_id", s.UserID == ""},
		{"access_token", s.AccessToken == ""},
		{"access_token_expires_at", s.AccessTokenExpiresAt.IsZero()},
		{"refresh_token", s.RefreshToken == ""},
		{"refresh_token_expires_at", s.RefreshTokenExpiresAt.IsZero()},
	} {
		if field.missing {
			return fmt.Errorf("the session lacks %s", field.name)
		}
	}
	if !validHeaderValue(s.AccessToken) {
		return errors.New("the session's access_token cannot be sent in a header")
	}
	return nil
}

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

// completed returns a copy of reply, the answer to a refresh of s, in which s
// fills in what it leaves out, as RFC 6749, section 6, lets a server keep the
// refresh token; expiry is used if the access token's is left out. It refuses
// what cannot be the successor of s.
func completed(reply, s *Session, expiry time.Time) (*Session, error) {
	if reply == nil {
		return nil, errors.New("the session is nil")
	}
	next := *reply
	next.ID = cmp.Or(next.ID, s.ID)
	next.ProjectID = cmp.Or(next.ProjectID, s.ProjectID)
	next.UserID = cmp.Or(next.UserID, s.UserID)
	next.RefreshToken = cmp.Or(next.RefreshToken, s.RefreshToken)
	fill(&next.CreatedAt, s.CreatedAt)
	fill(&next.RefreshTokenExpiresAt, s.RefreshTokenExpiresAt)
	fill(&next.AccessTokenExpiresAt, expiry)
	switch {
	case next.AccessToken == "":
		return nil, errors.New("the session lacks access_token")
	case !validHeaderValue(next.AccessToken):
		return nil, errors.New("the session's access_token cannot be sent in a header")
	case s.UserID != "" && next.UserID != s.UserID:
		return nil, errors.New("the session is another user's")
	case s.ProjectID != "" && next.ProjectID != s.ProjectID:
		return nil, errors.New("the session is another project's")
	}
	return &next, nil
}

func fill(t *time.Time, otherwise time.Time) {
	if t.IsZero() {
		*t = otherwise
	}
}

// decodeSession reads a complete session.
func decodeSession(data []byte) (*Session, error) {
	s, err := decodeFields(data, true)
	if err != nil {
		return nil, err
	}
	return s, s.check()
}

// decodeFields reads the fields of a session by their exact names, which
// encoding/json would match in any case. Unless strict, a time that cannot be
// read counts as left out. Its errors name the field at fault and never quote
// the input, which may be a token that landed in the wrong field; time.Time's own
// decoder would quote it.
func decodeFields(data []byte, strict bool) (*Session, error) {
	var fields map[string]json.RawMessage
	if json.Unmarshal(data, &fields) != nil {
		if json.Valid(data) {
			return nil, errors.New("the session is not a JSON object")
		}
		return nil, errors.New("the session is not valid JSON")
	}
	s := &Session{}
	for _, field := range []struct {
		name string
		to   *string
	}{
		{"id", &s.ID},
		{"project_id", &s.ProjectID},
		{"user_id", &s.UserID},
		{"access_token", &s.AccessToken},
		{"refresh_token", &s.RefreshToken},
	} {
		if !decodeString(fields[field.name], field.to) {
			return nil, fmt.Errorf("the session's %s is not a string", field.name)
		}
	}
	for _, field := range []struct {
		name string
		to   *time.Time
	}{
		{"created_at", &s.CreatedAt},
		{"access_token_expires_at", &s.AccessTokenExpiresAt},
		{"refresh_token_expires_at", &s.RefreshTokenExpiresAt},
	} {
		if err := decodeTime(fields[field.name], field.to); err != nil && strict {
			return nil, fmt.Errorf("the session's %s is not %w", field.name, err)
		}
	}
	return s, nil
}

// decodeString reads a string, or leaves it empty if there is none.
func decodeString(data json.RawMessage, to *string) bool {
	return data == nil || json.Unmarshal(data, to) == nil
}

// decodeTime reads a time. The errors complete "it is not".
func decodeTime(data json.RawMessage, to *time.Time) error {
	var text string
	if !decodeString(data, &text) {
		return errors.New("a string")
	}
	if text == "" {
		return nil // check names it
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return errors.New("an RFC 3339 time")
	}
	*to = t
	return nil
}

// validHeaderValue reports whether v may stand in an HTTP field (RFC 9110,
// section 5.5): no control characters but the tab.
func validHeaderValue(v string) bool {
	for i := range len(v) {
		if c := v[i]; (c < ' ' && c != '\t') || c == 0x7f {
			return false
		}
	}
	return true
}
