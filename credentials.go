package walletauth

import (
	"errors"
	"time"

	"github.com/walletauth/walletauth/internal/serverclock"
)

// credentials are a session as header values, and what this process knows of its
// age. They are immutable and shared, so that a request with a session that was
// used before costs no string.
type credentials struct {
	session       *Session
	auth, project [1]string

	sinceCreated time.Duration // from its creation to its expiry, as the session says

	issued  time.Time     // by the local clock; zero unless a refresh of this process brought the session
	trusted time.Duration // for how long after issued its age alone makes it due only if both clocks agree
	expiry  time.Time     // by the local clock; zero unless the session's own is of no use
}

const bearerPrefix = "Bearer "

// newCredentials returns the credentials of s. project is Transport.ProjectID.
// The errors are that the token or the project cannot be sent in a header.
func newCredentials(s *Session, project string) (*credentials, error) {
	c := &credentials{session: s, sinceCreated: s.AccessTokenExpiresAt.Sub(s.CreatedAt)}
	c.auth[0] = bearerPrefix + s.AccessToken
	if c.project[0] = project; project == "" {
		c.project[0] = s.ProjectID
	}
	switch {
	case s.AccessToken == "" || !validHeaderValue(s.AccessToken):
		return nil, errors.New("walletauth: the stored session's access token cannot be sent in a header: log in again")
	case c.project[0] == "" || !validHeaderValue(c.project[0]):
		return nil, errors.New("walletauth: no project that can be sent in a header: set Transport.ProjectID")
	}
	return c, nil
}

// is reports whether c is the session s. It compares what would be sent and
// when that expires: a store may return the same session at another address
// each time, or, though it should not, another one at the same address.
func (c *credentials) is(s *Session) bool {
	return c != nil && c.auth[0][len(bearerPrefix):] == s.AccessToken && c.session.RefreshToken == s.RefreshToken &&
		c.session.ProjectID == s.ProjectID && c.session.AccessTokenExpiresAt.Equal(s.AccessTokenExpiresAt)
}

// left is how long the access token is taken to live from the local time on.
func (c *credentials) left(local time.Time, server *serverclock.Clock) time.Duration {
	if !c.expiry.IsZero() {
		return c.expiry.Sub(local)
	}
	left := c.session.AccessTokenExpiresAt.Sub(server.At(local))
	if !c.issued.IsZero() && local.Sub(c.issued) < c.trusted {
		left = max(left, c.session.AccessTokenExpiresAt.Sub(local))
	}
	return left
}
