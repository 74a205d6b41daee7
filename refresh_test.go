package walletauth_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

// ended is WalletKit's own answer that a session is over.
var ended = errorReply(401, "application/json", `{"code":null,"error":"no such session"}`)

func TestTwoTransportsOfOneStoreSendOneRefresh(t *testing.T) {
	for name, age := range map[string]time.Duration{"expiring": late, "expired": 5 * time.Minute} {
		inBubble(t, name, func(t *testing.T) {
			a := newKept(t)
			b := a.another()
			a.srv.FailRefresh(1, walletauthtest.Fault{Delay: time.Second})
			a.at(age)
			var wg sync.WaitGroup
			for range 100 {
				wg.Go(func() { a.works(time.Second) })
				wg.Go(func() { b.works(time.Second) })
			}
			wg.Wait()
			a.sent(1)
			if n := len(a.events.all()) + len(b.events.all()); n != 3 {
				t.Errorf("%d events, want began, succeeded and adopted", n)
			}
		})
	}
}

func TestALogoutWhileWaitingForExclusionIsNoSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKept(t)
		k.at(5 * time.Minute)
		var deleted sync.WaitGroup
		release := k.hold()
		deleted.Go(func() {
			if err := walletauth.Delete(t.Context(), k.Store, ""); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait() // first in line
		time.AfterFunc(time.Second, release)
		if err := k.fails(time.Second); !errors.Is(err, walletauth.ErrNoSession) {
			t.Errorf("%v, want ErrNoSession", err)
		}
		deleted.Wait()
		k.sent(0)
		k.were()
	})
}

// The refresh that was waiting for exclusion was after an older session, and
// finds it replaced by the very one that the API has refused meanwhile.
func TestA401DuringTheRefreshOfAnOlderSessionIsMended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tb table
		k := newKept(t, func(k *kept) { k.Store = &walletauth.FuncStore{LoadFunc: tb.get, SaveFunc: tb.set} })
		release := k.hold()
		k.at(early)
		k.works(0)
		if err := tb.set(t.Context(), "", k.srv.Login("user")); err != nil {
			t.Fatal(err)
		}
		k.srv.RevokeAccess("user")
		time.AfterFunc(time.Second, release)
		k.works(time.Second)
		k.sent(1)
		k.isLatest(k.stored())
	})
}

func TestWithoutExclusionNothingIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := errors.New("the lock server is down")
		st := newKeptStore()
		k := newKept(t, st.in)
		st.set(func(st *keptStore) { st.before = func() error { return down } })
		for _, age := range []time.Duration{early, late} {
			k.at(age)
			k.works(0)
			k.wentOutWith(k.first)
		}
		k.at(5 * time.Minute)
		if err := k.fails(0); !errors.Is(err, down) || !strings.Contains(err.Error(), "exclusion") {
			t.Errorf("%v, want the store's error and what it prevents", err)
		}
		k.sent(0)
		st.set(func(st *keptStore) { st.before = nil })
		k.works(0)
		k.sent(1)
	})
}

func TestAStoreWithoutExclusionIsAskedOnceASecondBehindRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newKeptStore()
		k := newKept(t, st.in)
		st.set(func(st *keptStore) { st.before = func() error { return errors.New("the lock server is down") } })
		k.at(4*time.Minute + 45*time.Second + time.Millisecond) // whoever asks starts a refresh, and waits for none
		before := st.updates.Load()
		for range 98 { // nearly 5 s
			k.works(0)
			time.Sleep(50 * time.Millisecond)
		}
		if n := st.updates.Load() - before; n != 5 {
			t.Errorf("the store was asked %d times, want 5", n)
		}
		st.set(func(st *keptStore) { st.before = nil })
		time.Sleep(time.Second)
		k.works(0)
		synctest.Wait()
		k.sent(1)
	})
}

func TestTheWaitForExclusionIsBounded(t *testing.T) {
	for timeout, want := range map[time.Duration]time.Duration{0: 30 * time.Second, time.Second: time.Second} {
		inBubble(t, want.String(), func(t *testing.T) {
			k := newKept(t, func(k *kept) { k.RefreshTimeout = timeout })
			release := k.hold()
			defer release()
			k.at(5 * time.Minute)
			err := k.fails(want)
			if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "exclusion") {
				t.Errorf("%v, want a timeout and what it waited for", err)
			}
			if errors.Is(err, context.Canceled) {
				t.Errorf("%v looks as if the caller had left", err)
			}
			k.sent(0)
		})
	}
}

