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

	"github.com/google/go-cmp/cmp"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

func TestLogout(t *testing.T) {
	inBubble(t, "forgets the session first, then tells WalletKit", func(t *testing.T) {
		k := newKept(t)
		k.works(0)
		told := 0
		k.srv.Fail(walletauthtest.Logout, 1, walletauthtest.Fault{Do: func(*http.Request) {
			told++
			if s, err := k.Store.Load(context.Background(), ""); !errors.Is(err, walletauth.ErrNoSession) {
				t.Errorf("the store still holds %v", s)
			}
		}})
		if err := k.Logout(t.Context()); err != nil {
			t.Error(err)
		}
		k.wentOutWith(k.first)
		if told != 1 || k.srv.Stats().Logouts != 1 || len(k.srv.Sessions("user")) != 0 {
			t.Error("WalletKit was not told")
		}
		if err := k.fails(0); !errors.Is(err, walletauth.ErrNoSession) {
			t.Errorf("%v, want ErrNoSession", err)
		}
	})
	for name, c := range map[string]struct {
		fault walletauthtest.Fault
		took  time.Duration
	}{
		"does not answer":      {walletauthtest.Fault{Delay: time.Minute}, 5 * time.Second},
		"fails":                {walletauthtest.Fault{Status: 503}, 0},
		"drops the connection": {walletauthtest.Fault{Drop: true}, 0},
	} {
		inBubble(t, "waits 5 s for WalletKit and forgets the session all the same where it "+name, func(t *testing.T) {
			k := newKept(t)
			k.srv.Fail(walletauthtest.Logout, -1, c.fault)
			start := time.Now()
			err := k.Logout(t.Context())
			if took := time.Since(start); err == nil || took != c.took {
				t.Errorf("after %s: %v, want an error after %s", took, err, c.took)
			}
			wantNoToken(t, "the error", fmt.Sprintf("%v %#v", err, err), k.first)
			if err := k.fails(0); !errors.Is(err, walletauth.ErrNoSession) {
				t.Errorf("%v, want ErrNoSession", err)
			}
		})
	}
	inBubble(t, "refreshes nothing, be the token expired or refused", func(t *testing.T) {
		for _, revoke := range []bool{true, false} {
			k := newKept(t)
			if revoke {
				k.srv.RevokeAccess("user")
			} else {
				k.at(6 * time.Minute)
			}
			_ = k.Logout(t.Context())
			k.sent(0)
			if err := k.fails(0); !errors.Is(err, walletauth.ErrNoSession) {
				t.Errorf("%v, want ErrNoSession", err)
			}
			k.stop()
		}
	})
	for name, age := range map[string]time.Duration{"behind a request": 4*time.Minute + 46*time.Second, "that a request waits for": 5 * time.Minute} {
		inBubble(t, "counts at once during a refresh "+name+", which is not stored and whose token tells WalletKit", func(t *testing.T) {
			k := newKeptBy(t, walletauthtest.Config{TB: t, OneAccessToken: true})
			k.srv.FailRefresh(1, walletauthtest.Fault{After: true, Delay: 2 * time.Second})
			k.at(age)
			waited := make(chan error, 1)
			go func() { _, err := k.get(t.Context()); waited <- err }()
			synctest.Wait()
			k.sent(1)
			done := make(chan error, 1)
			go func() { done <- k.Logout(t.Context()) }()
			synctest.Wait()
			if err := k.fails(0); !errors.Is(err, walletauth.ErrNoSession) {
				t.Errorf("a request during the logout: %v, want ErrNoSession", err)
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
			<-waited
			time.Sleep(10 * time.Second)
			if s, err := k.Store.Load(t.Context(), ""); !errors.Is(err, walletauth.ErrNoSession) {
				t.Errorf("the store holds %v", s)
			}
			if n := k.srv.Stats().Logouts; n != 1 {
				t.Errorf("WalletKit was told %d times, want once", n)
			}
			if err := k.fails(0); !errors.Is(err, walletauth.ErrNoSession) {
				t.Errorf("%v, want ErrNoSession", err)
			}
			k.shutdown()
		})
	}
	inBubble(t, "counts at once where the store does not take it, and is stored later", func(t *testing.T) {
		k, _, works := newUnsaving(t)
		_ = k.Logout(t.Context())
		if err := k.fails(0); !errors.Is(err, walletauth.ErrNoSession) {
			t.Errorf("%v, want ErrNoSession", err)
		}
		if n := k.srv.Stats().Logouts; n != 1 {
			t.Errorf("WalletKit was told %d times, want once", n)
		}
		works()
		time.Sleep(time.Minute)
		if s, err := k.Store.Load(t.Context(), ""); !errors.Is(err, walletauth.ErrNoSession) {
			t.Errorf("the store holds %v", s)
		}
	})
	inBubble(t, "ends a session that could not be stored", func(t *testing.T) {
		k, _, works := newUnsaving(t)
		k.at(5 * time.Minute)
		k.works(0)
		now := k.srv.Sessions("user")[0]
		works()
		if err := k.Logout(t.Context()); err != nil {
			t.Error(err)
		}
		k.wentOutWith(now)
		time.Sleep(time.Minute)
		if s, err := k.Store.Load(t.Context(), ""); !errors.Is(err, walletauth.ErrNoSession) {
			t.Errorf("the store holds %v", s)
		}
	})
	inBubble(t, "leaves a login that comes while WalletKit is told", func(t *testing.T) {
		k := newKept(t)
		login := k.srv.Login("user")
		k.srv.Fail(walletauthtest.Logout, 1, walletauthtest.Fault{After: true, Do: func(*http.Request) {
			if err := walletauth.Save(context.Background(), k.Store, "", login); err != nil {
				t.Error(err)
			}
		}})
		if err := k.Logout(t.Context()); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		k.works(0)
		k.wentOutWith(login)
	})
	inBubble(t, "of nobody is no error and tells nobody", func(t *testing.T) {
		k := newKept(t)
		if err := k.Logout(walletauth.WithKey(t.Context(), "nobody")); err != nil {
			t.Error(err)
		}
		if n := k.srv.Stats().Requests; n != 0 {
			t.Errorf("%d requests, want none", n)
		}
		k.works(0)
	})
	inBubble(t, "twice is no error", func(t *testing.T) {
		k := newKept(t)
		for range 2 {
			if err := k.Logout(t.Context()); err != nil {
				t.Error(err)
			}
		}
		if n := k.srv.Stats().Logouts; n != 1 {
			t.Errorf("WalletKit was told %d times, want once", n)
		}
	})
	inBubble(t, "ends KeepAlive", func(t *testing.T) {
		k := newKept(t)
		alive := k.keepAlive()
		time.Sleep(time.Minute)
		if err := k.Logout(t.Context()); err != nil {
			t.Error(err)
		}
		if err := k.returns(alive, 5*time.Minute); !errors.Is(err, walletauth.ErrNoSession) {
			t.Errorf("%v, want ErrNoSession", err)
		}
	})
}

// outsideHTTP are the calls that concern the session of a context.
var outsideHTTP = map[string]func(tr *walletauth.Transport, ctx context.Context, s *walletauth.Session) error{
	"Session": func(tr *walletauth.Transport, ctx context.Context, _ *walletauth.Session) error {
		_, err := tr.Session(ctx)
		return err
	},
	"Status": func(tr *walletauth.Transport, ctx context.Context, _ *walletauth.Session) error {
		_, err := tr.Status(ctx)
		return err
	},
	"Renew": func(tr *walletauth.Transport, ctx context.Context, s *walletauth.Session) error {
		_, err := tr.Renew(ctx, s)
		return err
	},
	"Logout": func(tr *walletauth.Transport, ctx context.Context, _ *walletauth.Session) error {
		return tr.Logout(ctx)
	},
}

func TestKeyOfAContext(t *testing.T) {
	for name, call := range outsideHTTP {
		inBubble(t, "is what Key says of a GET for BaseURL with it: "+name, func(t *testing.T) {
			w := newWire(t, walletauthtest.Config{})
			b := w.login(t, "b", "user-b")
			asked := 0
			w.transport.Key = func(req *http.Request) string {
				asked++
				if req.Method != "GET" || !strings.HasPrefix(req.URL.String(), w.URL) {
					t.Errorf("Key got %s %s, want a GET for BaseURL", req.Method, req.URL)
				}
				return req.Context().Value(keptTrace{}).(string)
			}
			if err := call(w.transport, context.WithValue(t.Context(), keptTrace{}, "b"), b); err != nil {
				t.Error(err)
			}
			if asked == 0 {
				t.Error("Key was not called")
			}
			if s := w.stored(t, ""); s == nil || *s != *w.session {
				t.Errorf("the other key holds %v", s)
			}
		})
		t.Run("is of no use to a bad configuration: "+name, func(t *testing.T) {
			for what, bad := range badTransports {
				tr := &walletauth.Transport{Store: &walletauth.MemoryStore{}}
				bad.spoil(tr)
				wantErrorWords(t, what, call(tr, t.Context(), &walletauth.Session{}), append(bad.words, "walletauth: "))
			}
		})
		inBubble(t, "is of no use after Shutdown: "+name, func(t *testing.T) {
			k := newKept(t)
			k.shutdown()
			if err := call(k.Transport, t.Context(), k.first); err == nil || !strings.Contains(err.Error(), "shut down") {
				t.Errorf("%v, want that it was shut down", err)
			}
		})
	}
}

func TestRenew(t *testing.T) {
	inBubble(t, "of nil is an error", func(t *testing.T) {
		k := newKept(t)
		if s, err := k.Renew(t.Context(), nil); s != nil || err == nil {
			t.Errorf("session %v, %v", s, err)
		}
		k.sent(0)
	})
	inBubble(t, "refreshes the session that was refused, once for all that ask", func(t *testing.T) {
		k := newKept(t)
		k.srv.FailRefresh(1, walletauthtest.Fault{Delay: time.Second})
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				s, err := k.Renew(t.Context(), k.first)
				if err != nil || s.AccessToken == k.first.AccessToken {
					t.Errorf("session %v, %v", s, err)
				}
			})
		}
		all.Wait()
		k.sent(1)
		k.isLatest(k.stored())
	})
	inBubble(t, "shares the refresh with requests that met a 401", func(t *testing.T) {
		k := newKept(t)
		k.srv.RevokeAccess("user")
		k.srv.FailRefresh(1, walletauthtest.Fault{Delay: time.Second})
		var all sync.WaitGroup
		all.Go(func() { k.works(time.Second) })
		all.Go(func() {
			if _, err := k.Renew(t.Context(), k.first); err != nil {
				t.Error(err)
			}
		})
		all.Wait()
		k.sent(1)
	})
	inBubble(t, "returns the session that has replaced it without a refresh", func(t *testing.T) {
		k := newKept(t)
		now := k.login("", "user")
		s, err := k.Renew(t.Context(), k.first)
		if err != nil || s.AccessToken != now.AccessToken {
			t.Errorf("session %v, %v", s, err)
		}
		k.sent(0)
	})
	inBubble(t, "returns a copy", func(t *testing.T) {
		k := newKept(t)
		s, err := k.Renew(t.Context(), k.first)
		if err != nil {
			t.Fatal(err)
		}
		s.AccessToken = "changed by the caller"
		k.works(0)
	})
	inBubble(t, "does not return a replacement that has expired", func(t *testing.T) {
		k := newKept(t)
		k.at(5 * time.Minute)
		k.works(0)
		time.Sleep(6 * time.Minute)
		s, err := k.Renew(t.Context(), k.first)
		if err != nil || !s.Valid(time.Now()) {
			t.Errorf("session %v, %v", s, err)
		}
		k.sent(2)
	})
	inBubble(t, "without a session is ErrNoSession", func(t *testing.T) {
		k := newKept(t)
		if _, err := k.Renew(walletauth.WithKey(t.Context(), "nobody"), k.first); !errors.Is(err, walletauth.ErrNoSession) {
			t.Errorf("%v, want ErrNoSession", err)
		}
	})
	inBubble(t, "of a session that is over is ErrSessionExpired, asked once", func(t *testing.T) {
		k := newKept(t)
		k.srv.RevokeSessions("user")
		for range 3 {
			if _, err := k.Renew(t.Context(), k.first); !errors.Is(err, walletauth.ErrSessionExpired) {
				t.Errorf("%v, want ErrSessionExpired", err)
			}
		}
		k.sent(1)
	})
	inBubble(t, "leaves with its context", func(t *testing.T) {
		k := newKept(t)
		k.srv.FailRefresh(1, walletauthtest.Fault{Delay: 3 * time.Second})
		start := time.Now()
		_, err := k.Renew(timeout(t, time.Second), k.first)
		if took := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || took != time.Second {
			t.Errorf("after %s: %v", took, err)
		}
		k.shutdown()
		k.isLatest(k.stored())
	})
}

