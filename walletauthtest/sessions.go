package walletauthtest

import (
	"crypto/rand"
	"net/http"
	"sync"
	"time"

	"github.com/walletauth/walletauth"
)

// sessions is who is logged in, and which tokens work.
type sessions struct {
	mu      sync.Mutex // guards all below, and the fields of every login
	access  map[string]accessToken
	refresh map[string]*login // by every refresh token issued, the used ones too
	used    map[string]firstUse
	users   map[string][]*login
	ids     map[string]*login // by every id a session has had
}

// A login is a session from login to logout. Its user never changes.
type login struct {
	userID    string
	session   walletauth.Session // as issued last
	ended     bool
	refreshes int
	issued    int // access tokens so far
	revoked   int // of these the first so many do not work
}

// firstUse is the first use of a refresh token.
type firstUse struct {
	at    time.Time
	id    string // the session's, as it was sent
	reply walletauth.Session
}

type accessToken struct {
	of      *login
	number  int // counting from 1
	expires time.Time
}

// Login logs userID in, without a request, and returns a copy of the session.
// userID is any string but the empty one, which makes no complete session. A user
// may be logged in any number of times, each a session of its own.
func (s *Server) Login(userID string) *walletauth.Session {
	return s.sessions.begin(s.config, userID, s.now())
}

// Sessions returns copies of the sessions of userID that have not ended, oldest
// first, as they were issued last: what a client that lost nothing has stored.
// It is nil if there are none. Those whose refresh token has expired are among
// them.
func (s *Server) Sessions(userID string) []*walletauth.Session {
	s.sessions.mu.Lock()
	defer s.sessions.mu.Unlock()
	var live []*walletauth.Session
	for _, l := range s.sessions.users[userID] {
		if !l.ended {
			own := l.session
			live = append(live, &own)
		}
	}
	return live
}

// RevokeAccess makes the access tokens that userID has invalid: the next
// request is answered 401, while the refresh tokens go on working. It returns
// the number of sessions concerned, 0 if the user has none.
func (s *Server) RevokeAccess(userID string) int {
	return s.sessions.each(userID, func(l *login) { l.revoked = l.issued })
}

// RevokeSessions ends the sessions of userID: requests and refreshes are
// answered 401 with an ErrorResponse. It returns the number of sessions
// ended, 0 if the user has none.
func (s *Server) RevokeSessions(userID string) int {
	return s.sessions.each(userID, func(l *login) { l.ended = true })
}

// each calls do for the live sessions of a user and counts them.
func (st *sessions) each(userID string, do func(*login)) (n int) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, l := range st.users[userID] {
		if !l.ended {
			do(l)
			n++
		}
	}
	return n
}

func (st *sessions) begin(config Config, userID string, now time.Time) *walletauth.Session {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.users == nil {
		st.access = make(map[string]accessToken)
		st.refresh = make(map[string]*login)
		st.users = make(map[string][]*login)
		st.ids = make(map[string]*login)
		st.used = make(map[string]firstUse)
	}
	l := &login{userID: userID}
	l.session = walletauth.Session{
		CreatedAt: instant(now),
		ProjectID: config.projectID(),
		UserID:    userID,
	}
	st.issueID(l)
	st.users[userID] = append(st.users[userID], l)
	st.issueAccess(config, l, now)
	st.issueRefresh(config, l, now)
	own := l.session
	return &own
}

func (st *sessions) issueID(l *login) {
	l.session.ID = "session-" + rand.Text()
	st.ids[l.session.ID] = l
}

func (st *sessions) issueAccess(config Config, l *login, now time.Time) {
	l.issued++
	l.session.AccessToken = "access-" + rand.Text()
	l.session.AccessTokenExpiresAt = instant(now.Add(config.accessTokenTTL()))
	st.access[l.session.AccessToken] = accessToken{l, l.issued, l.session.AccessTokenExpiresAt}
}

func (st *sessions) issueRefresh(config Config, l *login, now time.Time) {
	l.session.RefreshToken = "refresh-" + rand.Text()
	l.session.RefreshTokenExpiresAt = instant(now.Add(config.refreshTokenTTL()))
	st.refresh[l.session.RefreshToken] = l
}