func TestARefreshMayTakeItsTimeWhateverTheWaitForExclusionTook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKept(t, func(k *kept) { k.RefreshTimeout = 10 * time.Second })
		release := k.hold()
		k.at(5 * time.Minute)
		k.srv.FailRefresh(1, walletauthtest.Fault{Status: 503, Header: http.Header{"Retry-After": {"9"}}})
		time.AfterFunc(8*time.Second, release)
		_ = k.fails(8 * time.Second) // as Retry-After allows nothing soon
		time.Sleep(11 * time.Second)
		k.works(0)
		k.isLatest(k.stored())
		k.sent(2)
	})
}

func TestSavingIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := &stuckStore{TokenStore: &walletauth.MemoryStore{}}
		k := newKept(t, func(k *kept) { k.Store, k.RefreshTimeout = st, 10*time.Second })
		st.stuck.Store(true)
		k.at(5 * time.Minute)
		k.works(10 * time.Second)
		k.works(0)
		k.sent(1)
		st.stuck.Store(false)
		k.shutdown()
		k.isLatest(k.stored())
	})
}

// stuckStore hangs when it saves, until the ctx of Update ends.
type stuckStore struct {
	walletauth.TokenStore
	stuck atomic.Bool
}

func (st *stuckStore) Update(ctx context.Context, key string, fn func(context.Context, *walletauth.Session) (*walletauth.Session, error)) error {
	return st.TokenStore.Update(ctx, key, func(excl context.Context, current *walletauth.Session) (*walletauth.Session, error) {
		next, err := fn(excl, current)
		if err == nil && st.stuck.Load() {
			<-ctx.Done()
			err = ctx.Err()
		}
		return next, err
	})
}

func TestARefreshIsNotBegunOnceExclusionIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newKeptStore()
		k := newKept(t, st.in)
		st.set(func(st *keptStore) { st.excl = canceled })
		k.at(late)
		k.works(0)
		k.at(5 * time.Minute)
		if err := k.fails(0); !strings.Contains(err.Error(), "exclusion was lost") {
			t.Errorf("%v, want that exclusion was lost", err)
		}
		k.sent(0)
	})
}

// A store that cannot keep what a refresh would bring has it not begin, and its
// reason is told without a token.
func TestARefreshThatCouldNotBeStoredIsNotBegun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newKeptStore()
		k := newKept(t, st.in)
		full := fmt.Errorf("%w, in front of %s", errFull, k.stored().RefreshToken)
		st.set(func(st *keptStore) {
			st.excl = func(ctx context.Context) context.Context {
				ctx, cancel := context.WithCancelCause(ctx)
				cancel(full)
				return ctx
			}
		})
		k.at(late)
		k.works(0)
		k.at(5 * time.Minute)
		if err := k.fails(0); !errors.Is(err, errFull) || strings.Contains(err.Error(), k.stored().RefreshToken) {
			t.Errorf("%v, want that the disk is full, without the token", err)
		}
		k.sent(0)
		st.set(func(st *keptStore) { st.excl = nil })
		k.works(0)
		k.sent(1)
	})
}

func canceled(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	return ctx
}

func TestARefreshThatWasSentIsFinishedAndStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newKeptStore()
		k := newKept(t, st.in)
		excl, lose := context.WithCancel(context.Background())
		st.set(func(st *keptStore) { st.excl = func(context.Context) context.Context { return excl } })
		k.srv.FailRefresh(1, walletauthtest.Fault{After: true, Delay: time.Second, Do: func(*http.Request) { lose() }})
		k.at(5 * time.Minute)
		k.works(time.Second)
		k.sent(1)
		k.isLatest(k.stored())
	})
}

func TestARefreshIsNotRetriedOnceExclusionIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newKeptStore()
		k := newKept(t, st.in)
		excl, lose := context.WithCancel(context.Background())
		st.set(func(st *keptStore) { st.excl = func(context.Context) context.Context { return excl } })
		k.srv.FailRefresh(-1, walletauthtest.Fault{Status: 503, Header: http.Header{"Retry-After": {"5"}}})
		k.at(5 * time.Minute)
		time.AfterFunc(time.Second, lose)
		_ = k.fails(0) // as Retry-After allows nothing soon
		time.Sleep(time.Minute)
		k.sent(1)
	})
}

// retryingStore calls fn a second time, as after a conflict, with what between
// has made of the session meanwhile.
type retryingStore struct {
	walletauth.TokenStore
	between func(current *walletauth.Session) *walletauth.Session
}