func (k *kept) status() walletauth.Status {
	k.t.Helper()
	st, err := k.Status(k.t.Context())
	if err != nil {
		k.t.Fatal(err)
	}
	return st
}

func TestStatus(t *testing.T) {
	inBubble(t, "of a session needs no network and no refresh", func(t *testing.T) {
		k := newKept(t)
		for _, age := range []time.Duration{0, 4*time.Minute + 50*time.Second, 6 * time.Minute} {
			k.at(age)
			st := k.status()
			if st.Session == nil || *st.Session != *k.first {
				t.Errorf("session %v", st.Session)
			}
			if st.Session = nil; st != (walletauth.Status{}) {
				t.Errorf("status %+v, want the session alone", st)
			}
		}
		synctest.Wait()
		if n := k.srv.Stats().Requests; n != 0 {
			t.Errorf("%d requests, want none", n)
		}
	})
	inBubble(t, "of nobody is zero", func(t *testing.T) {
		k := newKept(t)
		if st, err := k.Status(walletauth.WithKey(t.Context(), "nobody")); err != nil || st != (walletauth.Status{}) {
			t.Errorf("status %+v, %v", st, err)
		}
	})
	inBubble(t, "holds a copy of the session", func(t *testing.T) {
		k := newKept(t)
		k.status().Session.AccessToken = "changed by the caller"
		k.works(0)
	})
	inBubble(t, "prints no token", func(t *testing.T) {
		k := newKept(t)
		st := k.status()
		wantNoToken(t, "the status", fmt.Sprintf("%v %+v %#v %v", st, st, st, &st), k.first)
	})
	inBubble(t, "says that the session is over, until the next login", func(t *testing.T) {
		k := newKept(t)
		k.srv.RevokeSessions("user")
		k.at(5 * time.Minute)
		_, _ = k.get(t.Context())
		st := k.status()
		if !errors.Is(st.Over, walletauth.ErrSessionExpired) || !errors.Is(st.LastError, walletauth.ErrSessionExpired) || st.Session == nil {
			t.Errorf("status %+v", st)
		}
		k.login("", "user")
		if st := k.status(); st.Over != nil {
			t.Errorf("after a login: %v", st.Over)
		}
	})
	inBubble(t, "says why the last refresh failed and when the next may be tried", func(t *testing.T) {
		k := newKept(t)
		k.at(5 * time.Minute)
		k.srv.FailRefresh(1, walletauthtest.Fault{Status: 404})
		err := k.fails(0)
		st := k.status()
		if st.LastError == nil || st.LastError.Error() != err.Error() || st.Over != nil {
			t.Errorf("status %+v, want %v", st, err)
		}
		if wait := time.Until(st.RetryAt); wait < 800*time.Millisecond || wait > 1200*time.Millisecond {
			t.Errorf("to be tried again in %s, want a second", wait)
		}
		time.Sleep(10 * time.Second)
		if st = k.status(); !st.RetryAt.IsZero() {
			t.Errorf("to be tried again at %s, want now", st.RetryAt)
		}
		if st.LastError == nil {
			t.Error("the last error is forgotten before the next success")
		}
		k.works(0)
		if st = k.status(); st.LastError != nil || !st.RetryAt.IsZero() || st.Session.AccessToken == k.first.AccessToken {
			t.Errorf("after a success: %+v", st)
		}
	})
	inBubble(t, "says when Retry-After ends", func(t *testing.T) {
		k := newKept(t)
		k.at(5 * time.Minute)
		k.srv.FailRefresh(1, walletauthtest.Fault{Status: 503, Header: after("600")})
		_ = k.fails(0)
		if wait := time.Until(k.status().RetryAt); wait < 10*time.Minute || wait > 12*time.Minute {
			t.Errorf("to be tried again in %s, want ten minutes and up to a fifth", wait)
		}
	})
	inBubble(t, "says that the store has not taken the session yet", func(t *testing.T) {
		k, _, works := newUnsaving(t)
		k.at(5 * time.Minute)
		k.works(0)
		st := k.status()
		if !st.Unsaved || !errors.Is(st.LastError, errFull) || st.Session == nil || st.Session.AccessToken == k.first.AccessToken {
			t.Errorf("status %+v", st)
		}
		works()
		time.Sleep(time.Minute)
		if st := k.status(); st.Unsaved || st.LastError != nil {
			t.Errorf("once it is stored: %+v", st)
		}
	})
	inBubble(t, "of a session that cannot be read is the store's error", func(t *testing.T) {
		k, fail := newOutage(t)
		fail(errDown)
		_, err := k.Status(t.Context())
		wantStoreError(t, err, "load", errDown)
	})
}

