package walletauth_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

func TestMemoryStoreKeepsTheContract(t *testing.T) {
	walletauthtest.TestStore(t, func(*testing.T) walletauth.TokenStore { return &walletauth.MemoryStore{} })
}

func TestFuncStoreKeepsTheContract(t *testing.T) {
	walletauthtest.TestStore(t, func(*testing.T) walletauth.TokenStore {
		var tb table
		return &walletauth.FuncStore{LoadFunc: tb.get, SaveFunc: tb.set}
	})
}

func storedLogin() *walletauth.Session {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	return &walletauth.Session{
		ID: "sid", CreatedAt: at, ProjectID: "project", UserID: "user",
		AccessToken: "access-secret", AccessTokenExpiresAt: at.Add(5 * time.Minute),
		RefreshToken: "refresh-secret", RefreshTokenExpiresAt: at.Add(30 * 24 * time.Hour),
	}
}

func TestSaveRefusesAnIncompleteSession(t *testing.T) {
	var st walletauth.MemoryStore
	if err := walletauth.Save(t.Context(), &st, "", nil); err == nil || !strings.Contains(err.Error(), "the session is nil") {
		t.Errorf("nil: %v", err)
	}
	for field, drop := range map[string]func(*walletauth.Session){
		"id":                       func(s *walletauth.Session) { s.ID = "" },
		"created_at":               func(s *walletauth.Session) { s.CreatedAt = time.Time{} },
		"project_id":               func(s *walletauth.Session) { s.ProjectID = "" },
		"user_id":                  func(s *walletauth.Session) { s.UserID = "" },
		"access_token":             func(s *walletauth.Session) { s.AccessToken = "" },
		"access_token_expires_at":  func(s *walletauth.Session) { s.AccessTokenExpiresAt = time.Time{} },
		"refresh_token":            func(s *walletauth.Session) { s.RefreshToken = "" },
		"refresh_token_expires_at": func(s *walletauth.Session) { s.RefreshTokenExpiresAt = time.Time{} },
	} {
		s := storedLogin()
		drop(s)
		if err := walletauth.Save(t.Context(), &st, "", s); err == nil || !strings.HasSuffix(err.Error(), "lacks "+field) {
			t.Errorf("%v, want that %s is lacking", err, field)
		}
	}
	if _, err := st.Load(t.Context(), ""); !errors.Is(err, walletauth.ErrNoSession) {
		t.Errorf("something was stored: %v", err)
	}
}

func TestSaveKeepsACopyOfItsOwn(t *testing.T) {
	var st walletauth.MemoryStore
	s := storedLogin()
	if err := walletauth.Save(t.Context(), &st, "", s); err != nil {
		t.Fatal(err)
	}
	s.AccessToken = "changed"
	if got, err := st.Load(t.Context(), ""); err != nil || *got != *storedLogin() {
		t.Errorf("the store holds %v, %v", got, err)
	}
}

func TestSaveAndDeleteWithoutAStoreSaySo(t *testing.T) {
	for name, err := range map[string]error{
		"Save":   walletauth.Save(t.Context(), nil, "", storedLogin()),
		"Delete": walletauth.Delete(t.Context(), nil, ""),
	} {
		if err == nil || !strings.Contains(err.Error(), "TokenStore is nil") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDeleteOfWhatIsNotThereIsNoError(t *testing.T) {
	var tb table
	for _, st := range []walletauth.TokenStore{&walletauth.MemoryStore{}, &walletauth.FuncStore{LoadFunc: tb.get, SaveFunc: tb.set}} {
		for range 2 {
			if err := walletauth.Delete(t.Context(), st, "nobody"); err != nil {
				t.Errorf("%T: %v", st, err)
			}
		}
	}
}

func TestSaveWaitsForExclusionUntilItsCtxEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKept(t)
		release := k.hold()
		defer release()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for name, change := range map[string]func() error{
			"Save":   func() error { return walletauth.Save(ctx, k.Store, "", storedLogin()) },
			"Delete": func() error { return walletauth.Delete(ctx, k.Store, "") },
		} {
			if err := change(); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if *k.stored() != *k.first {
			t.Error("the session was changed all the same")
		}
	})
}

func TestAKeyIsAnyStringAndTheEmptyOneWithoutWithKey(t *testing.T) {
	if key := walletauth.KeyFromContext(t.Context()); key != "" {
		t.Errorf("key %q", key)
	}
	for _, key := range []string{"", "a", "../x\x00\n", strings.Repeat("k", 1<<16)} {
		ctx := walletauth.WithKey(walletauth.WithKey(t.Context(), "outer"), key)
		if got := walletauth.KeyFromContext(ctx); got != key {
			t.Errorf("key %.20q, want %.20q", got, key)
		}
	}
}

func TestEachRequestUsesTheSessionOfItsKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKept(t)
		for user := range 10 {
			k.login(fmt.Sprint(user), fmt.Sprint("user-", user))
		}
		for i := range 100 {
			if _, err := k.get(walletauth.WithKey(t.Context(), fmt.Sprint(i%10))); err != nil {
				t.Fatal(err)
			}
		}
		for user := range 10 {
			if n := k.srv.User(fmt.Sprint("user-", user)).Requests; n != 10 {
				t.Errorf("user %d: %d requests, want 10", user, n)
			}
		}
	})
}

func TestUpdatesOfOneKeyDoNotWaitForThoseOfAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKept(t)
		release := k.hold()
		defer release()
		start := time.Now()
		k.login("other", "other")
		if took := time.Since(start); took != 0 {
			t.Errorf("waited %s", took)
		}
	})
}

func TestFuncStoreSavesWhatWasBoughtAlthoughTheCallerHasLeft(t *testing.T) {
	for name, c := range map[string]struct {
		leave string
		want  error
	}{"during fn": {"fn", nil}, "during the save": {"save", context.Canceled}} {
		ctx, cancel := context.WithCancel(t.Context())
		var tb table
		st := &walletauth.FuncStore{LoadFunc: tb.get, SaveFunc: func(ctx context.Context, _ string, _ *walletauth.Session) error {
			if c.leave == "save" {
				cancel()
			}
			return ctx.Err()
		}}
		err := st.Update(ctx, "", func(context.Context, *walletauth.Session) (*walletauth.Session, error) {
			if c.leave == "fn" {
				cancel()
			}
			return storedLogin(), nil
		})
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		cancel()
	}
}

func TestFuncStoreSaysWhichFunctionIsMissing(t *testing.T) {
	var tb table
	for want, st := range map[string]*walletauth.FuncStore{
		"LoadFunc is nil": {SaveFunc: tb.set},
		"SaveFunc is nil": {LoadFunc: tb.get},
	} {
		if err := walletauth.Save(t.Context(), st, "", storedLogin()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want that %s", err, want)
		}
	}
	if _, err := (&walletauth.FuncStore{}).Load(t.Context(), ""); err == nil || errors.Is(err, walletauth.ErrNoSession) {
		t.Errorf("Load: %v, want that LoadFunc is nil", err)
	}
}

func TestFuncStoreReturnsTheProgramsErrors(t *testing.T) {
	down := errors.New("the database is down")
	fails := func(context.Context, string) (*walletauth.Session, error) { return nil, down }
	none := func(context.Context, string) (*walletauth.Session, error) {
		return nil, fmt.Errorf("row: %w", walletauth.ErrNoSession)
	}
	refuses := func(context.Context, string, *walletauth.Session) error { return down }
	for name, st := range map[string]*walletauth.FuncStore{
		"of LoadFunc": {LoadFunc: fails, SaveFunc: refuses},
		"of SaveFunc": {LoadFunc: none, SaveFunc: refuses},
	} {
		if err := walletauth.Save(t.Context(), st, "", storedLogin()); !errors.Is(err, down) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A new token is at stake, and losing it for good is worse than overwriting
// what cannot be read.
func TestFuncStoreSavesWhereItCannotLookAgain(t *testing.T) {
	var tb table
	var loads atomic.Int32
	st := &walletauth.FuncStore{SaveFunc: tb.set, LoadFunc: func(ctx context.Context, key string) (*walletauth.Session, error) {
		if loads.Add(1) > 1 {
			return nil, errFull
		}
		return tb.get(ctx, key)
	}}
	if err := walletauth.Save(t.Context(), st, "", storedLogin()); err != nil {
		t.Fatal(err)
	}
	if tb.rows[""] == nil {
		t.Error("nothing was saved")
	}
}

func TestAFuncStoreOfOneProcessExcludesItsUpdates(t *testing.T) {
	var tb table
	st := &walletauth.FuncStore{LoadFunc: tb.get, SaveFunc: tb.set}
	var inside, most atomic.Int32
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			err := st.Update(t.Context(), "", func(_ context.Context, s *walletauth.Session) (*walletauth.Session, error) {
				if n := inside.Add(1); n > most.Load() {
					most.Store(n)
				}
				defer inside.Add(-1)
				return s, nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := most.Load(); n != 1 {
		t.Errorf("%d Updates of one key at a time", n)
	}
}