func (st *retryingStore) Update(ctx context.Context, key string, fn func(context.Context, *walletauth.Session) (*walletauth.Session, error)) error {
	return st.TokenStore.Update(ctx, key, func(ctx context.Context, current *walletauth.Session) (*walletauth.Session, error) {
		if st.between == nil {
			return fn(ctx, current)
		}
		_, _ = fn(ctx, current)
		now := st.between(current)
		next, err := fn(ctx, now)
		if err == nil && next == now && next != current {
			return now, nil
		}
		return next, err
	})
}

func TestAStoreThatCallsItsFunctionTwice(t *testing.T) {
	prepare := func(t *testing.T) (*kept, *retryingStore) {
		st := &retryingStore{TokenStore: &walletauth.MemoryStore{}}
		k := newKept(t, func(k *kept) { k.Store = st })
		k.at(5 * time.Minute)
		return k, st
	}
	inBubble(t, "causes one refresh", func(t *testing.T) {
		k, st := prepare(t)
		st.between = func(s *walletauth.Session) *walletauth.Session { return s }
		k.works(0)
		k.sent(1)
		k.isLatest(k.stored())
	})
	inBubble(t, "keeps a login that came between", func(t *testing.T) {
		k, st := prepare(t)
		login := k.srv.Login("user")
		st.between = func(*walletauth.Session) *walletauth.Session { return login }
		k.works(0)
		k.sent(1)
		k.wentOutWith(login)
		if k.stored().ID != login.ID {
			t.Error("the login is gone")
		}
	})
	inBubble(t, "keeps a logout that came between", func(t *testing.T) {
		k, st := prepare(t)
		st.between = func(*walletauth.Session) *walletauth.Session { return nil }
		k.works(0)
		k.sent(1)
		if s, err := k.Store.Load(t.Context(), ""); !errors.Is(err, walletauth.ErrNoSession) {
			t.Errorf("the store holds %v, %v", s, err)
		}
	})
	inBubble(t, "and sends nothing in the second, though the first failed", func(t *testing.T) {
		k, st := prepare(t)
		k.srv.FailRefresh(1, walletauthtest.Fault{Status: 404})
		st.between = func(s *walletauth.Session) *walletauth.Session { return s }
		_ = k.fails(0)
		k.sent(1)
		time.Sleep(2 * time.Second)
		k.works(0)
		k.sent(2)
		k.isLatest(k.stored())
	})
}

func TestAStoreThatDoesNothingIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKept(t)
		k.Store = idleStore{k.Store}
		k.at(late)
		k.works(0)
		k.at(5 * time.Minute)
		if err := k.fails(0); !strings.Contains(err.Error(), "TokenStore.Update did not call its function") {
			t.Errorf("%v, want what the store did wrong", err)
		}
		k.sent(0)
	})
}

type idleStore struct{ walletauth.TokenStore }

func (idleStore) Update(context.Context, string, func(context.Context, *walletauth.Session) (*walletauth.Session, error)) error {
	return nil
}

// crashes are the ways in which somebody else's code may end, and what the
// error then says.
var crashes = []struct {
	name  string
	crash func()
	says  string
}{
	{"panics", func() { panic("oh no") }, "panicked: oh no"},
	{"ends its goroutine", runtime.Goexit, "runtime.Goexit"},
}

func TestACrashIsAnErrorOfOneCall(t *testing.T) {
	for _, c := range crashes {
		for name, begin := range map[string]func(k *kept, st *keptStore, crash func()) (stop func()){
			"TokenStore.Update before its function": func(_ *kept, st *keptStore, crash func()) func() {
				st.set(func(st *keptStore) { st.before = func() error { crash(); return nil } })
				return func() { st.set(func(st *keptStore) { st.before = nil }) }
			},
			"TokenStore.Update inside of its lock": func(_ *kept, st *keptStore, crash func()) func() {
				st.set(func(st *keptStore) { st.excl = func(ctx context.Context) context.Context { crash(); return ctx } })
				return func() { st.set(func(st *keptStore) { st.excl = nil }) }
			},
			"Refresher": func(k *kept, _ *keptStore, crash func()) func() {
				var sound atomic.Bool
				k.Refresher = refreshFunc(func(_ context.Context, s *walletauth.Session) (*walletauth.Session, error) {
					if !sound.Load() {
						crash()
					}
					return k.srv.Login(s.UserID), nil
				})
				return func() { sound.Store(true) }
			},
			"OnEvent": func(k *kept, _ *keptStore, crash func()) func() {
				var sound atomic.Bool
				k.OnEvent = func(context.Context, walletauth.Event) {
					if !sound.Load() {
						crash()
					}
				}
				return func() { sound.Store(true) }
			},
		} {
			inBubble(t, name+" "+c.name, func(t *testing.T) {
				st := newKeptStore()
				k := newKept(t, st.in)
				stop := begin(k, st, c.crash)
				k.at(5 * time.Minute)
				err := k.fails(0)
				if what, _, _ := strings.Cut(name, " "); !strings.Contains(err.Error(), what) || !strings.Contains(err.Error(), c.says) {
					t.Errorf("%v, want %s and %s", err, what, c.says)
				}
				stop()
				k.works(0)
				time.Sleep(5 * time.Minute)
				k.works(0)
			})
		}
	}
}