func TestSaveIfAbsent(t *testing.T) {
	t.Run("stores a copy where there is none", func(t *testing.T) {
		var st walletauth.MemoryStore
		s := storedLogin()
		if stored, err := walletauth.SaveIfAbsent(t.Context(), &st, "key", s); !stored || err != nil {
			t.Errorf("stored: %t, %v", stored, err)
		}
		s.AccessToken = "changed by the caller"
		got, err := st.Load(t.Context(), "key")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(storedLogin(), got); diff != "" {
			t.Errorf("stored (-want +got):\n%s", diff)
		}
	})
	t.Run("leaves what is there", func(t *testing.T) {
		var st walletauth.MemoryStore
		first, second := storedLogin(), storedLogin()
		second.ID, second.AccessToken = "another", "another"
		if err := walletauth.Save(t.Context(), &st, "", first); err != nil {
			t.Fatal(err)
		}
		for _, s := range []*walletauth.Session{first, second} {
			if stored, err := walletauth.SaveIfAbsent(t.Context(), &st, "", s); stored || err != nil {
				t.Errorf("stored: %t, %v", stored, err)
			}
		}
		if got, _ := st.Load(t.Context(), ""); got.ID != first.ID {
			t.Errorf("the store holds %v", got)
		}
	})
	t.Run("lets one of a hundred store", func(t *testing.T) {
		var st walletauth.MemoryStore
		var n atomic.Int32
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				stored, err := walletauth.SaveIfAbsent(t.Context(), &st, "", storedLogin())
				if err != nil {
					t.Error(err)
				}
				if stored {
					n.Add(1)
				}
			})
		}
		all.Wait()
		if n.Load() != 1 {
			t.Errorf("%d stored, want 1", n.Load())
		}
	})
	t.Run("says what became of it where the store calls its function twice", func(t *testing.T) {
		for what, between := range map[string]*walletauth.Session{"a login came between": storedLogin(), "nothing came between": nil} {
			st := &retryingStore{TokenStore: &walletauth.MemoryStore{}, between: func(*walletauth.Session) *walletauth.Session { return between }}
			s := storedLogin()
			s.ID = "moved in"
			stored, err := walletauth.SaveIfAbsent(t.Context(), st, "", s)
			if err != nil || stored != (between == nil) {
				t.Errorf("%s: stored: %t, %v", what, stored, err)
			}
		}
	})
	t.Run("counts what cannot be read as there", func(t *testing.T) {
		row := newUnreadableRow()
		row.spoil()
		stored, err := walletauth.SaveIfAbsent(t.Context(), row.store(), "", storedLogin())
		if stored || !errors.Is(err, walletauth.ErrUnreadable) || !row.damaged.Load() {
			t.Errorf("stored: %t, %v", stored, err)
		}
	})
	t.Run("refuses an incomplete session and a nil store", func(t *testing.T) {
		var st walletauth.MemoryStore
		half := storedLogin()
		half.RefreshToken = ""
		for _, s := range []*walletauth.Session{nil, half} {
			if stored, err := walletauth.SaveIfAbsent(t.Context(), &st, "", s); stored || err == nil {
				t.Errorf("stored: %t, %v", stored, err)
			}
		}
		if stored, err := walletauth.SaveIfAbsent(t.Context(), nil, "", storedLogin()); stored || err == nil {
			t.Errorf("stored: %t, %v", stored, err)
		}
	})
	t.Run("says that a store failed", func(t *testing.T) {
		st := newKeptStore()
		st.set(func(st *keptStore) { st.after = func(*walletauth.Session) error { return errFull } })
		if stored, err := walletauth.SaveIfAbsent(t.Context(), st, "", storedLogin()); stored || !errors.Is(err, errFull) {
			t.Errorf("stored: %t, %v", stored, err)
		}
	})
}

