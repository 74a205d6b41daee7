package walletauth_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
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

var errDown = errors.New("the database is down")

// newOutage returns a kept that captures logins, and what makes its store fail
// with the error, nil to end that.
func newOutage(t *testing.T, change ...func(*kept)) (k *kept, fail func(error)) {
	st := newKeptStore()
	k = newKept(t, append(change, st.in, func(k *kept) { k.CaptureLogin, k.ProjectID = true, "project" })...)
	return k, func(err error) {
		hook := func() error { return err }
		if err == nil {
			hook = nil
		}
		st.set(func(st *keptStore) { st.load, st.before = hook, hook })
	}
}

// post sends a POST without a body for the key of ctx.
func (k *kept) post(ctx context.Context, path string, header http.Header) {
	k.t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, k.BaseURL+path, nil)
	if err != nil {
		k.t.Fatal(err)
	}
	if header != nil {
		req.Header = header
	}
	resp, err := k.RoundTrip(req)
	if err != nil {
		k.t.Fatal(err)
	}
	if _ = resp.Body.Close(); resp.StatusCode/100 != 2 {
		k.t.Fatalf("POST %s: status %d", path, resp.StatusCode)
	}
}

// mark returns a function that demands that no request with a token has reached
// the base transport since.
func (k *kept) mark() (sentNothing func(t *testing.T)) {
	none := "none"
	k.bearer.Store(&none)
	return func(t *testing.T) {
		t.Helper()
		if *k.bearer.Load() != none {
			t.Error("a request went out with a token")
		}
	}
}