// The server has rotated the token by then, so that an error would lose it.
func TestACrashAfterTheRefreshLosesNothing(t *testing.T) {
	for _, c := range crashes {
		inBubble(t, "TokenStore.Update "+c.name, func(t *testing.T) {
			st := newKeptStore()
			k := newKept(t, st.in)
			st.set(func(st *keptStore) { st.after = func(*walletauth.Session) error { c.crash(); return nil } })
			k.at(5 * time.Minute)
			k.works(0)
			k.works(0)
			st.set(func(st *keptStore) { st.after = nil })
			k.shutdown()
			k.sent(1)
			k.isLatest(k.stored())
		})
	}
}

func TestAPanicOfLoadIsAnErrorOfOneCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newKeptStore()
		k := newKept(t, st.in)
		st.set(func(st *keptStore) { st.load = func() error { panic("oh no") } })
		if err := k.fails(0); !strings.Contains(err.Error(), "TokenStore.Load panicked: oh no") {
			t.Errorf("%v, want that Load panicked", err)
		}
		st.set(func(st *keptStore) { st.load = nil })
		k.works(0)
	})
}

// lawless is a store whose author forgot exclusion.
type lawless struct {
	walletauth.MemoryStore // for Load
	slow                   time.Duration
}

func (st *lawless) Update(ctx context.Context, key string, fn func(context.Context, *walletauth.Session) (*walletauth.Session, error)) error {
	current, _ := st.Load(ctx, key)
	next, err := fn(ctx, current)
	if err != nil || next == current {
		return err
	}
	time.Sleep(st.slow)
	return st.MemoryStore.Update(ctx, key, func(context.Context, *walletauth.Session) (*walletauth.Session, error) { return next, nil })
}

// tolerant is a Refresher that merely refuses a used token, as the server may
// that does not take its reuse for theft.
type tolerant struct {
	issuer
	mu    sync.Mutex
	seen  map[string]bool
	delay time.Duration
}

func (r *tolerant) Refresh(ctx context.Context, s *walletauth.Session) (*walletauth.Session, error) {
	r.mu.Lock()
	used := r.seen[s.RefreshToken]
	r.seen[s.RefreshToken] = true
	r.mu.Unlock()
	time.Sleep(r.delay)
	if used {
		return nil, &walletauth.RefreshError{StatusCode: 401, Err: walletauth.ErrSessionExpired}
	}
	return r.issuer.Refresh(ctx, s)
}

func TestALoserWithoutExclusionAdoptsWhatTheWinnerSaved(t *testing.T) {
	for _, slow := range []time.Duration{0, 40 * time.Millisecond, 700 * time.Millisecond} {
		inBubble(t, fmt.Sprintf("%s later", slow), func(t *testing.T) {
			st := &lawless{slow: slow}
			r := &tolerant{issuer: issuer{ttl: 5 * time.Minute}, seen: make(map[string]bool), delay: 10 * time.Millisecond}
			if err := walletauth.Save(t.Context(), st, "", r.issue(time.Now(), 0)); err != nil {
				t.Fatal(err)
			}
			a, b := &kept{t: t, Transport: quiet(st, r)}, &kept{t: t, Transport: quiet(st, r)}
			b.OnEvent = b.events.add
			a.OnEvent = a.events.add
			for range 10 {
				time.Sleep(5 * time.Minute)
				var wg sync.WaitGroup
				for _, k := range []*kept{a, b} {
					wg.Go(func() {
						if took, err := k.get(t.Context()); err != nil || took > time.Second {
							t.Errorf("after %s: %v", took, err)
						}
					})
				}
				wg.Wait()
			}
			if n := r.n.Load(); n != 10 {
				t.Errorf("%d refreshes were granted, want 10", n)
			}
			for _, e := range append(a.events.all(), b.events.all()...) {
				if e.Type == walletauth.SessionOver {
					t.Errorf("%v", e)
				}
			}
		})
	}
}

func TestASessionThatIsOverIsAskedAboutOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKept(t)
		k.srv.RevokeSessions("user")
		k.at(5 * time.Minute)
		if err := k.fails(750 * time.Millisecond); !errors.Is(err, walletauth.ErrSessionExpired) {
			t.Errorf("%v, want ErrSessionExpired", err)
		}
		for range 1000 {
			if err := k.fails(0); !errors.Is(err, walletauth.ErrSessionExpired) {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
		}
		k.sent(1)
		if *k.stored() != *k.first {
			t.Error("the stored session was changed")
		}

		login := k.login("", "user")
		k.works(0)
		k.wentOutWith(login)
		time.Sleep(5 * time.Minute)
		k.works(0)
		k.sent(2)
	})
}

// A refresh token that the server has refused is not called over before the store
// was looked at again. Another access token may come beside it meanwhile.
func TestARefusedRefreshTokenIsNotSentAgainWhileTheStoreIsLookedAt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKept(t)
		k.srv.RevokeSessions("user")
		k.at(5 * time.Minute)
		var first sync.WaitGroup
		first.Go(func() {
			if _, err := k.get(t.Context()); !errors.Is(err, walletauth.ErrSessionExpired) {
				t.Errorf("the first: %v, want ErrSessionExpired", err)
			}
		})
		time.Sleep(100 * time.Millisecond)
		other := *k.first
		other.AccessToken = "another-access-token"
		if err := walletauth.Save(t.Context(), k.Store, "", &other); err != nil {
			t.Fatal(err)
		}
		if _, err := k.get(t.Context()); !errors.Is(err, walletauth.ErrSessionExpired) {
			t.Errorf("the second: %v, want ErrSessionExpired", err)
		}
		first.Wait()
		k.sent(1)
	})
}

func TestASessionThatIsOverServesWhileItsTokenIsValid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKept(t)
		k.srv.FailRefresh(-1, ended)
		for _, age := range []time.Duration{4 * time.Minute, late, 5*time.Minute - 1} {
			k.at(age)
			k.works(0)
			k.works(0)
			time.Sleep(time.Second)
		}
		k.sent(1)
	})
}

func TestARefreshTokenPastItsEndIsSentOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKeptBy(t, walletauthtest.Config{TB: t, RefreshTokenTTL: 10 * time.Minute})
		k.at(10 * time.Minute)
		if err := k.fails(750 * time.Millisecond); !errors.Is(err, walletauth.ErrSessionExpired) {
			t.Errorf("%v, want ErrSessionExpired", err)
		}
		_ = k.fails(0)
		k.sent(1)
		k.login("", "user")
		k.works(0)
	})
}

func TestAStoredSessionWithoutRefreshTokenIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKept(t)
		poor := *k.first
		poor.RefreshToken = ""
		k.Store = &walletauth.FuncStore{
			LoadFunc: func(context.Context, string) (*walletauth.Session, error) { return &poor, nil },
			SaveFunc: func(context.Context, string, *walletauth.Session) error { return nil },
		}
		k.works(0)
		k.at(5 * time.Minute)
		if err := k.fails(750 * time.Millisecond); !errors.Is(err, walletauth.ErrSessionExpired) || !strings.Contains(err.Error(), "no refresh token") {
			t.Errorf("%v, want ErrSessionExpired and why", err)
		}
		k.sent(0)
	})
}