func TestStoreError(t *testing.T) {
	calls := map[string]func(ctx context.Context, st walletauth.TokenStore) error{
		"Save": func(ctx context.Context, st walletauth.TokenStore) error {
			return walletauth.Save(ctx, st, "", storedLogin())
		},
		"Delete": func(ctx context.Context, st walletauth.TokenStore) error { return walletauth.Delete(ctx, st, "") },
		"SaveIfAbsent": func(ctx context.Context, st walletauth.TokenStore) error {
			_, err := walletauth.SaveIfAbsent(ctx, st, "", storedLogin())
			return err
		},
	}
	for name, call := range calls {
		t.Run("is what "+name+" returns of a store that fails", func(t *testing.T) {
			st := newKeptStore()
			st.set(func(st *keptStore) { st.before = func() error { return errDown } })
			wantStoreError(t, call(t.Context(), st), "update", errDown)
		})
		t.Run("is not what "+name+" returns of its context", func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			err := call(ctx, &walletauth.MemoryStore{})
			var failed *walletauth.StoreError
			if !errors.Is(err, context.Canceled) || errors.As(err, &failed) {
				t.Errorf("%v, want the context's error alone", err)
			}
		})
	}
	inBubble(t, "says where no exclusion was to be had", func(t *testing.T) {
		st := newKeptStore()
		k := newKept(t, st.in)
		st.set(func(st *keptStore) { st.before = func() error { return errDown } })
		k.at(5 * time.Minute)
		wantStoreError(t, k.fails(0), "exclusion", errDown)
		_, err := k.Session(t.Context())
		wantStoreError(t, err, "exclusion", errDown)
		_, err = k.Renew(t.Context(), k.first)
		wantStoreError(t, err, "exclusion", errDown)
		k.sent(0)
	})
	inBubble(t, "says that Shutdown could not store", func(t *testing.T) {
		k, _, works := newUnsaving(t)
		k.at(5 * time.Minute)
		k.works(0)
		wantStoreError(t, k.Shutdown(timeout(t, time.Second)), "update", errFull)
		works()
	})
	inBubble(t, "is what the event of a failed save has", func(t *testing.T) {
		k, _, works := newUnsaving(t)
		k.at(5 * time.Minute)
		k.works(0)
		for _, e := range k.events.all() {
			if e.Type == walletauth.SaveFailed {
				wantStoreError(t, e.Err, "update", errFull)
			}
		}
		works()
	})
	inBubble(t, "is not ErrNoSession", func(t *testing.T) {
		k := newKept(t)
		_, err := k.Session(walletauth.WithKey(t.Context(), "nobody"))
		var failed *walletauth.StoreError
		if !errors.Is(err, walletauth.ErrNoSession) || errors.As(err, &failed) {
			t.Errorf("%v, want ErrNoSession alone", err)
		}
	})
	inBubble(t, "is not the refresh's own error", func(t *testing.T) {
		k := newKept(t)
		k.at(5 * time.Minute)
		k.srv.FailRefresh(1, walletauthtest.Fault{Status: 404})
		var failed *walletauth.StoreError
		if err := k.fails(0); errors.As(err, &failed) {
			t.Errorf("%v is a StoreError", err)
		}
	})
	inBubble(t, "holds no token", func(t *testing.T) {
		k := newKept(t)
		k.Store = &walletauth.FuncStore{
			LoadFunc: func(context.Context, string) (*walletauth.Session, error) { return k.first, nil },
			SaveFunc: func(_ context.Context, _ string, s *walletauth.Session) error {
				return fmt.Errorf("cannot store %s", s.AccessToken)
			},
		}
		err := walletauth.Save(t.Context(), k.Store, "", k.first)
		for e := err; e != nil; e = errors.Unwrap(e) {
			wantNoToken(t, "the error", fmt.Sprintf("%v %+v %#v", e, e, e), k.first)
		}
		var failed *walletauth.StoreError
		if !errors.As(err, &failed) {
			t.Errorf("%v, want a StoreError", err)
		}
	})
}