func TestStoreOutage(t *testing.T) {
	inBubble(t, "leaves the sessions of 1,024 keys in use", func(t *testing.T) {
		k, fail := newOutage(t)
		sessions := map[string]*walletauth.Session{}
		for i := range 1024 {
			key := fmt.Sprint(i)
			sessions[key] = k.login(key, "user "+key)
			if _, err := k.get(walletauth.WithKey(t.Context(), key)); err != nil {
				t.Fatal(err)
			}
		}
		fail(errDown)
		served := 0
		for key, s := range sessions {
			if _, err := k.get(walletauth.WithKey(t.Context(), key)); err == nil {
				k.wentOutWith(s)
				served++
			}
		}
		if served != 1024 {
			t.Errorf("%d keys were served, want 1024", served)
		}
	})
	inBubble(t, "uses the token that a refresh behind a request has brought", func(t *testing.T) {
		k, fail := newOutage(t)
		k.at(4*time.Minute + 46*time.Second)
		k.works(0)
		synctest.Wait()
		k.sent(1)
		next := k.stored()
		fail(errDown)
		k.at(5*time.Minute + time.Second)
		k.works(0)
		k.wentOutWith(next)
	})
	inBubble(t, "uses the token that KeepAlive has brought", func(t *testing.T) {
		k, fail := newOutage(t)
		k.keepAlive()
		k.at(4*time.Minute + 58*time.Second)
		synctest.Wait()
		k.sent(1)
		next := k.stored()
		fail(errDown)
		k.at(5*time.Minute + time.Second)
		k.works(0)
		k.wentOutWith(next)
	})
	inBubble(t, "uses the token that mended a 401", func(t *testing.T) {
		k, fail := newOutage(t)
		k.srv.RevokeAccess("user")
		k.works(0)
		fail(errDown)
		k.works(0)
		k.sent(1)
	})
	inBubble(t, "uses a login that was captured, not the user before", func(t *testing.T) {
		k, fail := newOutage(t)
		k.works(0)
		k.post(t.Context(), "/users/login-anonymously", nil)
		captured := k.stored()
		fail(errDown)
		k.works(0)
		k.wentOutWith(captured)
	})
	inBubble(t, "uses the session of another user that was seen", func(t *testing.T) {
		k, fail := newOutage(t)
		k.works(0)
		other := k.login("", "other")
		k.works(0)
		fail(errDown)
		k.works(0)
		k.wentOutWith(other)
	})
	for name, logout := range map[string]func(*kept){
		"by a captured logout": func(k *kept) { k.post(k.t.Context(), "/users/logout", nil) },
		"by a captured logout with the caller's own token": func(k *kept) {
			k.post(k.t.Context(), "/users/logout", http.Header{
				"Authorization": {"Bearer " + k.first.AccessToken}, "X-Walletkit-Token-Source": {"walletkit"},
			})
		},
		"by Logout": func(k *kept) {
			if err := k.Logout(k.t.Context()); err != nil {
				k.t.Fatal(err)
			}
		},
		"by another process, as a request has seen": func(k *kept) {
			k.without()
			if err := k.fails(0); !errors.Is(err, walletauth.ErrNoSession) {
				k.t.Fatal(err)
			}
		},
		"by another process, as Session has seen": func(k *kept) {
			k.without()
			if _, err := k.Session(k.t.Context()); !errors.Is(err, walletauth.ErrNoSession) {
				k.t.Fatal(err)
			}
		},
		"by another process, as Status has seen": func(k *kept) {
			k.without()
			if st, err := k.Status(k.t.Context()); err != nil || st.Session != nil {
				k.t.Fatal(st, err)
			}
		},
	} {
		inBubble(t, "brings nobody back who was logged out "+name, func(t *testing.T) {
			k, fail := newOutage(t)
			k.works(0)
			logout(k)
			fail(errDown)
			sentNothing := k.mark()
			for range 3 {
				_ = k.fails(0)
			}
			if s, err := k.Session(t.Context()); err == nil {
				t.Errorf("Session returned %v", s)
			}
			sentNothing(t)
		})
	}
	inBubble(t, "ends the session that ended before it", func(t *testing.T) {
		k, fail := newOutage(t)
		k.srv.RevokeSessions("user")
		_, _ = k.get(t.Context()) // whose 401 says so
		fail(errDown)
		sentNothing := k.mark()
		_ = k.fails(0)
		sentNothing(t)
	})
	inBubble(t, "lends no key the session of another", func(t *testing.T) {
		k, fail := newOutage(t)
		k.login("b", "other")
		k.works(0)
		fail(errDown)
		sentNothing := k.mark()
		if _, err := k.get(walletauth.WithKey(t.Context(), "b")); !errors.Is(err, errDown) {
			t.Errorf("%v, want the store's error", err)
		}
		sentNothing(t)
	})
	inBubble(t, "is a StoreError where no session is at hand", func(t *testing.T) {
		k, fail := newOutage(t)
		fail(errDown)
		wantStoreError(t, k.fails(0), "load", errDown)
		_, err := k.Session(t.Context())
		wantStoreError(t, err, "load", errDown)
	})
	inBubble(t, "is a StoreError once the token has expired", func(t *testing.T) {
		k, fail := newOutage(t)
		k.works(0)
		fail(errDown)
		k.at(5*time.Minute - 1)
		k.works(0)
		k.at(5 * time.Minute)
		err := k.fails(0)
		var failed *walletauth.StoreError
		if !errors.As(err, &failed) || !errors.Is(err, errDown) {
			t.Errorf("%v, want a StoreError", err)
		}
		k.sent(0)
	})
	inBubble(t, "is over as soon as the store answers", func(t *testing.T) {
		k, fail := newOutage(t)
		k.works(0)
		fail(errDown)
		k.works(0)
		other := k.srv.Login("other")
		fail(nil)
		if err := walletauth.Save(t.Context(), k.Store, "", other); err != nil {
			t.Fatal(err)
		}
		k.works(0)
		k.wentOutWith(other)
	})
}

// without deletes the session past the Transport, as another process does.
func (k *kept) without() {
	k.t.Helper()
	if err := walletauth.Delete(k.t.Context(), k.Store, ""); err != nil {
		k.t.Fatal(err)
	}
}