// Another process saves what it got within the second after this one was told
// that the session is over.
func TestBeforeASessionIsOverTheStoreIsLookedAtAgain(t *testing.T) {
	for _, after := range []time.Duration{0, 300 * time.Millisecond, 700 * time.Millisecond} {
		inBubble(t, after.String(), func(t *testing.T) {
			var stored atomic.Pointer[walletauth.Session]
			k := newKept(t, func(k *kept) {
				k.Store = &walletauth.FuncStore{
					LoadFunc: func(context.Context, string) (*walletauth.Session, error) { return stored.Load(), nil },
					SaveFunc: func(_ context.Context, _ string, s *walletauth.Session) error { stored.Store(s); return nil },
				}
			})
			k.at(5 * time.Minute)
			k.srv.FailRefresh(1, walletauthtest.Fault{Status: ended.Status, Header: ended.Header, Body: ended.Body, Do: func(*http.Request) {
				time.AfterFunc(after, func() { stored.Store(k.srv.Login("user")) })
			}})
			_, err := k.get(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			k.wentOutWith(stored.Load())
			k.sent(1)
		})
	}
}

func TestEveryKindOfSuccessorWorks(t *testing.T) {
	for name, config := range map[string]walletauthtest.Config{
		"a new refresh token each time":     {},
		"the same refresh token":            {KeepRefreshToken: true},
		"a new session id":                  {NewSessionID: true},
		"the old access token dies with it": {OneAccessToken: true},
		"the same refresh token, a new id":  {KeepRefreshToken: true, NewSessionID: true},
		"tokens that live for two seconds":  {AccessTokenTTL: 2 * time.Second},
	} {
		inBubble(t, name, func(t *testing.T) {
			config.TB = t
			k := newKeptBy(t, config)
			ttl := k.first.AccessTokenExpiresAt.Sub(k.first.CreatedAt)
			for range 500 {
				k.works(0)
				time.Sleep(ttl / 10)
			}
			synctest.Wait()
			if n := k.srv.Stats().Refreshes; n < 49 || n > 62 { // after 8, 9 or 10 tenths of the lifetime
				t.Errorf("%d refreshes, want 49 to 62", n)
			}
			k.isLatest(k.stored())
		})
	}
}

// A server may hand out the same access token until it expires.
func TestAnUnchangedAccessTokenWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var st walletauth.MemoryStore
		r := &issuer{ttl: 5 * time.Minute}
		var sent int
		k := &kept{t: t, Transport: quiet(&st, refreshFunc(func(ctx context.Context, s *walletauth.Session) (*walletauth.Session, error) {
			sent++
			if time.Now().Before(s.AccessTokenExpiresAt) {
				same := *s
				return &same, nil
			}
			return r.Refresh(ctx, s)
		}))}
		if err := walletauth.Save(t.Context(), &st, "", r.issue(time.Now(), 0)); err != nil {
			t.Fatal(err)
		}
		for range 3600 {
			k.works(0)
			time.Sleep(time.Second)
			synctest.Wait()
		}
		if n := r.n.Load(); n != 11 {
			t.Errorf("%d new sessions in an hour, want 11", n)
		}
		if sent > 12*10 {
			t.Errorf("%d refreshes in 12 lifetimes", sent)
		}
	})
}

func TestTheSameAccessTokenWithALaterExpiryWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var st walletauth.MemoryStore
		var sent int
		r := &issuer{ttl: 5 * time.Minute}
		k := &kept{t: t, Transport: quiet(&st, refreshFunc(func(_ context.Context, s *walletauth.Session) (*walletauth.Session, error) {
			sent++
			same := *s
			same.AccessTokenExpiresAt = time.Now().Add(r.ttl)
			return &same, nil
		}))}
		if err := walletauth.Save(t.Context(), &st, "", r.issue(time.Now(), 0)); err != nil {
			t.Fatal(err)
		}
		for range 60 {
			k.works(0)
			time.Sleep(time.Minute)
			synctest.Wait()
		}
		if sent < 11 || sent > 14 { // every 4 or 5 minutes
			t.Errorf("%d refreshes in an hour, want 11 to 14", sent)
		}
	})
}

func TestATokenThatIsRefusedAndComesBackUnchangedIsNotTradedInByEachRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var st walletauth.MemoryStore
		var sent []time.Duration
		start := time.Now()
		r := &issuer{ttl: time.Hour}
		k := &kept{t: t, Transport: quiet(&st, refreshFunc(func(_ context.Context, s *walletauth.Session) (*walletauth.Session, error) {
			sent = append(sent, time.Since(start))
			same := *s
			return &same, nil
		}))}
		k.Base = roundTripFunc(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 401, Body: http.NoBody}, nil
		})
		if err := walletauth.Save(t.Context(), &st, "", r.issue(start, 0)); err != nil {
			t.Fatal(err)
		}
		for range 100 {
			_ = k.fails(0)
			time.Sleep(time.Second)
		}
		if len(sent) < 1 || len(sent) > 3 {
			t.Errorf("refreshes after %s, want 3 at most", sent)
		}
	})
}

func TestARefreshEndsAfterRefreshTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKept(t, func(k *kept) { k.RefreshTimeout = 3 * time.Second })
		k.srv.FailRefresh(1, walletauthtest.Fault{Delay: time.Hour})
		k.at(5 * time.Minute)
		err := k.fails(3 * time.Second)
		var refused *walletauth.RefreshError
		if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) || !errors.As(err, &refused) {
			t.Errorf("%v, want a RefreshError for a deadline", err)
		}
		if !strings.Contains(err.Error(), "no reply within 3s") {
			t.Errorf("%v does not say what happened", err)
		}
		k.sent(1)
		time.Sleep(5 * time.Second)
		k.works(0)
	})
}

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
			t.Errorf("a used token was sent %d times", n)
		}
		works()
	})
}