// replacer counts how it is called, and fails Update with err.
type replacer struct {
	walletauth.MemoryStore
	err               error
	updates, replaces int
}

func (r *replacer) Update(ctx context.Context, key string, fn func(context.Context, *walletauth.Session) (*walletauth.Session, error)) error {
	if r.updates++; r.err != nil {
		return r.err
	}
	return r.MemoryStore.Update(ctx, key, fn)
}

func (r *replacer) Replace(ctx context.Context, key string, s *walletauth.Session) error {
	r.replaces++
	return r.MemoryStore.Replace(ctx, key, s)
}

// wrapper is a store around another that has Replace, which it promotes.
type wrapper struct {
	*walletauth.MemoryStore
	seen []*walletauth.Session
}

func (w *wrapper) Update(ctx context.Context, key string, fn func(context.Context, *walletauth.Session) (*walletauth.Session, error)) error {
	return w.MemoryStore.Update(ctx, key, func(ctx context.Context, s *walletauth.Session) (*walletauth.Session, error) {
		next, err := fn(ctx, s)
		w.seen = append(w.seen, next)
		return next, err
	})
}

func TestReplacer(t *testing.T) {
	save := func(t *testing.T, st walletauth.TokenStore) error {
		return walletauth.Save(t.Context(), st, "", storedLogin())
	}
	remove := func(t *testing.T, st walletauth.TokenStore) error { return walletauth.Delete(t.Context(), st, "") }
	for name, call := range map[string]func(*testing.T, walletauth.TokenStore) error{"Save": save, "Delete": remove} {
		t.Run(name+" replaces what cannot be read, after Update", func(t *testing.T) {
			r := &replacer{err: fmt.Errorf("row: %w", walletauth.ErrUnreadable)}
			if err := call(t, r); err != nil || r.updates != 1 || r.replaces != 1 {
				t.Errorf("%v, %d updates and %d replaces, want one each", err, r.updates, r.replaces)
			}
		})
		t.Run(name+" uses Update alone where that works", func(t *testing.T) {
			r := &replacer{}
			if err := call(t, r); err != nil || r.updates != 1 || r.replaces != 0 {
				t.Errorf("%v, %d updates and %d replaces, want one and none", err, r.updates, r.replaces)
			}
		})
		t.Run(name+" does not replace after another error", func(t *testing.T) {
			r := &replacer{err: errDown}
			if err := call(t, r); !errors.Is(err, errDown) || r.replaces != 0 {
				t.Errorf("%v, %d replaces", err, r.replaces)
			}
		})
		t.Run(name+" goes through a store that wraps another", func(t *testing.T) {
			w := &wrapper{MemoryStore: &walletauth.MemoryStore{}}
			if err := call(t, w); err != nil || len(w.seen) != 1 {
				t.Errorf("%v, the wrapper saw %d changes, want 1", err, len(w.seen))
			}
		})
		t.Run(name+" of a store without it says that the session cannot be read", func(t *testing.T) {
			st := newKeptStore()
			st.set(func(st *keptStore) { st.before = func() error { return walletauth.ErrUnreadable } })
			if err := call(t, st); !errors.Is(err, walletauth.ErrUnreadable) {
				t.Errorf("%v, want ErrUnreadable", err)
			}
		})
		t.Run(name+" goes through a FuncStore whose row cannot be read", func(t *testing.T) {
			row := newUnreadableRow()
			row.spoil()
			if err := call(t, row.store()); err != nil || row.damaged.Load() {
				t.Errorf("%v", err)
			}
		})
	}
	for name, st := range map[string]walletauth.TokenStore{
		"MemoryStore": &walletauth.MemoryStore{}, "FuncStore": newUnreadableRow().store(),
	} {
		inBubble(t, name+" replaces under the exclusion of Update", func(t *testing.T) {
			held := make(chan struct{})
			go func() {
				_ = st.Update(context.Background(), "key", func(_ context.Context, s *walletauth.Session) (*walletauth.Session, error) {
					close(held)
					time.Sleep(time.Second)
					return s, nil
				})
			}()
			<-held
			start := time.Now()
			if err := st.(walletauth.Replacer).Replace(timeout(t, 100*time.Millisecond), "key", storedLogin()); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v, want that the wait ended", err)
			}
			if err := st.(walletauth.Replacer).Replace(t.Context(), "key", storedLogin()); err != nil || time.Since(start) != time.Second {
				t.Errorf("%v after %s, want after the Update", err, time.Since(start))
			}
			if s, err := st.Load(t.Context(), "key"); err != nil || s.ID != "sid" {
				t.Errorf("stored %v, %v", s, err)
			}
			if err := st.(walletauth.Replacer).Replace(t.Context(), "key", nil); err != nil {
				t.Error(err)
			}
			if _, err := st.Load(t.Context(), "key"); !errors.Is(err, walletauth.ErrNoSession) {
				t.Errorf("%v, want ErrNoSession", err)
			}
		})
	}
}