// wantStoreError demands a StoreError of op around cause.
func wantStoreError(t *testing.T, err error, op string, cause error) {
	t.Helper()
	var failed *walletauth.StoreError
	if !errors.As(err, &failed) {
		t.Errorf("%v, want a StoreError", err)
		return
	}
	if failed.Op != op || !errors.Is(failed.Err, cause) || !errors.Is(err, cause) {
		t.Errorf("%v of %q, want %q and %v", err, failed.Op, op, cause)
	}
	if strings.Count(err.Error(), "walletauth: ") != 1 {
		t.Errorf("%v, want the package's name once", err)
	}
}

// What cannot be read may be the login of somebody else.
func TestUnreadableSession(t *testing.T) {
	inBubble(t, "is no outage: nothing that is remembered serves", func(t *testing.T) {
		k, fail := newOutage(t)
		k.works(0)
		fail(fmt.Errorf("open the row: %w", walletauth.ErrUnreadable))
		sentNothing := k.mark()
		if err := k.fails(0); !errors.Is(err, walletauth.ErrUnreadable) {
			t.Errorf("%v, want ErrUnreadable", err)
		}
		if _, err := k.Session(t.Context()); !errors.Is(err, walletauth.ErrUnreadable) {
			t.Errorf("Session: %v, want ErrUnreadable", err)
		}
		sentNothing(t)
		fail(nil)
		k.works(0)
	})
	for name, err := range map[string]error{"is not \"log in\"": walletauth.ErrNoSession, "is not the end of the session": walletauth.ErrSessionExpired} {
		inBubble(t, name, func(t *testing.T) {
			k, fail := newOutage(t)
			fail(walletauth.ErrUnreadable)
			if got := k.fails(0); errors.Is(got, err) {
				t.Errorf("%v wraps %v", got, err)
			}
		})
	}
	inBubble(t, "gives way to a captured login", func(t *testing.T) {
		row := newUnreadableRow()
		k := newKept(t, func(k *kept) { k.Store, k.CaptureLogin, k.ProjectID = row.store(), true, "project" })
		row.spoil()
		k.post(t.Context(), "/users/login-anonymously", nil)
		k.works(0)
		k.wentOutWith(k.stored())
	})
	inBubble(t, "gives way to Logout", func(t *testing.T) {
		row := newUnreadableRow()
		k := newKept(t, func(k *kept) { k.Store = row.store() })
		row.spoil()
		if err := k.Logout(t.Context()); err != nil {
			t.Error(err)
		}
		if err := k.fails(0); !errors.Is(err, walletauth.ErrNoSession) {
			t.Errorf("%v, want ErrNoSession", err)
		}
	})
	t.Run("is what a codec says of data that it cannot read", func(t *testing.T) {
		sealed, err := walletauth.NewSealedCodec([]byte("0123456789abcdef0123456789abcdef"))
		if err != nil {
			t.Fatal(err)
		}
		another, err := walletauth.NewSealedCodec([]byte("another key, of thirty-two bytes"))
		if err != nil {
			t.Fatal(err)
		}
		s := secretSession()
		s.RefreshToken = "refresh"
		foreign, err := another.Encode("key", &s)
		if err != nil {
			t.Fatal(err)
		}
		for name, codec := range map[string]walletauth.Codec{"JSON": walletauth.JSONCodec{}, "sealed": sealed} {
			for _, data := range [][]byte{nil, []byte("{}"), []byte("no JSON"), foreign} {
				if _, err := codec.Decode("key", data); !errors.Is(err, walletauth.ErrUnreadable) {
					t.Errorf("%s: %v, want ErrUnreadable", name, err)
				}
			}
		}
	})
}

// unreadableRow is a program's table of one row, which may be damaged.
type unreadableRow struct {
	table
	damaged atomic.Bool
	loads   atomic.Int32
}

func newUnreadableRow() *unreadableRow { return &unreadableRow{} }

func (r *unreadableRow) spoil() { r.damaged.Store(true) }