// instant is t as it survives JSON and any database: UTC, microseconds, no
// monotonic clock.
func instant(t time.Time) time.Time { return t.Round(0).UTC().Truncate(time.Microsecond) }

// bearer returns whose access token it is, nil if it does not work.
func (st *sessions) bearer(token string, now time.Time) *login {
	st.mu.Lock()
	defer st.mu.Unlock()
	t, known := st.access[token]
	if !known || t.of.ended || t.number <= t.of.revoked || !now.Before(t.expires) {
		return nil
	}
	return t.of
}

func (s *Server) refreshToken(r *request) (any, error) {
	var in struct {
		SessionID    string `json:"session_id"`
		RefreshToken string `json:"refresh_token"`
	}
	err := decode(r, &in)
	if err == nil {
		err = require("session_id", in.SessionID, "refresh_token", in.RefreshToken)
	}
	if err != nil {
		s.counters.add(func(c *Stats) { c.RefreshesRefused++ })
		return nil, err
	}
	done, err := s.sessions.renew(s.config, in.SessionID, in.RefreshToken, s.now())
	s.countRenewal(done, err)
	if err != nil {
		return nil, err
	}
	return done.reply, nil
}

func (s *Server) countRenewal(done renewal, err error) {
	s.counters.add(func(c *Stats) {
		switch {
		case err != nil:
			c.RefreshesRefused++
		case done.repeated:
			c.Repeats++
		default:
			c.Refreshes++
		}
		if done.reused {
			c.Reuses++
		}
	})
	s.counters.user(done.userID, func(u *UserStats) {
		if err == nil && !done.repeated {
			u.Refreshes++
		}
		if done.reused {
			u.Reuses++
		}
	})
}

// renewal is what became of a refresh.
type renewal struct {
	reply    walletauth.Session
	repeated bool   // the token was used, and the reply is the first one
	reused   bool   // the token was used, which has ended the session
	userID   string // whose refresh token it is, "" if nobody's
}

// renew exchanges a refresh token. If it has been used before, the session ends,
// since one of those who know the token must be a thief, unless the server is
// told to forgive that for a while.
func (st *sessions) renew(config Config, id, token string, now time.Time) (renewal, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	l, known := st.refresh[token]
	if !known {
		return renewal{}, errUnauthorized
	}
	done := renewal{userID: l.userID}
	first, used := st.used[token]
	switch {
	case used && first.id == id && now.Sub(first.at) < config.ReuseGrace && !l.ended:
		done.reply, done.repeated = first.reply, true
		return done, nil
	case l.session.RefreshToken != token:
		l.ended, done.reused = true, true
		return done, asBreach(errUnauthorized, "a refresh token was used twice: send the one that the last refresh answered with")
	case l.session.ID != id:
		return done, asBreach(errUnauthorized, "the refresh token was sent with the id of another session: send the two of one reply")
	case l.ended, !now.Before(l.session.RefreshTokenExpiresAt):
		return done, errUnauthorized
	}
	st.rotate(config, l, now)
	done.reply = l.session
	if l.session.RefreshToken != token && config.ReuseGrace > 0 {
		st.used[token] = firstUse{now, id, l.session}
	}
	return done, nil
}

func (st *sessions) rotate(config Config, l *login, now time.Time) {
	l.refreshes++
	if config.OneAccessToken {
		l.revoked = l.issued
	}
	st.issueAccess(config, l, now)
	if !config.KeepRefreshToken {
		st.issueRefresh(config, l, now)
	}
	if config.NewSessionID {
		st.issueID(l)
	}
}

func (s *Server) logout(r *request) (any, error) {
	s.sessions.mu.Lock()
	defer s.sessions.mu.Unlock()
	if r.session.ended { // by another request, since the bearer was checked
		return nil, refuse(http.StatusUnauthorized, errUnauthorized.Message)
	}
	r.session.ended = true
	s.counters.add(func(c *Stats) { c.Logouts++ })
	return nil, nil
}
