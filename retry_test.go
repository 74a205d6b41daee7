package walletauth_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

// try sends a request for key and reports whether it succeeded.
func (k *kept) try(key string) bool {
	_, err := k.get(walletauth.WithKey(k.t.Context(), key))
	return err == nil
}

// until sends a request every pause until one succeeds, and returns how long
// that took. It gives up after an hour.
func (k *kept) until(pause time.Duration) time.Duration {
	k.t.Helper()
	start := time.Now()
	for !k.try("") {
		if time.Since(start) > time.Hour {
			k.t.Fatal("no request succeeded within an hour")
		}
		time.Sleep(pause)
	}
	return time.Since(start)
}

// lostNothing demands that no session ended and that the stores hold what the
// server issued last.
func (k *kept) lostNothing() {
	k.t.Helper()
	if st := k.srv.Stats(); st.Reuses != 0 || st.RefreshesRefused != 0 {
		k.t.Errorf("%d spent tokens were sent, %d refreshes refused", st.Reuses, st.RefreshesRefused)
	}
}

func after(seconds string) http.Header { return http.Header{"Retry-After": {seconds}} }

func TestRefreshAttempt(t *testing.T) {
	inBubble(t, "that begins late has the whole RefreshTimeout, since the server may have committed it", func(t *testing.T) {
		k := newKept(t)
		k.at(5 * time.Minute)
		k.srv.FailRefresh(1, walletauthtest.Fault{Status: 503, Header: after("20")})
		k.srv.FailRefresh(1, walletauthtest.Fault{After: true, Delay: 25 * time.Second})
		_, _ = k.get(t.Context())
		time.Sleep(2 * time.Minute)
		k.works(0)
		k.lostNothing()
		k.sent(2)
		k.isLatest(k.stored())
	})
	inBubble(t, "of 300 keys loses no session when the API recovers and answers slowly", func(t *testing.T) {
		for _, outage := range []time.Duration{27 * time.Second, 28 * time.Second, 29 * time.Second} {
			k := newKept(t)
			for i := range 300 {
				k.login(fmt.Sprint(i), fmt.Sprint(i))
			}
			time.Sleep(5 * time.Minute)
			k.srv.FailRefresh(-1, walletauthtest.Fault{Status: 503})
			time.AfterFunc(outage, func() {
				k.srv.ClearFaults()
				k.srv.FailRefresh(-1, walletauthtest.Fault{After: true, Delay: 3 * time.Second})
			})
			var all sync.WaitGroup
			var unserved atomic.Int32
			for i := range 300 {
				all.Go(func() {
					deadline := time.Now().Add(3 * time.Minute)
					for !k.try(fmt.Sprint(i)) {
						if time.Now().After(deadline) {
							unserved.Add(1)
							return
						}
						time.Sleep(time.Second)
					}
				})
			}
			all.Wait()
			if n := unserved.Load(); n != 0 {
				t.Errorf("%d of 300 keys were not served within 3 minutes", n)
			}
			k.lostNothing()
			k.stop()
		}
	})
	inBubble(t, "holds no exclusion while it backs off", func(t *testing.T) {
		k := newKept(t)
		k.at(5 * time.Minute)
		k.srv.FailRefresh(-1, walletauthtest.Fault{Status: 503})
		waits := make(chan error)
		go func() { _, err := k.get(t.Context()); waits <- err }()
		time.Sleep(time.Second)
		start := time.Now()
		login := k.login("", "user")
		if took := time.Since(start); took != 0 {
			t.Errorf("Save took %s", took)
		}
		if err := <-waits; err != nil {
			t.Fatalf("the request that waited: %v, want that it goes out with the login", err)
		}
		k.wentOutWith(login)
		if *k.stored() != *login {
			t.Error("the login was overwritten")
		}
		k.srv.ClearFaults()
	})
	inBubble(t, "looks again: what another process saved meanwhile is adopted", func(t *testing.T) {
		a := newKept(t)
		b := a.another()
		a.at(5 * time.Minute)
		a.srv.FailRefresh(1, walletauthtest.Fault{Status: 503, Header: after("3")})
		var all sync.WaitGroup
		all.Go(func() { _, _ = a.get(t.Context()) })
		synctest.Wait()
		all.Go(func() { b.works(0) })
		all.Wait()
		time.Sleep(30 * time.Second)
		a.works(0)
		a.sent(2)
		a.lostNothing()
	})
	inBubble(t, "that is under way when the waiting request leaves is finished and stored", func(t *testing.T) {
		k := newKept(t)
		k.at(5 * time.Minute)
		k.srv.FailRefresh(1, walletauthtest.Fault{Status: 503})
		k.srv.FailRefresh(1, walletauthtest.Fault{After: true, Delay: 20 * time.Second})
		if took, err := k.get(t.Context()); err == nil || took != 5*time.Second {
			t.Errorf("after %s: %v, want an error after 5 s", took, err)
		}
		time.Sleep(30 * time.Second)
		k.isLatest(k.stored())
		k.works(0)
		k.sent(2)
	})
}