// queuedStore is one whose exclusion another process holds until it is granted.
type queuedStore struct {
	walletauth.MemoryStore
	granted chan struct{}
	takes   time.Duration // a Load
	loads   atomic.Int64
	ended   func(fn func(context.Context, *walletauth.Session) (*walletauth.Session, error)) error // what Update does when ctx ends
}

func (q *queuedStore) Load(ctx context.Context, key string) (*walletauth.Session, error) {
	q.loads.Add(1)
	time.Sleep(q.takes)
	return q.MemoryStore.Load(ctx, key)
}

func (q *queuedStore) Update(ctx context.Context, key string, fn func(context.Context, *walletauth.Session) (*walletauth.Session, error)) error {
	select {
	case <-q.granted:
		return q.MemoryStore.Update(ctx, key, fn)
	case <-ctx.Done():
		if q.ended != nil {
			return q.ended(fn)
		}
		return ctx.Err()
	}
}

// newQueued is a Transport over a queuedStore with a session that has expired. It
// counts the refreshes that are sent.
func newQueued(t *testing.T) (q *queuedStore, tr *walletauth.Transport, sent *atomic.Int64) {
	q, sent = &queuedStore{granted: make(chan struct{})}, &atomic.Int64{}
	if err := walletauth.Save(t.Context(), &q.MemoryStore, "", freshSession()); err != nil {
		t.Fatal(err)
	}
	time.Sleep(5 * time.Minute)
	tr = &walletauth.Transport{Store: q, Refresher: refreshFunc(func(context.Context, *walletauth.Session) (*walletauth.Session, error) {
		sent.Add(1)
		return renewed(), nil
	})}
	return q, tr, sent
}

// renewed is the successor of freshSession.
func renewed() *walletauth.Session {
	next := freshSession()
	next.AccessToken, next.RefreshToken = "renewed-access-token", "renewed-refresh-token"
	next.AccessTokenExpiresAt = time.Now().Add(5 * time.Minute)
	return next
}

