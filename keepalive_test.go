package walletauth_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

// keepAlive runs KeepAlive until the test ends; returned gets its error.
func (k *kept) keepAlive() (returned <-chan error) {
	ctx, cancel := context.WithCancel(context.Background())
	k.t.Cleanup(cancel)
	done := make(chan error, 1)
	go func() { done <- k.KeepAlive(ctx) }()
	return done
}

// stillAlive demands that KeepAlive has not returned.
func (k *kept) stillAlive(returned <-chan error) {
	k.t.Helper()
	synctest.Wait()
	select {
	case err := <-returned:
		k.t.Errorf("KeepAlive returned %v", err)
	default:
	}
}

// returns demands that KeepAlive ends by d from now.
func (k *kept) returns(returned <-chan error, d time.Duration) error {
	k.t.Helper()
	select {
	case err := <-returned:
		return err
	case <-time.After(d):
		k.t.Fatal("KeepAlive has not returned")
		return nil
	}
}

func TestKeepAliveRefreshesWhenDueAndNotOftener(t *testing.T) {
	for _, c := range []struct {
		span   time.Duration
		ttl    time.Duration
		before time.Duration // RefreshBefore
		want   int
	}{
		{span: time.Hour, ttl: 2 * time.Second, want: 2249},               // every 1.6 s
		{span: time.Hour, ttl: 10 * time.Second, want: 449},               // every 8 s
		{span: 6 * time.Hour, ttl: 5 * time.Minute, want: 89},             // every 4 minutes
		{span: 6 * time.Hour, ttl: time.Hour, want: 6},                    // every 59 minutes
		{span: 6 * time.Hour, ttl: 5 * time.Minute, before: -1, want: 74}, // every 290 s
		{span: 6 * time.Hour, ttl: 5 * time.Minute, before: 2 * time.Minute, want: 119},
		{span: 6 * time.Hour, ttl: 5 * time.Minute, before: time.Hour, want: 144}, // half of the lifetime, and one to learn that
	} {
		inBubble(t, c.ttl.String()+" "+c.before.String(), func(t *testing.T) {
			k := newKeptBy(t, walletauthtest.Config{TB: t, AccessTokenTTL: c.ttl}, func(k *kept) { k.RefreshBefore = c.before })
			alive := k.keepAlive()
			time.Sleep(c.span - 1)
			k.stillAlive(alive)
			least := int(c.span/c.ttl) - 1
			if n := k.srv.Requests(walletauthtest.RefreshToken); n < least || n > c.want { // at a point of its own in the window
				t.Errorf("%d refreshes, want %d to %d", n, least, c.want)
			}
			if s := k.stored(); !s.AccessTokenExpiresAt.After(time.Now()) {
				t.Error("the session has expired")
			}
		})
	}
}

func TestTheFirstRequestAfterAQuietHourNeedsNoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKept(t)
		k.srv.FailRefresh(-1, walletauthtest.Fault{Delay: time.Second})
		k.keepAlive()
		time.Sleep(time.Hour)
		k.works(0)
	})
}

func TestKeepAliveOfTwoProcessesRefreshesOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newKept(t)
		b := a.another()
		a.keepAlive()
		b.keepAlive()
		time.Sleep(6*time.Hour - 1)
		if n := a.srv.Requests(walletauthtest.RefreshToken); n < 71 || n > 89 {
			t.Errorf("%d refreshes, want 71 to 89", n)
		}
	})
}