func TestRequestThatWaits(t *testing.T) {
	for name, fault := range map[string]walletauthtest.Fault{
		"while the API is overloaded":   {Status: 503},
		"while it limits":               {Status: 429, Body: ours},
		"while it times out":            {Status: 408},
		"while it fails":                {Status: 500},
		"while connections are dropped": {Drop: true},
	} {
		inBubble(t, "leaves 5 s after the first failure, and the refresh goes on: "+name, func(t *testing.T) {
			k := newKept(t)
			k.at(5 * time.Minute)
			k.srv.FailRefresh(-1, fault)
			err := k.fails(5 * time.Second)
			var refused *walletauth.RefreshError
			if !errors.As(err, &refused) || refused.StatusCode != fault.Status || errors.Is(err, walletauth.ErrSessionExpired) {
				t.Errorf("%v, want the error of the refresh", err)
			}
			k.srv.ClearFaults()
			time.Sleep(5 * time.Second)
			k.isLatest(k.stored())
			if *k.stored() == *k.first {
				t.Error("the refresh did not go on")
			}
			k.works(0)
		})
	}
	inBubble(t, "leaves at once where Retry-After allows nothing sooner", func(t *testing.T) {
		k := newKept(t)
		k.at(5 * time.Minute)
		k.srv.FailRefresh(1, walletauthtest.Fault{Status: 503, Header: after("10")})
		_ = k.fails(0)
		_ = k.fails(0)
		k.sent(1)
		time.Sleep(15 * time.Second)
		k.works(0)
	})
	inBubble(t, "goes on where the next attempt succeeds", func(t *testing.T) {
		k := newKept(t)
		k.at(5 * time.Minute)
		k.srv.FailRefresh(2, walletauthtest.Fault{Status: 503})
		if took, err := k.get(t.Context()); err != nil || took > 2*time.Second {
			t.Errorf("after %s: %v", took, err)
		}
		k.sent(3)
	})
	for name, outage := range map[string]walletauthtest.Fault{"that answers 503": {Status: 503}, "that drops connections": {Drop: true}} {
		for _, length := range []time.Duration{10 * time.Second, time.Minute, 10 * time.Minute} {
			inBubble(t, fmt.Sprintf("is served 5 s after an outage of %s %s at the latest", length, name), func(t *testing.T) {
				k := newKept(t)
				k.at(5 * time.Minute)
				k.srv.FailRefresh(-1, outage)
				for end := time.Now().Add(length); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
					ctx, cancel := context.WithDeadline(t.Context(), end)
					_, _ = k.get(ctx)
					cancel()
				}
				k.srv.ClearFaults()
				if took := k.until(100 * time.Millisecond); took > 5*time.Second {
					t.Errorf("served after %s", took)
				}
			})
		}
	}
}

func TestRetryAfter(t *testing.T) {
	for name, fault := range map[string]walletauthtest.Fault{
		"503": {Status: 503, Header: after("3600")}, "429": {Status: 429, Header: after("3600")},
		"a firewall's 403": {Status: 403, Body: wallHTML, Header: after("3600")},
	} {
		inBubble(t, "of an hour with "+name+" does not bind a new login", func(t *testing.T) {
			k := newKept(t)
			k.at(5 * time.Minute)
			k.srv.FailRefresh(1, fault)
			_ = k.fails(0)
			_ = k.fails(0)
			k.sent(1)
			k.login("", "user")
			k.works(0)
			time.Sleep(5 * time.Minute) // the login is due
			k.works(0)
			k.sent(2)
		})
	}
	inBubble(t, "of an hour does not bind a captured login", func(t *testing.T) {
		k := newKept(t, func(k *kept) { k.CaptureLogin, k.ProjectID = true, "project" })
		k.at(5 * time.Minute)
		k.srv.FailRefresh(1, walletauthtest.Fault{Status: 503, Header: after("3600")})
		_ = k.fails(0)
		k.post(t.Context(), "/users/login-anonymously", nil)
		time.Sleep(5 * time.Minute)
		k.works(0)
	})
	inBubble(t, "of an hour does not bind another key", func(t *testing.T) {
		k := newKept(t)
		k.login("b", "other")
		k.at(5 * time.Minute)
		k.srv.FailRefresh(1, walletauthtest.Fault{Status: 503, Header: after("3600")})
		_ = k.fails(0)
		if !k.try("b") {
			t.Error("the other key was refused")
		}
	})
	inBubble(t, "of a day binds the refresh token that got it, for an hour", func(t *testing.T) {
		k := newKept(t)
		k.at(5 * time.Minute)
		k.srv.FailRefresh(1, walletauthtest.Fault{Status: 503, Header: after("86400")})
		_ = k.fails(0)
		for range 59 {
			time.Sleep(time.Minute)
			_ = k.fails(0)
		}
		k.sent(1)
		time.Sleep(13*time.Minute + time.Second) // and a fifth of jitter
		k.works(0)
		k.sent(2)
	})
}