func TestRefreshThatWaitsForExclusion(t *testing.T) {
	inBubble(t, "leaves within 5 ms of a newer session, and sends nothing", func(t *testing.T) {
		q, tr, sent := newQueued(t)
		const after = time.Second
		go func() {
			time.Sleep(after)
			_ = walletauth.Save(context.Background(), &q.MemoryStore, "", renewed())
		}()
		began := time.Now()
		s, err := tr.Session(t.Context())
		if err != nil || s.AccessToken != renewed().AccessToken {
			t.Errorf("%v, %v", s, err)
		}
		if took := time.Since(began); took < after || took > after+5*time.Millisecond {
			t.Errorf("it took %v", took)
		}
		equal(t, "refreshes sent", sent.Load(), 0)
	})
	for takes, period := range map[time.Duration]time.Duration{
		0:                      5 * time.Millisecond,
		time.Millisecond:       21 * time.Millisecond,
		10 * time.Millisecond:  210 * time.Millisecond,
		100 * time.Millisecond: 350 * time.Millisecond,
	} {
		inBubble(t, fmt.Sprintf("looks every %v if a Load takes %v", period, takes), func(t *testing.T) {
			q, tr, sent := newQueued(t)
			q.takes = takes
			const wait = 20 * time.Second
			ctx, cancel := context.WithTimeout(t.Context(), wait)
			defer cancel()
			if _, err := tr.Session(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v, want DeadlineExceeded", err)
			}
			if got, want := q.loads.Load(), int64(wait/period); got < want-2 || got > want+2 {
				t.Errorf("%d Loads in %v, want %d", got, wait, want)
			}
			close(q.granted)
			synctest.Wait()
			equal(t, "refreshes sent once it is granted", sent.Load(), 1)
			if err := tr.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	inBubble(t, "sends nothing if it is granted in the moment in which it leaves", func(t *testing.T) {
		q, tr, sent := newQueued(t)
		q.ended = func(fn func(context.Context, *walletauth.Session) (*walletauth.Session, error)) error {
			old := freshSession() // as a copy of the store may be
			if got, err := fn(context.Background(), old); got != old || err != nil {
				t.Errorf("fn returned %v, %v, want what it got", got, err)
			}
			return nil
		}
		go func() {
			time.Sleep(time.Second)
			_ = walletauth.Save(context.Background(), &q.MemoryStore, "", renewed())
		}()
		if s, err := tr.Session(t.Context()); err != nil || s.AccessToken != renewed().AccessToken {
			t.Errorf("%v, %v", s, err)
		}
		if err := tr.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		equal(t, "refreshes sent", sent.Load(), 0)
	})
}

// loggedOutStore is one in which another process logs out while fn runs. It calls
// fn again with what it holds by then.
type loggedOutStore struct {
	walletauth.MemoryStore
	down atomic.Bool
}

func (l *loggedOutStore) Load(ctx context.Context, key string) (*walletauth.Session, error) {
	if l.down.Load() {
		return nil, errors.New("the store is down")
	}
	return l.MemoryStore.Load(ctx, key)
}

func (l *loggedOutStore) Update(ctx context.Context, key string, fn func(context.Context, *walletauth.Session) (*walletauth.Session, error)) error {
	return l.MemoryStore.Update(ctx, key, func(ctx context.Context, current *walletauth.Session) (*walletauth.Session, error) {
		if _, err := fn(ctx, current); err != nil {
			return nil, err
		}
		return fn(ctx, nil)
	})
}

func TestLogoutElsewhereDuringARefreshIsNotUndoneByAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &loggedOutStore{}
		if err := walletauth.Save(t.Context(), &store.MemoryStore, "", freshSession()); err != nil {
			t.Fatal(err)
		}
		tr := &walletauth.Transport{Store: store, Refresher: refreshFunc(func(context.Context, *walletauth.Session) (*walletauth.Session, error) { return renewed(), nil })}
		if _, err := tr.Session(t.Context()); err != nil { // which is remembered
			t.Fatal(err)
		}
		time.Sleep(5 * time.Minute)
		if s, err := tr.Session(t.Context()); err != nil || s.AccessToken != renewed().AccessToken {
			t.Fatalf("who waited for the refresh: %v, %v", s, err)
		}
		store.down.Store(true)
		var down *walletauth.StoreError
		if s, err := tr.Session(t.Context()); !errors.As(err, &down) {
			t.Errorf("in an outage: %v, %v, want a StoreError", s, err)
		}
		store.down.Store(false)
		if _, err := tr.Session(t.Context()); !errors.Is(err, walletauth.ErrNoSession) {
			t.Errorf("after it: %v, want ErrNoSession", err)
		}
	})
}

// afterUpdate runs then once, after the first Update and before it returns.
type afterUpdate struct {
	walletauth.MemoryStore
	ran  atomic.Bool
	then func()
}

func (a *afterUpdate) Update(ctx context.Context, key string, fn func(context.Context, *walletauth.Session) (*walletauth.Session, error)) error {
	err := a.MemoryStore.Update(ctx, key, fn)
	if a.ran.CompareAndSwap(false, true) {
		a.then()
	}
	return err
}

func TestRequestThatWaitedGoesOutWithTheLoginThatCameLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		login := freshSession()
		login.ID, login.AccessToken, login.RefreshToken = "login", "login-access-token", "login-refresh-token"
		login.CreatedAt, login.AccessTokenExpiresAt = time.Now().Add(5*time.Minute), time.Now().Add(10*time.Minute)
		reply, err := walletauth.JSONCodec{}.Encode("", login)
		if err != nil {
			t.Fatal(err)
		}
		store := &afterUpdate{}
		if err := walletauth.Save(t.Context(), &store.MemoryStore, "", freshSession()); err != nil {
			t.Fatal(err)
		}
		var sentWith string
		tr := &walletauth.Transport{
			Store: store, CaptureLogin: true,
			Refresher: refreshFunc(func(context.Context, *walletauth.Session) (*walletauth.Session, error) { return renewed(), nil }),
			Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
				if req.URL.Path != "/users/verify-login" {
					sentWith = req.Header.Get("Authorization")
				}
				return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(bytes.NewReader(reply))}, nil
			}),
		}
		send := func(method, path string) {
			req, err := http.NewRequestWithContext(t.Context(), method, walletauth.Testnet+path, nil)
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := tr.RoundTrip(req); err != nil {
				t.Error(err)
			}
		}
		store.then = func() { send(http.MethodPost, "/users/verify-login") }
		time.Sleep(5 * time.Minute)
		send(http.MethodGet, "/wallets")
		equal(t, "the token of the request that waited", sentWith, "Bearer "+login.AccessToken)
	})
}
