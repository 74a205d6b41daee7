package walletauth_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

var errFull = errors.New("the disk is full")

// newUnsaving returns a kept whose store takes nothing until works is called.
func newUnsaving(t *testing.T, change ...func(*kept)) (k *kept, st *keptStore, works func()) {
	st = newKeptStore()
	k = newKept(t, append(change, st.in)...)
	st.set(func(st *keptStore) { st.after = func(*walletauth.Session) error { return errFull } })
	return k, st, func() { st.set(func(st *keptStore) { st.after = nil }) }
}

func TestASessionThatCannotBeStoredIsUsedAndStoredLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, st, _ := newUnsaving(t)
		k.at(5 * time.Minute)
		start, failures, stored := time.Now(), 0, time.Duration(0)
		st.set(func(st *keptStore) {
			st.after = func(*walletauth.Session) error {
				if failures++; failures <= 10 {
					return errFull
				}
				stored = time.Since(start)
				return nil
			}
		})
		k.works(0)
		for range 60 {
			k.works(0)
			k.wentOutWith(k.srv.Sessions("user")[0])
			time.Sleep(time.Second)
		}
		k.sent(1)
		k.isLatest(k.stored())
		// 100 ms doubling to 10 s
		if want := 42700 * time.Millisecond; failures != 11 || stored != want {
			t.Errorf("stored after %s at attempt %d, want %s and 11", stored, failures, want)
		}
		want := []walletauth.EventType{walletauth.RefreshBegan, walletauth.RefreshSucceeded, walletauth.SaveFailed, walletauth.SavedLater}
		if got := k.events.types(); !slices.Equal(got, want) {
			t.Errorf("events %q, want %q", got, want)
		}
	})
}

// What could not be stored is refreshed in its turn, and only the last of it
// stored.
func TestAnUnsavedSessionIsRefreshedLikeAnyOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, _, works := newUnsaving(t)
		for range 40 {
			k.works(0)
			time.Sleep(time.Minute)
			synctest.Wait()
		}
		if n := k.srv.Requests(walletauthtest.RefreshToken); n < 7 || n > 9 { // every 4 or 5 minutes
			t.Errorf("%d refreshes were sent, want 7 to 9", n)
		}
		if *k.stored() != *k.first {
			t.Error("something was stored")
		}
		works()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		k.isLatest(k.stored())
		k.works(0)
	})
}

func TestARefreshStoresWhatTheOneBeforeCouldNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, _, works := newUnsaving(t)
		k.at(5 * time.Minute)
		k.works(0)
		time.Sleep(5 * time.Minute)
		works()
		k.works(0)
		k.sent(2)
		k.isLatest(k.stored())
		types := k.events.types()
		if n := len(types); types[n-2] != walletauth.RefreshSucceeded || types[n-1] != walletauth.SavedLater {
			t.Errorf("events %q", types)
		}
	})
}

func TestAnUnchangedTokenWhoseNewExpiryCannotBeStoredIsUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent int
		k, _, works := newUnsaving(t, func(k *kept) {
			k.Base = quiet(nil, nil).Base
			k.Refresher = refreshFunc(func(_ context.Context, s *walletauth.Session) (*walletauth.Session, error) {
				sent++
				same := *s
				same.AccessTokenExpiresAt = time.Now().Add(5 * time.Minute)
				return &same, nil
			})
		})
		k.at(5 * time.Minute)
		for range 10 {
			k.works(0)
		}
		if sent != 1 {
			t.Errorf("%d refreshes, want 1", sent)
		}
		works()
		k.shutdown()
		if !k.stored().AccessTokenExpiresAt.After(time.Now()) {
			t.Error("the new expiry was not stored")
		}
	})
}

func TestAnUnsavedSessionServesWhileTheStoreCannotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, st, works := newUnsaving(t)
		k.at(5 * time.Minute)
		k.works(0)
		_, _ = k.get(walletauth.WithKey(t.Context(), "another key")) // so that it is not merely the last one used
		st.set(func(st *keptStore) { st.load = func() error { return errFull } })
		k.works(0)
		k.sent(1)
		st.set(func(st *keptStore) { st.load = nil })
		works()
	})
}

func TestShutdownStoresWhatIsUnsaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, _, works := newUnsaving(t)
		k.at(5 * time.Minute)
		k.works(0)
		time.AfterFunc(5*time.Second, works)
		start := time.Now()
		k.shutdown()
		if took := time.Since(start); took < 5*time.Second || took > 10*time.Second {
			t.Errorf("Shutdown took %s", took)
		}
		k.isLatest(k.stored())
	})
}

func TestShutdownSaysWhatItCouldNotStoreAndMayBeCalledAgain(t *testing.T) {
	for name, c := range map[string]struct {
		patience time.Duration // of the caller, 0: without end
		want     time.Duration
		attempts int
	}{
		"until its ctx ends":                {3 * time.Second, 3 * time.Second, 5},
		"until RefreshTimeout without that": {0, 30 * time.Second, 9},
	} {
		inBubble(t, name, func(t *testing.T) {
			k, st, works := newUnsaving(t)
			k.at(5 * time.Minute)
			k.works(0)
			attempts := 0
			st.set(func(st *keptStore) { st.after = func(*walletauth.Session) error { attempts++; return errFull } })
			ctx := t.Context()
			if c.patience > 0 {
				var cancel func()
				ctx, cancel = context.WithTimeout(ctx, c.patience)
				defer cancel()
			}
			start := time.Now()
			err := k.Shutdown(ctx)
			if !errors.Is(err, errFull) || !strings.Contains(err.Error(), "could not be stored: 1") {
				t.Errorf("%v, want how many were not stored and why", err)
			}
			if took := time.Since(start); took != c.want {
				t.Errorf("Shutdown took %s, want %s", took, c.want)
			}
			if attempts != c.attempts { // 100 ms doubling to 10 s
				t.Errorf("tried %d times, want %d", attempts, c.attempts)
			}
			works()
			k.shutdown()
			k.isLatest(k.stored())
		})
	}
}

func TestShutdownWaitsForARefreshUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKept(t)
		k.srv.FailRefresh(1, walletauthtest.Fault{Delay: 3 * time.Second})
		k.at(early)
		k.works(0)
		start := time.Now()
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				k.shutdown()
				if took := time.Since(start); took != 3*time.Second {
					t.Errorf("Shutdown took %s, want 3s", took)
				}
			})
		}
		wg.Wait()
		k.isLatest(k.stored())
		k.shutdown()
		k.sent(1)
	})
}

func TestShutdownLeavesWithItsCtxAndMayBeCalledAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKept(t)
		k.srv.FailRefresh(1, walletauthtest.Fault{Delay: 3 * time.Second})
		k.at(early)
		k.works(0)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for range 2 {
			if err := k.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "under way") {
				t.Errorf("%v, want the error of ctx and what is unfinished", err)
			}
		}
		k.shutdown()
		k.isLatest(k.stored())
	})
}

func TestShutdownWithNothingToWaitForNeedsNoTime(t *testing.T) {
	for range 100 {
		k := newKept(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := k.Shutdown(ctx); err != nil {
			t.Fatalf("with a ctx that has ended: %v", err)
		}
	}
}

func TestAfterShutdownEveryCallFails(t *testing.T) {
	k := newKept(t)
	k.shutdown()
	calls := map[string]func() error{
		"RoundTrip": func() error { _, err := k.get(t.Context()); return err },
		"Session":   func() error { _, err := k.Session(t.Context()); return err },
		"KeepAlive": func() error { return k.KeepAlive(t.Context()) },
	}
	for name, call := range calls {
		if err := call(); err == nil || !strings.Contains(err.Error(), "shut down") {
			t.Errorf("%s: %v, want that it was shut down", name, err)
		}
	}
}

// Save waits for the refresh, since both take the store's exclusion.
func TestALoginSavedDuringARefreshStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKept(t)
		k.srv.FailRefresh(1, walletauthtest.Fault{Delay: time.Second})
		k.at(early)
		k.works(0)
		synctest.Wait()
		login := k.login("", "user")
		if *k.stored() != *login {
			t.Error("the store does not hold the login")
		}
		k.works(0)
		k.wentOutWith(login)
		k.sent(1)
	})
}

func TestALogoutDuringARefreshStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKept(t)
		k.srv.FailRefresh(1, walletauthtest.Fault{Delay: time.Second})
		k.at(early)
		k.works(0)
		synctest.Wait()
		if err := walletauth.Delete(t.Context(), k.Store, ""); err != nil {
			t.Fatal(err)
		}
		if err := k.fails(0); !errors.Is(err, walletauth.ErrNoSession) {
			t.Errorf("%v, want ErrNoSession", err)
		}
		k.sent(1)
	})
}

// table is what a program keeps sessions in without a TokenStore.
type table struct {
	mu   sync.Mutex
	rows map[string]*walletauth.Session
}

func (tb *table) get(_ context.Context, key string) (*walletauth.Session, error) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	if s := tb.rows[key]; s != nil {
		own := *s
		return &own, nil
	}
	return nil, walletauth.ErrNoSession
}

func (tb *table) set(_ context.Context, key string, s *walletauth.Session) error {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	if tb.rows == nil {
		tb.rows = make(map[string]*walletauth.Session)
	}
	tb.rows[key] = s
	return nil
}

func TestWhatAProgramWritesPastTheStoreDuringARefreshStays(t *testing.T) {
	for name, write := range map[string]func(*kept) *walletauth.Session{
		"a login":  func(k *kept) *walletauth.Session { return k.srv.Login("user") },
		"a logout": func(*kept) *walletauth.Session { return nil },
	} {
		inBubble(t, name, func(t *testing.T) {
			var tb table
			k := newKept(t, func(k *kept) { k.Store = &walletauth.FuncStore{LoadFunc: tb.get, SaveFunc: tb.set} })
			written := write(k)
			k.srv.FailRefresh(1, walletauthtest.Fault{After: true, Do: func(r *http.Request) { _ = tb.set(r.Context(), "", written) }})
			k.at(5 * time.Minute)
			k.works(0)
			if got := tb.rows[""]; got != written {
				t.Errorf("the table holds %v, want %v", got, written)
			}
			k.sent(1)
		})
	}
}

func TestALoginSavedWhileASessionIsUnsavedStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, _, works := newUnsaving(t)
		k.at(5 * time.Minute)
		k.works(0)
		works()
		login := k.login("", "user")
		k.works(0)
		k.wentOutWith(login)
		k.shutdown()
		if *k.stored() != *login {
			t.Error("the login is gone")
		}
		if slices.Contains(k.events.types(), walletauth.SavedLater) {
			t.Error("what the login has replaced is said to be stored")
		}
	})
}

func TestALogoutWhileASessionIsUnsavedStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, _, works := newUnsaving(t)
		k.at(5 * time.Minute)
		k.works(0)
		works()
		if err := walletauth.Delete(t.Context(), k.Store, ""); err != nil {
			t.Fatal(err)
		}
		if err := k.fails(0); !errors.Is(err, walletauth.ErrNoSession) {
			t.Errorf("%v, want ErrNoSession", err)
		}
		k.shutdown()
		if s, err := k.Store.Load(t.Context(), ""); !errors.Is(err, walletauth.ErrNoSession) {
			t.Errorf("the store holds %v, %v", s, err)
		}
	})
}

// The session that was traded in is still in the store then, and must not be
// taken for one that another process has saved.
func TestAnUnsavedSessionThatIsOverIsNotReplacedByTheOneBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, _, works := newUnsaving(t)
		k.at(early)
		k.works(0)
		synctest.Wait()
		k.sent(1)
		k.srv.RevokeSessions("user")
		if _, err := k.get(t.Context()); err == nil {
			t.Fatal("the request succeeded")
		}
		k.sent(2)
		if _, err := k.get(t.Context()); err == nil {
			t.Fatal("the request succeeded")
		}
		k.sent(2)
		if n := k.srv.Stats().Reuses; n != 0 {
			t.Errorf("a spent token was sent %d times", n)
		}
		works()
	})
}
