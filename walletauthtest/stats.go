package walletauthtest

import "sync"

// Stats is what a [Server] has seen so far. Every count begins at zero and
// only grows. A request is counted before its answer is sent.
type Stats struct {
	Requests         int // all that arrived, preflights too, whatever became of them
	Faults           int // requests that a Fault struck
	Logins           int // sessions begun by a request; Server.Login is not counted
	Logouts          int // sessions ended by a request
	Refreshes        int // refreshes that were granted, also where a fault then lost the answer
	RefreshesRefused int // refreshes answered 4xx; faults are not counted
	Repeats          int // used refresh tokens that came back within Config.ReuseGrace
	Reuses           int // used refresh tokens that came back otherwise
	Unauthorized     int // all answers 401, those to refreshes too; faults are not counted
	NeedlessBearers  int // requests to a public endpoint that carried Authorization
	WrongUser        int // requests whose UserHeader names another user than their bearer
	Violations       int // see Server.Violations
}

// UserStats is what a [Server] has seen of one user, in all sessions.
type UserStats struct {
	Requests  int // that carried a bearer of the user which worked
	Refreshes int // that were granted
	Reuses    int // used refresh tokens of the user that came back
}

// maxViolations bounds the list, not the count: the first ones tell what is
// wrong.
const maxViolations = 100

type counters struct {
	mu         sync.Mutex // guards all below
	total      Stats
	endpoints  map[string]int
	users      map[string]UserStats
	violations []string
}

func (c *counters) add(count func(*Stats)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	count(&c.total)
}

func (c *counters) request(endpoint string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.endpoints == nil {
		c.endpoints = make(map[string]int)
	}
	c.endpoints[endpoint]++
}

func (c *counters) user(id string, count func(*UserStats)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.users == nil {
		c.users = make(map[string]UserStats)
	}
	u := c.users[id]
	count(&u)
	c.users[id] = u
}

func (c *counters) violation(text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.total.Violations++
	if len(c.violations) < maxViolations {
		c.violations = append(c.violations, text)
	}
}

// Stats returns the counts so far, all taken at one moment.
func (s *Server) Stats() Stats {
	s.counters.mu.Lock()
	defer s.counters.mu.Unlock()
	return s.counters.total
}

// User returns the counts of one user, zero if none was seen.
func (s *Server) User(userID string) UserStats {
	s.counters.mu.Lock()
	defer s.counters.mu.Unlock()
	return s.counters.users[userID]
}

// Requests returns how many requests of an endpoint arrived, whatever became
// of them. endpoint is a constant of this package such as [RefreshToken], or a
// pattern that was given to [Server.Handle]; of any other none arrived. [API] is
// no endpoint: Stats.Requests counts all.
func (s *Server) Requests(endpoint string) int {
	s.counters.mu.Lock()
	defer s.counters.mu.Unlock()
	return s.counters.endpoints[endpoint]
}

// Refreshes returns how often the session with this id was refreshed, 0 if it
// is not known. With [Config.NewSessionID] any id it has had will do.
func (s *Server) Refreshes(sessionID string) int {
	s.sessions.mu.Lock()
	defer s.sessions.mu.Unlock()
	if l := s.sessions.ids[sessionID]; l != nil {
		return l.refreshes
	}
	return 0
}

// Violations returns what clients did that no correct client ever does, in the
// order it was seen, at most the first 100: a used refresh token sent again, a
// refresh token with another session's id, a refresh that carried
// Authorization, a header that is missing or sent twice or names an unknown
// project or source, a body that is not what the endpoint takes, a bearer that
// is not the UserHeader's. A missing token source and an Authorization that
// comes with a refresh are served all the same, since the API serves them to
// its own SDK walletkit-js; all others are refused. A bearer or a refresh token
// that has expired or was revoked is no violation: clients cannot always know.
//
// Each is the endpoint and a sentence, without any token.
func (s *Server) Violations() []string {
	s.counters.mu.Lock()
	defer s.counters.mu.Unlock()
	return append([]string(nil), s.counters.violations...)
}

func (s *Server) violate(endpoint, what string) {
	s.counters.violation(endpoint + ": " + what)
	if s.config.TB != nil {
		s.config.TB.Errorf("walletauthtest: the client broke the protocol: %s: %s", endpoint, what)
	}
}