func TestCooldown(t *testing.T) {
	inBubble(t, "after a failure that may pass is 4 s and a fifth at most, attempts included", func(t *testing.T) {
		k := newKept(t)
		k.at(5 * time.Minute)
		var last time.Time
		var longest time.Duration
		k.srv.FailRefresh(-1, walletauthtest.Fault{Status: 503, Do: func(*http.Request) {
			if !last.IsZero() {
				longest = max(longest, time.Since(last))
			}
			last = time.Now()
		}})
		for range 6000 { // 10 minutes and more
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			_, _ = k.get(ctx)
			cancel()
			time.Sleep(50 * time.Millisecond)
		}
		if most := 4800*time.Millisecond + 150*time.Millisecond; longest > most { // a request comes every 150 ms
			t.Errorf("a pause of %s, want %s at most", longest, most)
		}
	})
	inBubble(t, "after other failures is 1 s doubling to 30 s", func(t *testing.T) {
		k := newKept(t)
		k.at(5 * time.Minute)
		var at []time.Time
		k.srv.FailRefresh(-1, walletauthtest.Fault{Status: 404, Do: func(*http.Request) { at = append(at, time.Now()) }})
		for range 3000 { // 5 minutes
			_ = k.fails(0)
			time.Sleep(100 * time.Millisecond)
		}
		want := time.Second
		for i := 1; i < len(at); i++ {
			if pause := at[i].Sub(at[i-1]); pause < want*4/5 || pause > want*6/5+100*time.Millisecond {
				t.Errorf("pause %d was %s, want %s and a fifth of jitter", i, pause, want)
			}
			want = min(2*want, 30*time.Second)
		}
	})
	inBubble(t, "makes requests fail at once, with the same error", func(t *testing.T) {
		k := newKept(t)
		k.at(5 * time.Minute)
		k.srv.FailRefresh(1, walletauthtest.Fault{Status: 404})
		err := k.fails(0)
		if again := k.fails(0); again.Error() != err.Error() {
			t.Errorf("%v, want %v", again, err)
		}
		k.sent(1)
	})
	inBubble(t, "lets requests use a token that is still valid", func(t *testing.T) {
		k := newKept(t)
		k.at(late)
		k.srv.FailRefresh(-1, walletauthtest.Fault{Status: 404})
		for range 5 {
			k.works(0)
			k.wentOutWith(k.first)
		}
		k.sent(1)
		k.srv.ClearFaults()
	})
	inBubble(t, "does not follow a login that comes while it lasts", func(t *testing.T) {
		k := newKept(t)
		k.at(5 * time.Minute)
		k.srv.FailRefresh(-1, walletauthtest.Fault{Status: 404})
		login := k.srv.Login("user") // which is stored when it is due
		for range 301 {              // the cool-down is 30 s by now
			_ = k.fails(0)
			time.Sleep(time.Second)
		}
		k.srv.ClearFaults()
		if err := walletauth.Save(t.Context(), k.Store, "", login); err != nil {
			t.Fatal(err)
		}
		before := k.srv.Requests(walletauthtest.RefreshToken)
		k.works(0)
		k.sent(before + 1)
	})
}

