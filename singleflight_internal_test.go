package walletauth

import (
	"testing"
	"time"
)

func TestWhatMayReplaceAStaleSession(t *testing.T) {
	stale := &Session{AccessToken: "a", AccessTokenExpiresAt: time.Unix(100, 0)}
	later := &Session{AccessToken: "a", AccessTokenExpiresAt: time.Unix(200, 0)}
	another := &Session{AccessToken: "b", AccessTokenExpiresAt: time.Unix(100, 0)}
	for name, c := range map[string]struct {
		s    *Session
		why  Reason
		want bool
	}{
		"another token, before the expiry":             {another, Expiring, true},
		"another token, after a 401":                   {another, Rejected, true},
		"a later expiry, before the expiry":            {later, Expiring, true},
		"a later expiry, after it":                     {later, Expired, true},
		"not a later expiry of a token that got a 401": {later, Rejected, false},
		"not the same":                                 {stale, Expired, false},
	} {
		if got := newer(c.s, stale, c.why); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func TestADoubtIsFreeOnceAndThenCostsAsARefusalBefore(t *testing.T) {
	for n, want := range map[int]time.Duration{
		1: 0, 2: 5 * time.Second, 3: 10 * time.Second, 4: 20 * time.Second, 100: 5 * time.Minute,
	} {
		if got := refusedUnseen(n); got != want {
			t.Errorf("after %d: %s, want %s", n, got, want)
		}
		if n > 1 && refusedAgain(n-1) != want {
			t.Errorf("refusedAgain(%d) = %s, want %s", n-1, refusedAgain(n-1), want)
		}
	}
}
