package walletauth

import (
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/walletauth/walletauth/internal/policy"
	"github.com/walletauth/walletauth/internal/serverclock"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// testClock is a Clock that only the test moves.
type testClock struct{ now time.Time }

func (c *testClock) Now() time.Time                       { return c.now }
func (c *testClock) After(time.Duration) <-chan time.Time { return nil }

func newStates() (*keyStates, *testClock) {
	c := &testClock{noon}
	return newKeyStates(c), c
}

// sessionOf is the nth state of a login of user.
func sessionOf(user string, n int) *Session {
	return &Session{
		ID: "login of " + user, CreatedAt: noon, ProjectID: "project", UserID: user,
		AccessToken: fmt.Sprint("access token ", n, " of ", user), AccessTokenExpiresAt: noon.Add(time.Duration(n) * time.Minute),
		RefreshToken: fmt.Sprint("refresh token ", n, " of ", user), RefreshTokenExpiresAt: noon.AddDate(0, 1, 0),
	}
}

func credentialsFor(t *testing.T, s *Session) *credentials {
	t.Helper()
	c, err := newCredentials(s, "")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// currentOf is what requests of key are sent with, nil if that is unknown.
func (m *keyStates) currentOf(key string) *credentials {
	if st := m.Lookup(key); st != nil {
		return st.current.Load()
	}
	return nil
}

func TestAKeyThatWasNeverUsedHasNoState(t *testing.T) {
	m, _ := newStates()
	m.peek("key", func(*keyState) { t.Error("peek found one") })
	if err, rejected := m.Lookup("key").expiredError(sessionOf("user", 1)); err != nil || rejected {
		t.Errorf("its session is over: %v, %t", err, rejected)
	}
	if err := m.refusedError("key", sessionOf("user", 1)); err != nil {
		t.Errorf("its session is refused: %v", err)
	}
	m.All(func(string, *keyState) { t.Error("a state was made") })
}

func TestRememberedSession(t *testing.T) {
	first, next, other := credentialsFor(t, sessionOf("user", 1)), credentialsFor(t, sessionOf("user", 2)), credentialsFor(t, sessionOf("other", 1))
	raise := func(m *keyStates) { m.with("key", func(st *keyState) { m.raise(st) }) }
	for name, row := range map[string]struct {
		before func(m *keyStates) (generation uint64)
		c      *credentials
		taken  bool
		want   *credentials
	}{
		"is what requests are sent with": {
			func(m *keyStates) uint64 { return m.generationOf(m.Lookup("key")) }, first, true, first,
		},
		"gives way to its successor": {func(m *keyStates) uint64 {
			m.remember("key", 0, first)
			return m.generationOf(m.Lookup("key"))
		}, next, true, next},
		"is not one that was loaded before its successor came": {func(m *keyStates) uint64 {
			m.remember("key", 0, first)
			loading := m.generationOf(m.Lookup("key"))
			m.remember("key", loading, next)
			return loading
		}, first, false, next},
		"is not one that was loaded before a login": {func(m *keyStates) uint64 {
			m.remember("key", 0, first)
			loading := m.generationOf(m.Lookup("key"))
			m.with("key", func(st *keyState) { st.current.Store(other); m.raise(st) })
			return loading
		}, first, false, other},
		"is not one that was loaded before a logout": {func(m *keyStates) uint64 {
			m.remember("key", 0, first)
			loading := m.generationOf(m.Lookup("key"))
			m.forget("key", loading)
			return loading
		}, first, false, nil},
		"is not one that was loaded before a logout of a key without a state": {func(m *keyStates) uint64 {
			loading := m.generationOf(m.Lookup("key"))
			m.forget("key", loading)
			return loading
		}, first, false, nil},
		"is one that was loaded after a logout": {func(m *keyStates) uint64 {
			m.remember("key", 0, first)
			m.forget("key", m.generationOf(m.Lookup("key")))
			return m.generationOf(m.Lookup("key"))
		}, first, true, first},
		"is not lost to a logout that was seen before the login": {func(m *keyStates) uint64 {
			m.remember("key", 0, first)
			loading := m.generationOf(m.Lookup("key"))
			m.remember("key", loading, next)
			m.forget("key", loading)
			return 0
		}, next, true, next},
		"is taken in any generation if it is the very same": {func(m *keyStates) uint64 {
			m.remember("key", 0, first)
			raise(m)
			return 0
		}, first, true, first},
		"is not concerned by a change of another key": {func(m *keyStates) uint64 {
			m.remember("key", 0, first)
			loading := m.generationOf(m.Lookup("key"))
			m.remember("another", 0, first)
			m.remember("another", m.generationOf(m.Lookup("another")), other)
			return loading
		}, next, true, next},
	} {
		t.Run(name, func(t *testing.T) {
			m, _ := newStates()
			if taken := m.remember("key", row.before(m), row.c); taken != row.taken {
				t.Errorf("taken: %t, want %t", taken, row.taken)
			}
			if got := m.currentOf("key"); got != row.want {
				t.Errorf("requests are sent with %+v, want %+v", got, row.want)
			}
		})
	}
}

func TestCredentialsAreMadeOnceForASession(t *testing.T) {
	m, _ := newStates()
	first, next := sessionOf("user", 1), sessionOf("user", 2)
	current, refreshed := credentialsFor(t, first), credentialsFor(t, next)
	m.remember("key", 0, current)
	m.with("key", func(st *keyState) { st.refreshed.Store(refreshed) })
	for _, row := range []struct {
		s    *Session
		want *credentials
	}{{first, current}, {next, refreshed}} {
		copied := *row.s
		if got, err := m.credentialsOf("key", &copied, ""); got != row.want || err != nil {
			t.Errorf("got %+v, %v, want those that are remembered", got, err)
		}
	}
	moved := *first
	moved.AccessTokenExpiresAt = moved.AccessTokenExpiresAt.Add(time.Hour)
	if got, err := m.credentialsOf("key", &moved, ""); got == current || err != nil || got.session != &moved {
		t.Errorf("a later expiry: %+v, %v", got, err)
	}
	if got, err := m.credentialsOf("another", first, "project of the Transport"); err != nil || got == current || got.project[0] != "project of the Transport" {
		t.Errorf("another key: %+v, %v", got, err)
	}
	if _, err := m.credentialsOf("key", &Session{AccessToken: "a\nb", ProjectID: "p"}, ""); err == nil {
		t.Error("a token that cannot be sent has credentials")
	}
}

func TestHowLongAnAccessTokenIsTakenToLive(t *testing.T) {
	const lifetime = 5 * time.Minute
	for name, row := range map[string]struct {
		c     credentials
		ahead time.Duration // the server's clock, as it was learned
		local time.Duration // after noon
		want  time.Duration
	}{
		"as the server's clock says":                          {credentials{}, time.Minute, 0, 4 * time.Minute},
		"also if that says too much":                          {credentials{}, -time.Minute, 0, 6 * time.Minute},
		"new from a refresh, as the local one says if longer": {credentials{issued: noon, trusted: lifetime / 2}, 295 * time.Second, time.Minute, 4 * time.Minute},
		"or as the server's says if that is longer":           {credentials{issued: noon, trusted: lifetime / 2}, -time.Minute, time.Minute, 5 * time.Minute},
		"up to the last moment of that time":                  {credentials{issued: noon, trusted: lifetime / 2}, 295 * time.Second, lifetime/2 - 1, lifetime/2 + 1},
		"later as the server's says":                          {credentials{issued: noon, trusted: lifetime / 2}, 295 * time.Second, lifetime / 2, -145 * time.Second},
		"by its age, if its own expiry is of no use":          {credentials{expiry: noon.Add(time.Hour)}, 295 * time.Second, time.Minute, 59 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			server := &serverclock.Clock{Local: &testClock{noon}}
			date := row.ahead
			if date < 0 {
				date -= time.Second // Date leaves a second open, and the clock moves no further than it must
			}
			server.ObserveDate(http.Header{"Date": {noon.Add(date).Format(http.TimeFormat)}}, noon)
			row.c.session = &Session{AccessTokenExpiresAt: noon.Add(lifetime)}
			if got := row.c.left(noon.Add(row.local), server); got != row.want {
				t.Errorf("got %v, want %v", got, row.want)
			}
		})
	}
}

func TestEndOfASession(t *testing.T) {
	s, cause := sessionOf("user", 1), fmt.Errorf("%w, says the server", ErrSessionExpired)
	renewed := *s // by whoever: another access token, the same refresh token
	renewed.AccessToken = "another access token"
	want := func(t *testing.T, m *keyStates, s *Session, over, rejected, refused bool) {
		t.Helper()
		err, isRejected := m.Lookup("key").expiredError(s)
		if (err == cause) != over || (err != nil) != over || isRejected != rejected || (m.refusedError("key", s) == cause) != refused {
			t.Errorf("over %v, rejected %t, refused %v; want %t, %t, %t", err, isRejected, m.refusedError("key", s), over, rejected, refused)
		}
	}
	t.Run("is not certain at first, but its token is not sent again", func(t *testing.T) {
		m, _ := newStates()
		m.setRefused("key", s, cause)
		want(t, m, s, false, false, true)
		if err := m.rejectExpired("key", s); err != nil {
			t.Errorf("it is over: %v", err)
		}
	})
	t.Run("is news once", func(t *testing.T) {
		m, _ := newStates()
		m.setRefused("key", s, cause)
		if !m.setExpired("key", s, false, cause) || m.setExpired("key", s, false, cause) {
			t.Error("it is not news the first time, or is the second")
		}
		want(t, m, s, true, false, true)
	})
	t.Run("is told whether the access token still serves", func(t *testing.T) {
		m, _ := newStates()
		m.setExpired("key", s, true, cause)
		want(t, m, s, true, true, true)
		want(t, m, &renewed, true, false, true)
	})
	t.Run("is learned for the access token later", func(t *testing.T) {
		m, _ := newStates()
		m.setExpired("key", s, false, cause)
		if err := m.rejectExpired("key", s); err != cause {
			t.Errorf("got %v", err)
		}
		want(t, m, s, true, true, true)
	})
	t.Run("concerns no other refresh token and no other key", func(t *testing.T) {
		m, _ := newStates()
		m.setExpired("key", s, true, cause)
		want(t, m, sessionOf("user", 2), false, false, false)
		if err := m.rejectExpired("key", sessionOf("user", 2)); err != nil {
			t.Errorf("another login: %v", err)
		}
		if err := m.rejectExpired("another", s); err != nil {
			t.Errorf("another key: %v", err)
		}
		want(t, m, s, true, true, true)
	})
	t.Run("is forgotten with the second login after it", func(t *testing.T) {
		m, _ := newStates()
		m.setExpired("key", s, true, cause)
		if !m.setExpired("key", sessionOf("user", 2), true, cause) {
			t.Error("the end of the next is no news")
		}
		want(t, m, s, true, true, true)
		m.setExpired("key", sessionOf("user", 3), true, cause)
		want(t, m, sessionOf("user", 2), true, true, true)
		want(t, m, s, false, false, false)
	})
}

func TestSweepForgetsWhatHasNoMoreEffect(t *testing.T) {
	s := sessionOf("user", 1)
	for name, row := range map[string]struct {
		set  func(st *keyState)
		kept time.Duration // for how long; negative: for good
	}{
		"a session that is not used":        {func(*keyState) {}, 0},
		"a refresh that runs":               {func(st *keyState) { st.calls = map[string]*call{"token": {}} }, -1},
		"a write that is pending":           {func(st *keyState) { st.pending.Store(&pendingWrite{}) }, -1},
		"an end":                            {func(st *keyState) { st.end.Store(st.end.Load().Refused("token", "token", io.EOF)) }, -1},
		"a store that gave no exclusion":    {func(st *keyState) { st.lockRetryAt = noon.Add(time.Second) }, time.Second},
		"a refresh that a 401 caused":       {func(st *keyState) { st.rejections.Refreshed("token", false, noon) }, 5*time.Minute - 1},
		"a cooldown and a minute behind it": {func(st *keyState) { st.cooldown.Fail("token", io.EOF, false, time.Hour, noon, 7) }, time.Hour + policy.CooldownMemory},
	} {
		t.Run(name, func(t *testing.T) {
			st := &keyState{}
			row.set(st)
			st.current.Store(credentialsFor(t, s))
			st.refreshed.Store(credentialsFor(t, s))
			for _, after := range []time.Duration{row.kept, row.kept + 1, time.Hour * 1000} {
				dropped := sweepStates(noon.Add(after))(st, false)
				if want := row.kept < 0 || row.kept > 0 && after <= row.kept; dropped == want {
					t.Errorf("after %v dropped: %t, want %t", after, dropped, !want)
				}
			}
			if st.current.Load() != nil || st.refreshed.Load() != nil {
				t.Error("its session is remembered all the same")
			}
		})
	}
}

func TestARecentSessionIsRemembered(t *testing.T) {
	m, c := newStates()
	m.remember("key", 0, credentialsFor(t, sessionOf("user", 1)))
	for range 3 {
		c.now = c.now.Add(time.Hour)
		m.SweepIfDue(c.now)
	}
	if m.currentOf("key") == nil {
		t.Error("a sweep forgot it")
	}
}

func TestAKeyThatFailedOnceIsForgotten(t *testing.T) {
	m, c := newStates()
	for i := range 100_000 {
		m.with(fmt.Sprint(i), func(st *keyState) { st.cooldown.Fail("token", io.EOF, true, 0, c.now, 7) })
		c.now = c.now.Add(time.Second)
		m.SweepIfDue(c.now)
	}
	left := 0
	m.All(func(string, *keyState) { left++ })
	if left > 200 {
		t.Errorf("%d of 100,000 keys are remembered", left)
	}
}

func TestEndsAreRememberedUpToABound(t *testing.T) {
	drop, kept := sweepStates(noon), 0
	for i := range rememberedEnds + 1000 {
		st := &keyState{}
		st.end.Store(st.end.Load().Refused(fmt.Sprint(i), "token", io.EOF))
		if !drop(st, false) {
			kept++
		}
	}
	if kept != rememberedEnds {
		t.Errorf("%d are remembered, want %d", kept, rememberedEnds)
	}
}