// A healthy endpoint refuses nobody.
func TestManyKeys(t *testing.T) {
	inBubble(t, "that expire at once are all refreshed by a healthy endpoint", func(t *testing.T) {
		const keys = 1000
		k := newKept(t)
		for i := range keys {
			k.login(fmt.Sprint(i), fmt.Sprint(i))
		}
		var now, most atomic.Int32
		k.srv.FailRefresh(-1, walletauthtest.Fault{Do: func(*http.Request) {
			n := now.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			time.Sleep(500 * time.Millisecond)
			now.Add(-1)
		}})
		k.at(5 * time.Minute)
		var all sync.WaitGroup
		for i := range keys {
			all.Go(func() {
				if !k.try(fmt.Sprint(i)) {
					t.Errorf("key %d was refused", i)
				}
			})
		}
		all.Wait()
		k.sent(keys)
		if n := most.Load(); n > 256 {
			t.Errorf("%d refreshes at once, want 256 at most", n)
		}
	})
	inBubble(t, "of which one user's session ended go on", func(t *testing.T) {
		k := newKept(t)
		for i := range 100 {
			k.login(fmt.Sprint(i), fmt.Sprint(i))
			if i%2 == 0 {
				k.srv.RevokeSessions(fmt.Sprint(i))
			}
		}
		k.at(5 * time.Minute)
		for i := range 100 {
			if ok := k.try(fmt.Sprint(i)); ok != (i%2 == 1) {
				t.Errorf("key %d: served: %t", i, ok)
			}
		}
	})
}

// Shortly before expiry a request waits for the refresh, but not past its own
// deadline.
func TestLateWindow(t *testing.T) {
	const eightLeft = 4*time.Minute + 52*time.Second
	for name, hinder := range map[string]func(k *kept) (stop func()){
		"a slow refresh": func(k *kept) func() {
			k.srv.FailRefresh(1, walletauthtest.Fault{Delay: 2 * time.Second})
			return func() {}
		},
		"the store's exclusion": func(k *kept) func() { return k.hold() },
		"a refresh that is retried": func(k *kept) func() {
			k.srv.FailRefresh(1, walletauthtest.Fault{Status: 503, Delay: 400 * time.Millisecond})
			return func() {}
		},
	} {
		for _, deadline := range []time.Duration{500 * time.Millisecond, 100 * time.Millisecond, 10 * time.Millisecond} {
			inBubble(t, fmt.Sprintf("lets a request with a deadline of %s out with the valid token before that, past %s", deadline, name), func(t *testing.T) {
				k := newKept(t)
				stop := hinder(k)
				defer stop()
				k.at(eightLeft)
				ctx, cancel := context.WithTimeout(t.Context(), deadline)
				defer cancel()
				took, err := k.get(ctx)
				if err != nil || took >= deadline {
					t.Fatalf("after %s: %v, want that it is served before its deadline", took, err)
				}
				k.wentOutWith(k.first)
			})
		}
	}
	inBubble(t, "lets Session with a deadline have the valid token before that", func(t *testing.T) {
		k := newKept(t)
		k.srv.FailRefresh(1, walletauthtest.Fault{Delay: 2 * time.Second})
		k.at(eightLeft)
		s, err := k.Session(timeout(t, 500*time.Millisecond))
		if err != nil || s.AccessToken != k.first.AccessToken {
			t.Errorf("session %v, %v", s, err)
		}
	})
	inBubble(t, "lets a request with a deadline after the refresh wait for it", func(t *testing.T) {
		k := newKept(t)
		k.srv.FailRefresh(1, walletauthtest.Fault{Delay: time.Second})
		k.at(eightLeft)
		if took, err := k.get(timeout(t, time.Minute)); err != nil || took != time.Second {
			t.Errorf("after %s: %v", took, err)
		}
		k.wentOutWith(k.stored())
		k.isLatest(k.stored())
	})
	inBubble(t, "lets a caller who cancels go with the context's error", func(t *testing.T) {
		k := newKept(t)
		k.srv.FailRefresh(1, walletauthtest.Fault{Delay: 2 * time.Second})
		k.at(eightLeft)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(500*time.Millisecond, cancel)
		if took, err := k.get(ctx); !errors.Is(err, context.Canceled) || took != 500*time.Millisecond {
			t.Errorf("after %s: %v", took, err)
		}
	})
	inBubble(t, "is over when the token has expired: then the deadline is the error", func(t *testing.T) {
		k := newKept(t)
		k.srv.FailRefresh(1, walletauthtest.Fault{Delay: 2 * time.Second})
		k.at(5 * time.Minute)
		if took, err := k.get(timeout(t, 500*time.Millisecond)); !errors.Is(err, context.DeadlineExceeded) || took != 500*time.Millisecond {
			t.Errorf("after %s: %v", took, err)
		}
	})
}