func TestValid(t *testing.T) {
	s := storedLogin()
	expiry := s.AccessTokenExpiresAt
	for name, c := range map[string]struct {
		change func(*walletauth.Session)
		now    time.Time
		want   bool
	}{
		"well before its expiry":                  {nil, s.CreatedAt, true},
		"just before its expiry":                  {nil, expiry.Add(-1), true},
		"not at its expiry":                       {nil, expiry, false},
		"not after its expiry":                    {nil, expiry.Add(time.Hour), false},
		"by another zone's time":                  {nil, expiry.Add(-1).In(time.FixedZone("", 3600)), true},
		"not without an id":                       {func(s *walletauth.Session) { s.ID = "" }, s.CreatedAt, false},
		"not without created_at":                  {func(s *walletauth.Session) { s.CreatedAt = time.Time{} }, s.CreatedAt, false},
		"not without a project":                   {func(s *walletauth.Session) { s.ProjectID = "" }, s.CreatedAt, false},
		"not without a user":                      {func(s *walletauth.Session) { s.UserID = "" }, s.CreatedAt, false},
		"not without a token":                     {func(s *walletauth.Session) { s.AccessToken = "" }, s.CreatedAt, false},
		"not without an expiry":                   {func(s *walletauth.Session) { s.AccessTokenExpiresAt = time.Time{} }, s.CreatedAt, false},
		"not without refresh token":               {func(s *walletauth.Session) { s.RefreshToken = "" }, s.CreatedAt, false},
		"not without its expiry":                  {func(s *walletauth.Session) { s.RefreshTokenExpiresAt = time.Time{} }, s.CreatedAt, false},
		"not with a token of two lines":           {func(s *walletauth.Session) { s.AccessToken = "a\nb" }, s.CreatedAt, false},
		"also when the refresh token has expired": {func(s *walletauth.Session) { s.RefreshTokenExpiresAt = s.CreatedAt }, s.CreatedAt.Add(1), true},
	} {
		t.Run(name, func(t *testing.T) {
			own := *s
			if c.change != nil {
				c.change(&own)
			}
			if got := own.Valid(c.now); got != c.want {
				t.Errorf("valid: %t, want %t", got, c.want)
			}
		})
	}
	t.Run("not if there is none", func(t *testing.T) {
		if (*walletauth.Session)(nil).Valid(time.Now()) {
			t.Error("nil is valid")
		}
	})
}
