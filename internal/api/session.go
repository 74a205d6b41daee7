package api

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// MaxReply bounds what is read of a reply that carries a session.
const MaxReply = 1 << 20

// Session has the fields of walletauth.Session. The two convert to one another.
type Session struct {
	ID                    string
	CreatedAt             time.Time
	ProjectID             string
	UserID                string
	AccessToken           string
	AccessTokenExpiresAt  time.Time
	RefreshToken          string
	RefreshTokenExpiresAt time.Time
}

// Check says which required field is missing, or that the access token cannot be
// sent. The API documents all eight as required, and a session with a hole in it
// fails later and less clearly.
func (s *Session) Check() error {
	if s == nil {
		return errors.New("the session is nil")
	}
	for _, field := range [...]struct {
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
	if !ValidHeaderValue(s.AccessToken) {
		return errors.New("the session's access_token cannot be sent in a header")
	}
	return nil
}

// Renew returns a copy of reply, the answer to a refresh of s, in which s fills in
// what it leaves out, as RFC 6749, section 6, lets a server keep the refresh token;
// expiry is used if the access token's is left out. It refuses what cannot be the
// successor of s.
func (s *Session) Renew(reply *Session, expiry time.Time) (*Session, error) {
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
	case !ValidHeaderValue(next.AccessToken):
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

// DecodeSession reads a complete session. Its errors, like those of DecodeReply,
// name the field at fault and never quote the input, which may be a token that
// landed in the wrong field; time.Time's own decoder would quote it.
func DecodeSession(data []byte) (*Session, error) {
	s, err := decode(data, true)
	if err != nil {
		return nil, err
	}
	return s, s.Check()
}

// DecodeReply reads the reply to a refresh, which may leave something out. A time
// that cannot be read counts as left out.
func DecodeReply(data []byte) (*Session, error) { return decode(data, false) }

// DecodeLogin returns the session in the body of a login's response, nil if there
// is none: then the response is the caller's business alone. data is cut off at
// MaxReply.
func DecodeLogin(h http.Header, data []byte) *Session {
	if strings.EqualFold(h.Get("Content-Encoding"), "gzip") { // the caller asked for it, or net/http had unpacked it
		data = unzip(data)
	}
	if len(data) >= MaxReply {
		return nil // what is missing might belong to it
	}
	s, err := DecodeSession(data)
	if err != nil {
		return nil
	}
	return s
}

// unzip returns nil, which is no session, for what is not gzip.
func unzip(packed []byte) []byte {
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil
	}
	data, err := io.ReadAll(io.LimitReader(r, MaxReply))
	if err != nil {
		return nil
	}
	return data
}

// decode reads the fields of a session by their exact names, which encoding/json
// would match in any case.
func decode(data []byte, strict bool) (*Session, error) {
	var fields map[string]json.RawMessage
	if json.Unmarshal(data, &fields) != nil {
		if json.Valid(data) {
			return nil, errors.New("the session is not a JSON object")
		}
		return nil, errors.New("the session is not valid JSON")
	}
	s := &Session{}
	for _, field := range [...]struct {
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
	for _, field := range [...]struct {
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
		return nil // Check names it
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return errors.New("an RFC 3339 time")
	}
	*to = t
	return nil
}