// refreshPoint returns how long after its issue a session is refreshed under
// steady traffic: r notes it, and each Transport has a store of its own.
func refreshPoint(t *testing.T, s *walletauth.Session) time.Duration {
	t.Helper()
	st := &walletauth.MemoryStore{}
	var at time.Duration
	r := &issuer{ttl: 5 * time.Minute}
	k := &kept{t: t, Transport: quiet(st, refreshFunc(func(ctx context.Context, old *walletauth.Session) (*walletauth.Session, error) {
		at = time.Since(s.CreatedAt)
		next, err := r.Refresh(ctx, old)
		next.ID, next.UserID = s.ID, s.UserID
		return next, err
	}))}
	if err := walletauth.Save(t.Context(), st, "", s); err != nil {
		t.Fatal(err)
	}
	for at == 0 && time.Since(s.CreatedAt) < 5*time.Minute {
		if time.Since(s.CreatedAt) < 230*time.Second {
			time.Sleep(230*time.Second - time.Since(s.CreatedAt))
		}
		k.works(0)
		synctest.Wait()
		time.Sleep(100 * time.Millisecond)
	}
	return at
}

func TestEarlyWindow(t *testing.T) {
	inBubble(t, "spreads the refreshes of sessions over its first three quarters", func(t *testing.T) {
		var least, most time.Duration = time.Hour, 0
		for i := range 50 {
			r := &issuer{ttl: 5 * time.Minute}
			s := r.issue(time.Now(), int32(i))
			s.ID, s.UserID = fmt.Sprint("session ", i), fmt.Sprint("user ", i)
			at := refreshPoint(t, s)
			if at < 4*time.Minute || at > 285*time.Second+100*time.Millisecond {
				t.Errorf("session %d was refreshed %s after its issue, want 240 to 285 s", i, at)
			}
			least, most = min(least, at), max(most, at)
		}
		if most-least < 20*time.Second {
			t.Errorf("50 sessions were refreshed within %s", most-least)
		}
	})
	inBubble(t, "has processes refresh a session within a tenth of the spread, not at the same moment", func(t *testing.T) {
		var least, most time.Duration = time.Hour, 0
		for i := range 20 {
			r := &issuer{ttl: 5 * time.Minute}
			s := r.issue(time.Now(), 0)
			s.ID, s.AccessToken = "one session", fmt.Sprint("access token ", i)
			at := refreshPoint(t, s)
			least, most = min(least, at), max(most, at)
		}
		if spread := most - least; spread == 0 || spread > 4600*time.Millisecond { // a tenth of 45 s, and a request each 100 ms
			t.Errorf("20 processes refresh within %s, want up to 4.5 s", spread)
		}
	})
	inBubble(t, "has whoever asks in its last quarter start a refresh", func(t *testing.T) {
		for range 20 {
			k := newKept(t)
			k.at(285*time.Second + time.Millisecond)
			k.works(0)
			k.wentOutWith(k.first)
			synctest.Wait()
			k.sent(1)
			k.stop()
		}
	})
	inBubble(t, "begins no sooner than a fifth of the lifetime before expiry", func(t *testing.T) {
		for range 20 {
			k := newKept(t)
			k.at(4*time.Minute - 1)
			k.works(0)
			synctest.Wait()
			k.sent(0)
			k.stop()
		}
	})
	inBubble(t, "has KeepAlive of many keys refresh at different moments", func(t *testing.T) {
		k := newKept(t)
		var mu sync.Mutex
		perSecond := map[time.Duration]int{}
		k.srv.FailRefresh(-1, walletauthtest.Fault{Do: func(*http.Request) {
			mu.Lock()
			defer mu.Unlock()
			perSecond[time.Since(k.first.CreatedAt).Truncate(time.Second)]++
		}})
		ctx, cancel := context.WithTimeout(t.Context(), 299*time.Second)
		defer cancel()
		var all sync.WaitGroup
		for i := range 300 {
			k.login(fmt.Sprint(i), fmt.Sprint(i))
			all.Go(func() { _ = k.KeepAlive(walletauth.WithKey(ctx, fmt.Sprint(i))) })
		}
		all.Wait()
		k.sent(300)
		for at, n := range perSecond {
			if n > 40 { // about 7 in each of 45 s on average
				t.Errorf("%d of 300 refreshes in the second at %s", n, at)
			}
		}
	})
}