func TestKeepAliveOutlivesWhatMayPass(t *testing.T) {
	inBubble(t, "an outage of the API", func(t *testing.T) {
		k := newKept(t)
		alive := k.keepAlive()
		k.srv.FailRefresh(-1, walletauthtest.Fault{Status: 503})
		time.Sleep(time.Hour)
		k.stillAlive(alive)
		k.srv.ClearFaults()
		time.Sleep(time.Minute)
		k.stillAlive(alive)
		k.works(0)
		k.isLatest(k.stored())
	})
	inBubble(t, "a firewall", func(t *testing.T) {
		k := newKept(t)
		alive := k.keepAlive()
		k.srv.FailRefresh(-1, walletauthtest.Fault{Status: 403, Body: wallHTML})
		time.Sleep(time.Hour)
		k.stillAlive(alive)
		if n := k.srv.Requests(walletauthtest.RefreshToken); n < 60 || n > 160 {
			t.Errorf("%d refreshes in an hour of refusals, want about one in 30 s", n)
		}
		k.srv.ClearFaults()
		time.Sleep(36 * time.Second) // with jitter
		k.works(0)
	})
	inBubble(t, "a store that fails", func(t *testing.T) {
		st := newKeptStore()
		k := newKept(t, st.in)
		alive := k.keepAlive()
		st.set(func(st *keptStore) {
			st.load = func() error { return errFull }
			st.before = func() error { return errFull }
		})
		st.loads.Store(0)
		time.Sleep(time.Hour)
		k.stillAlive(alive)
		if n := st.loads.Load(); n > 3700 {
			t.Errorf("%d Loads in an hour, want about one a second", n)
		}
		st.set(func(st *keptStore) { st.load, st.before = nil, nil })
		time.Sleep(time.Second)
		k.stillAlive(alive)
		k.works(0)
		k.sent(1)
	})
	inBubble(t, "a panic", func(t *testing.T) {
		k := newKept(t, func(k *kept) { k.OnEvent = func(context.Context, walletauth.Event) { panic("oh no") } })
		alive := k.keepAlive()
		time.Sleep(time.Hour)
		k.stillAlive(alive)
		k.works(0)
	})
}

func TestKeepAliveReturns(t *testing.T) {
	inBubble(t, "the error of its ctx, at once", func(t *testing.T) {
		k := newKept(t)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		start := time.Now()
		if err := k.KeepAlive(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if took := time.Since(start); took != 10*time.Minute {
			t.Errorf("after %s", took)
		}
	})
	inBubble(t, "also while a refresh is under way", func(t *testing.T) {
		k := newKept(t)
		k.srv.FailRefresh(1, walletauthtest.Fault{Delay: 20 * time.Second})
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute+time.Second)
		defer cancel()
		start := time.Now()
		if err := k.KeepAlive(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if took := time.Since(start); took != 4*time.Minute+time.Second {
			t.Errorf("after %s", took)
		}
		k.shutdown()
		k.isLatest(k.stored())
	})
	inBubble(t, "when the session is over", func(t *testing.T) {
		k := newKept(t)
		alive := k.keepAlive()
		k.srv.RevokeSessions("user")
		if err := k.returns(alive, 5*time.Minute); !errors.Is(err, walletauth.ErrSessionExpired) {
			t.Error(err)
		}
		k.sent(1)
	})
	inBubble(t, "when there is none", func(t *testing.T) {
		k := newKept(t)
		if err := k.KeepAlive(walletauth.WithKey(t.Context(), "nobody")); !errors.Is(err, walletauth.ErrNoSession) {
			t.Error(err)
		}
	})
	inBubble(t, "soon after a logout", func(t *testing.T) {
		k := newKept(t)
		alive := k.keepAlive()
		time.Sleep(time.Minute + time.Second)
		if err := walletauth.Delete(t.Context(), k.Store, ""); err != nil {
			t.Fatal(err)
		}
		if err := k.returns(alive, 30*time.Second); !errors.Is(err, walletauth.ErrNoSession) {
			t.Error(err)
		}
	})
	inBubble(t, "at Shutdown, at once", func(t *testing.T) {
		k := newKept(t)
		alive := k.keepAlive()
		time.Sleep(time.Minute)
		k.shutdown()
		if err := k.returns(alive, time.Nanosecond); !strings.Contains(err.Error(), "shut down") {
			t.Error(err)
		}
	})
}

func TestKeepAliveGoesOnWithANewLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKept(t)
		alive := k.keepAlive()
		time.Sleep(time.Minute)
		k.srv.RevokeSessions("user")
		k.login("", "user")
		time.Sleep(time.Hour)
		k.stillAlive(alive)
		k.works(0)
		if n := k.srv.Stats().RefreshesRefused; n != 0 {
			t.Errorf("%d refreshes were refused", n)
		}
	})
}

func TestKeepAliveDoesNotTradeATokenInForItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sent := 0
		k := newKept(t, func(k *kept) {
			k.Refresher = refreshFunc(func(_ context.Context, s *walletauth.Session) (*walletauth.Session, error) {
				sent++
				if time.Now().Before(s.AccessTokenExpiresAt) {
					same := *s
					return &same, nil
				}
				return k.srv.Login(s.UserID), nil
			})
		})
		k.keepAlive()
		time.Sleep(time.Hour)
		synctest.Wait()
		if sent > 15*12 {
			t.Errorf("%d refreshes in 12 lifetimes", sent)
		}
	})
}