func (r *unreadableRow) store() *walletauth.FuncStore {
	return &walletauth.FuncStore{
		LoadFunc: func(ctx context.Context, key string) (*walletauth.Session, error) {
			r.loads.Add(1)
			if r.damaged.Load() {
				return nil, fmt.Errorf("row of %q: %w", key, walletauth.ErrUnreadable)
			}
			return r.get(ctx, key)
		},
		SaveFunc: func(ctx context.Context, key string, s *walletauth.Session) error {
			r.damaged.Store(false)
			return r.set(ctx, key, s)
		},
	}
}

// A Load that began before a logout or a login may end after it.
func TestLoadOfAnOlderSession(t *testing.T) {
	for name, change := range map[string]func(k *kept){
		"is not remembered past a captured logout": func(k *kept) { k.post(k.t.Context(), "/users/logout", nil) },
		"is not remembered past Logout":            func(k *kept) { _ = k.Logout(k.t.Context()) },
		"is not remembered past a captured login": func(k *kept) {
			k.post(k.t.Context(), "/users/login-anonymously", nil)
		},
	} {
		inBubble(t, name, func(t *testing.T) {
			var tb table
			var slow, down atomic.Bool
			load := func(ctx context.Context, key string) (*walletauth.Session, error) {
				if down.Load() {
					return nil, errDown
				}
				s, err := tb.get(ctx, key)
				if slow.CompareAndSwap(true, false) {
					time.Sleep(time.Second)
				}
				return s, err
			}
			k := newKept(t, func(k *kept) {
				k.Store = &walletauth.FuncStore{LoadFunc: load, SaveFunc: tb.set}
				k.CaptureLogin, k.ProjectID = true, "project"
			})
			k.works(0)
			slow.Store(true)
			late := make(chan error)
			go func() { _, err := k.get(t.Context()); late <- err }()
			synctest.Wait() // in Load, with the session of user
			change(k)
			<-late // whatever became of it
			now, _ := tb.get(t.Context(), "")
			down.Store(true)
			sentNothing := k.mark()
			_, err := k.get(t.Context())
			switch {
			case now != nil && err == nil:
				k.wentOutWith(now)
			case now == nil && err == nil:
				t.Error("a request went out as the user who logged out")
			case now == nil:
				sentNothing(t)
			default:
				t.Error(err)
			}
		})
	}
}

// A server may keep the refresh token. What it did before a success does not
// lengthen the pause after the next failure.
func TestASuccessEndsTheRowOfFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &walletauth.MemoryStore{}
		if err := walletauth.Save(t.Context(), store, "", freshSession()); err != nil {
			t.Fatal(err)
		}
		fails := true
		tr := &walletauth.Transport{
			Store: store, BaseURL: "https://walletkit.test",
			Base: roundTripFunc(func(*http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
			}),
			Refresher: refreshFunc(func(_ context.Context, s *walletauth.Session) (*walletauth.Session, error) {
				if fails {
					return nil, &walletauth.RefreshError{StatusCode: http.StatusNotFound}
				}
				next := *s
				next.AccessToken += "'"
				next.AccessTokenExpiresAt = time.Now().Add(20 * time.Second)
				return &next, nil
			}),
		}
		pause := func() time.Duration {
			t.Helper()
			if _, err := tr.Session(t.Context()); err == nil {
				t.Fatal("refreshed")
			}
			status, err := tr.Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return time.Until(status.RetryAt)
		}
		time.Sleep(5 * time.Minute)
		for range 4 {
			time.Sleep(pause())
		}
		if d := pause(); d < 14*time.Second || d > 16*time.Second {
			t.Fatalf("after five failures in a row it pauses for %v, want about 16 s", d)
		}
		fails = false
		time.Sleep(20 * time.Second)
		if _, err := tr.Session(t.Context()); err != nil {
			t.Fatal(err)
		}
		fails = true
		time.Sleep(20 * time.Second) // within the minute in which a cool-down counts on
		if d := pause(); d > time.Second {
			t.Errorf("after a success and one failure it pauses for %v, want a second at most", d)
		}
	})
}
