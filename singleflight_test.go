package walletauth_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

func TestOneRefreshServesAllWhoWait(t *testing.T) {
	for _, callers := range []int{1, 100, many(10_000)} {
		inBubble(t, fmt.Sprint(callers, " callers"), func(t *testing.T) {
			k := newKept(t)
			k.srv.FailRefresh(1, walletauthtest.Fault{Delay: time.Second})
			k.at(5 * time.Minute)

			var wg sync.WaitGroup
			for range callers {
				wg.Go(func() {
					if took, err := k.get(t.Context()); err != nil || took != time.Second {
						t.Errorf("after %v: %v", took, err)
					}
				})
			}
			wg.Wait()
			k.sent(1)
			k.isLatest(k.stored())
		})
	}
}

func TestKeysRefreshIndependently(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKept(t)
		for user := range 100 {
			k.login(fmt.Sprint(user), fmt.Sprint(user))
		}
		k.srv.FailRefresh(-1, walletauthtest.Fault{Delay: time.Second})
		k.at(5 * time.Minute)

		var wg sync.WaitGroup
		for caller := range 1000 {
			wg.Go(func() {
				if took, err := k.get(walletauth.WithKey(t.Context(), fmt.Sprint(caller%100))); err != nil || took != time.Second {
					t.Errorf("after %v: %v", took, err)
				}
			})
		}
		wg.Wait()
		k.sent(100)
	})
}

func TestARefreshOutlivesTheCallerWhoBeganIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKept(t)
		k.srv.FailRefresh(1, walletauthtest.Fault{Delay: time.Second})
		k.at(5 * time.Minute)

		ctx, leave := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if took, err := k.get(ctx); !errors.Is(err, context.Canceled) || took != 100*time.Millisecond {
				t.Errorf("the first caller left after %v with %v", took, err)
			}
		})
		synctest.Wait()
		for range 10 {
			wg.Go(func() { k.works(time.Second) })
		}
		time.Sleep(100 * time.Millisecond)
		leave()
		wg.Wait()
		k.sent(1)
	})
}

func TestAWaitingCallerLeavesAtItsOwnDeadline(t *testing.T) {
	for name, c := range map[string]struct {
		age    time.Duration
		served bool
	}{
		"with its error while the token has expired":    {5 * time.Minute, false},
		"with the token before while it is still valid": {late, true},
	} {
		inBubble(t, name, func(t *testing.T) {
			k := newKept(t)
			k.srv.FailRefresh(1, walletauthtest.Fault{Delay: 2 * time.Second})
			k.at(c.age)
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			took, err := k.get(ctx)
			if c.served && (err != nil || took >= 50*time.Millisecond) {
				t.Errorf("after %v: %v, want that it is served", took, err)
			}
			if !c.served && (!errors.Is(err, context.DeadlineExceeded) || took != 50*time.Millisecond) {
				t.Errorf("left after %v with %v", took, err)
			}
			k.shutdown()
			k.sent(1)
			k.isLatest(k.stored())
		})
	}
}

type keptTrace struct{}

func TestARefreshCarriesTheValuesOfTheRequestThatBeganIt(t *testing.T) {
	inBubble(t, "to the base transport and OnEvent", func(t *testing.T) {
		var mu sync.Mutex
		var seen []any
		see := func(ctx context.Context) {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, ctx.Value(keptTrace{}))
		}
		k := newKept(t, func(k *kept) {
			k.OnEvent = func(ctx context.Context, _ walletauth.Event) { see(ctx) }
		})
		k.srv.FailRefresh(1, walletauthtest.Fault{Do: func(r *http.Request) { see(r.Context()) }})
		k.at(5 * time.Minute)
		if _, err := k.get(context.WithValue(t.Context(), keptTrace{}, "trace")); err != nil {
			t.Fatal(err)
		}
		if got, want := fmt.Sprint(seen), "[trace trace trace]"; got != want {
			t.Errorf("began, sent and succeeded saw %v, want %v", got, want)
		}
	})
	inBubble(t, "to a Refresher of one's own", func(t *testing.T) {
		k := newKept(t, func(k *kept) {
			k.Refresher = refreshFunc(func(ctx context.Context, s *walletauth.Session) (*walletauth.Session, error) {
				if ctx.Value(keptTrace{}) != "trace" {
					t.Error("the value is missing")
				}
				return k.srv.Login(s.UserID), nil
			})
		})
		k.at(5 * time.Minute)
		if _, err := k.get(context.WithValue(t.Context(), keptTrace{}, "trace")); err != nil {
			t.Fatal(err)
		}
	})
}

func TestAFreshTokenGoesOutAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newKeptStore()
		k := newKept(t, st.in)
		release := k.hold()
		defer release()
		st.loads.Store(0)
		st.updates.Store(0)

		var during int
		k.Base = roundTripFunc(func(*http.Request) (*http.Response, error) {
			during = runtime.NumGoroutine()
			return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
		})
		more := 1000
		for _, age := range []time.Duration{0, time.Minute, 4*time.Minute - 1} {
			k.at(age)
			before := runtime.NumGoroutine()
			k.works(0)
			more = min(more, during-before) // the runtime may start one of its own now and then
		}
		if more > 0 {
			t.Errorf("%d goroutines more while the request was sent", more)
		}
		if loads, updates := st.loads.Load(), st.updates.Load(); loads != 3 || updates != 0 {
			t.Errorf("%d Loads and %d Updates for 3 requests, want 3 and none", loads, updates)
		}
		k.sent(0)
	})
}

func TestNobodyWaitsForAnEarlyRefresh(t *testing.T) {
	inBubble(t, "which is slow", func(t *testing.T) {
		k := newKept(t)
		k.srv.FailRefresh(1, walletauthtest.Fault{Delay: 10 * time.Second})
		k.at(early)
		for range 100 {
			k.works(0)
			k.wentOutWith(k.first)
			time.Sleep(10 * time.Millisecond)
		}
		k.sent(1)
		time.Sleep(10 * time.Second)
		k.works(0)
		k.sent(1)
		k.wentOutWith(k.stored())
	})
	inBubble(t, "of any of many keys", func(t *testing.T) {
		k := newKept(t)
		for user := range 100 {
			k.login(fmt.Sprint(user), fmt.Sprint(user))
		}
		k.srv.FailRefresh(-1, walletauthtest.Fault{Delay: 10 * time.Second})
		k.at(early)
		for i := range 1000 {
			if took, err := k.get(walletauth.WithKey(t.Context(), fmt.Sprint(i%100))); err != nil || took != 0 {
				t.Fatalf("after %v: %v", took, err)
			}
		}
		synctest.Wait()
		k.sent(100)
		k.shutdown()
	})
	inBubble(t, "which waits for exclusion", func(t *testing.T) {
		k := newKept(t)
		release := k.hold()
		k.at(early)
		k.works(0)
		k.works(0)
		k.sent(0)
		release()
		synctest.Wait()
		k.sent(1)
	})
	inBubble(t, "which fails", func(t *testing.T) {
		k := newKept(t)
		k.srv.FailRefresh(-1, walletauthtest.Fault{Status: 503})
		k.at(early)
		for range 100 {
			k.works(0)
		}
		k.shutdown()
	})
}

// early is in the last quarter of the early window of a token that lives five
// minutes, in which whoever asks starts a refresh.
const early = 4*time.Minute + 46*time.Second

// late is shortly before the expiry of a token that lives five minutes.
const late = 4*time.Minute + 55*time.Second

func TestRequestsWaitForARefreshShortlyBeforeExpiry(t *testing.T) {
	inBubble(t, "and go out with the new token", func(t *testing.T) {
		k := newKept(t)
		k.srv.FailRefresh(1, walletauthtest.Fault{Delay: time.Second})
		k.at(late)
		k.works(time.Second)
		k.wentOutWith(k.stored())
		k.isLatest(k.stored())
		k.sent(1)
	})
	inBubble(t, "also in the very last moment", func(t *testing.T) {
		k := newKept(t)
		k.srv.FailRefresh(1, walletauthtest.Fault{Delay: time.Second})
		k.at(5*time.Minute - time.Millisecond)
		k.works(time.Second)
		k.wentOutWith(k.stored())
		k.isLatest(k.stored())
		k.sent(1)
	})
	inBubble(t, "also where it is retried until the old one has expired", func(t *testing.T) {
		k := newKept(t)
		k.srv.FailRefresh(1, walletauthtest.Fault{Status: 503, Delay: time.Second, Header: http.Header{"Retry-After": {"2"}}})
		k.at(5*time.Minute - time.Millisecond)
		if took, err := k.get(t.Context()); err != nil || took < 3*time.Second || took > 3400*time.Millisecond { // a fifth of jitter
			t.Errorf("after %s: %v", took, err)
		}
		k.wentOutWith(k.stored())
		k.sent(2)
	})
	inBubble(t, "also if no refresh runs ahead", func(t *testing.T) {
		k := newKept(t, func(k *kept) { k.RefreshBefore = -1 })
		k.at(4*time.Minute + 49*time.Second)
		k.works(0)
		k.sent(0)
		k.at(late)
		k.srv.FailRefresh(1, walletauthtest.Fault{Delay: time.Second})
		k.works(time.Second)
		k.sent(1)
	})
}

func TestAValidTokenServesWhereWaitingDoesNotHelp(t *testing.T) {
	for name, c := range map[string]struct {
		fault walletauthtest.Fault
		in    time.Duration
	}{
		"the refresh is refused": {walletauthtest.Fault{Status: 404, Delay: time.Second}, time.Second},
		"the session is over":    {ended, 0},
		"the refresh is retried": {walletauthtest.Fault{Status: 503, Delay: time.Second}, time.Second},
		"it takes too long":      {walletauthtest.Fault{Delay: 20 * time.Second}, 4 * time.Second},
		"the connection dropped": {walletauthtest.Fault{Drop: true}, 0},
	} {
		inBubble(t, name, func(t *testing.T) {
			k := newKept(t)
			k.srv.FailRefresh(-1, c.fault)
			k.at(late)
			k.works(c.in)
			k.wentOutWith(k.first)
			k.srv.ClearFaults()
			k.shutdown()
		})
	}
	inBubble(t, "the store gives no exclusion", func(t *testing.T) {
		k := newKept(t)
		release := k.hold()
		defer release()
		k.at(late)
		k.works(4 * time.Second)
		k.wentOutWith(k.first)
		k.sent(0)
	})
}

// The early window is a fifth of the lifetime, at most a minute; the late one a
// tenth, at most ten seconds.
func TestTheWindowsFollowTheLifetime(t *testing.T) {
	for _, c := range []struct{ ttl, early, late time.Duration }{
		{2 * time.Second, 1600 * time.Millisecond, 1800 * time.Millisecond},
		{10 * time.Second, 8 * time.Second, 9 * time.Second},
		{5 * time.Minute, 4 * time.Minute, 4*time.Minute + 50*time.Second},
		{time.Hour, 59 * time.Minute, 59*time.Minute + 50*time.Second},
	} {
		for _, edge := range []struct {
			name   string
			at, in time.Duration
			sent   []int // either
		}{
			{"before the windows", c.early - 1, 0, []int{0}},
			{"early", c.early, 0, []int{0, 1}},
			{"in the last quarter", c.early + (c.ttl-c.early)*3/4, 0, []int{1}},
			{"before the late one", c.late - 1, 0, []int{0, 1}},
			{"late", c.late, time.Millisecond, []int{1}},
		} {
			if edge.name == "in the last quarter" && edge.at >= c.late {
				continue // the late window is the longer one
			}
			inBubble(t, c.ttl.String()+" "+edge.name, func(t *testing.T) {
				k := newKeptBy(t, walletauthtest.Config{TB: t, AccessTokenTTL: c.ttl})
				k.works(0)
				k.srv.FailRefresh(1, walletauthtest.Fault{Delay: time.Millisecond})
				k.at(edge.at)
				k.works(edge.in)
				k.shutdown()
				if got := k.srv.Requests(walletauthtest.RefreshToken); !slices.Contains(edge.sent, got) {
					t.Errorf("%d refreshes were sent, want %v", got, edge.sent)
				}
			})
		}
	}
}

// issuer is a Refresher that answers at once and counts.
type issuer struct {
	ttl   time.Duration
	moves bool // whether created_at moves with each refresh
	n     atomic.Int32
}

func (i *issuer) Refresh(_ context.Context, s *walletauth.Session) (*walletauth.Session, error) {
	return i.issue(s.CreatedAt, i.n.Add(1)), nil
}

func (i *issuer) issue(login time.Time, n int32) *walletauth.Session {
	now := time.Now()
	if i.moves {
		login = now
	}
	return &walletauth.Session{
		ID: "sid", ProjectID: "project", UserID: "user", CreatedAt: login,
		AccessToken: fmt.Sprintf("access-%p-%d", i, n), AccessTokenExpiresAt: now.Add(i.ttl),
		RefreshToken: fmt.Sprintf("refresh-%p-%d", i, n), RefreshTokenExpiresAt: now.Add(24 * time.Hour),
	}
}

// quiet is a Transport over st whose refreshes r answers and whose requests
// all succeed.
func quiet(st walletauth.TokenStore, r walletauth.Refresher) *walletauth.Transport {
	return &walletauth.Transport{Store: st, BaseURL: "https://walletkit.test", Refresher: r, Base: roundTripFunc(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
	})}
}

func TestAProcessThatOnlyAdoptsRefreshesNoMoreOften(t *testing.T) {
	for _, c := range []struct {
		ttl  time.Duration
		want int32 // in 50 lifetimes, of which each has 100 requests
	}{
		{2 * time.Second, 5000 / 80},
		{10 * time.Second, 5000 / 80},
		{5 * time.Minute, 5000 / 80},
		{time.Hour, 5000 / 99}, // a minute before expiry
	} {
		for _, moves := range []bool{false, true} {
			inBubble(t, fmt.Sprintf("%s, created_at moves: %t", c.ttl, moves), func(t *testing.T) {
				st := &walletauth.MemoryStore{}
				busy, adopts := &issuer{ttl: c.ttl, moves: moves}, &issuer{ttl: c.ttl, moves: moves}
				if err := walletauth.Save(t.Context(), st, "", busy.issue(time.Now(), 0)); err != nil {
					t.Fatal(err)
				}
				a, b := &kept{t: t, Transport: quiet(st, busy)}, &kept{t: t, Transport: quiet(st, adopts)}
				a.works(0)
				for range 5000 {
					time.Sleep(c.ttl / 100)
					a.works(0)
					synctest.Wait()
					b.works(0)
					synctest.Wait()
				}
				if n := busy.n.Load() + adopts.n.Load(); n > c.want || n < 49 { // each refreshes at a point of its own
					t.Errorf("%d and %d refreshes, want 49 to %d together", busy.n.Load(), adopts.n.Load(), c.want)
				}
			})
		}
	}
}

// The session was logged in long ago, in another process; nothing in it says
// how long its tokens live.
func TestAProcessThatStartsLaterRefreshesAtMostOnceMore(t *testing.T) {
	for _, ttl := range []time.Duration{2 * time.Second, 10 * time.Second, 5 * time.Minute, time.Hour} {
		for _, age := range []time.Duration{0, 2 * time.Minute, 3 * time.Hour} {
			inBubble(t, fmt.Sprintf("%s tokens of a login %s ago", ttl, age), func(t *testing.T) {
				st := &walletauth.MemoryStore{}
				busy, late := &issuer{ttl: ttl}, &issuer{ttl: ttl}
				if err := walletauth.Save(t.Context(), st, "", busy.issue(time.Now().Add(-age), 0)); err != nil {
					t.Fatal(err)
				}
				a, b := &kept{t: t, Transport: quiet(st, busy)}, &kept{t: t, Transport: quiet(st, late)}
				a.works(0)
				time.Sleep(ttl / 2)
				for range 1000 {
					time.Sleep(ttl / 100)
					a.works(0)
					synctest.Wait()
					b.works(0)
					synctest.Wait()
				}
				if n := busy.n.Load() + late.n.Load(); n > 1050/80+1 {
					t.Errorf("%d refreshes in all", n)
				}
			})
		}
	}
}

// hour has k send a request every 15 seconds and returns how many refreshes
// that took. With tokens of five minutes one is due every four.
func (k *kept) hour() int {
	k.t.Helper()
	before := k.srv.Requests(walletauthtest.RefreshToken)
	for range 240 {
		k.works(0)
		time.Sleep(15 * time.Second)
	}
	return k.srv.Requests(walletauthtest.RefreshToken) - before
}

func TestAWrongClockRefreshesNoMoreOften(t *testing.T) {
	for _, ahead := range []time.Duration{0, 10 * time.Minute, -10 * time.Minute, 7 * time.Hour, -7 * time.Hour} {
		inBubble(t, fmt.Sprintf("the client is ahead by %s", ahead), func(t *testing.T) {
			k := newKept(t, func(k *kept) { k.srv.SetClockOffset(-ahead) })
			if n := k.hour(); n > 15 { // at most one more to learn
				t.Errorf("%d refreshes in an hour, want 14 or 15", n)
			}
			if n := k.hour(); n < 12 || n > 15 {
				t.Errorf("%d refreshes in the second hour, want 12 to 15", n)
			}
		})
	}
	inBubble(t, "20 requests of a client ten minutes ahead", func(t *testing.T) {
		k := newKept(t, func(k *kept) { k.srv.SetClockOffset(-10 * time.Minute) })
		for range 20 {
			k.works(0)
		}
		k.sent(1)
	})
	inBubble(t, "a request that meets the new session before the refresh has returned", func(t *testing.T) {
		k := newKept(t, func(k *kept) {
			k.srv.SetClockOffset(-10 * time.Minute)
			k.Base, k.Store = withoutDate(k.Base), &lingeringStore{TokenStore: k.Store}
		})
		var refreshed sync.WaitGroup
		refreshed.Go(func() { k.works(2 * time.Second) })
		time.Sleep(time.Second)
		k.works(0)
		refreshed.Wait()
		k.sent(1)
	})
	inBubble(t, "20 requests of a client ten minutes behind", func(t *testing.T) {
		k := newKept(t, func(k *kept) { k.srv.SetClockOffset(10 * time.Minute) })
		for range 20 {
			k.works(0)
			time.Sleep(20 * time.Second)
		}
		k.sent(1)
	})
}

// lingeringStore returns from Update two seconds after it has stored, as one does
// that has a lock to release.
type lingeringStore struct{ walletauth.TokenStore }

func (st *lingeringStore) Update(ctx context.Context, key string, fn func(context.Context, *walletauth.Session) (*walletauth.Session, error)) error {
	err := st.TokenStore.Update(ctx, key, fn)
	time.Sleep(2 * time.Second)
	return err
}

// withoutDate leaves the Date out of all answers.
func withoutDate(rt http.RoundTripper) http.RoundTripper {
	return roundTripFunc(func(r *http.Request) (*http.Response, error) {
		resp, err := rt.RoundTrip(r)
		if err == nil {
			resp.Header = resp.Header.Clone()
			resp.Header.Del("Date")
		}
		return resp, err
	})
}

func TestAClockThatJumpsIsCaughtUpWith(t *testing.T) {
	for _, jump := range []time.Duration{2 * time.Hour, -2 * time.Hour} {
		inBubble(t, jump.String(), func(t *testing.T) {
			local := &setClock{}
			k := newKept(t, func(k *kept) { k.Clock = local })
			k.hour()
			local.ahead.Store(int64(jump))
			if n := k.hour(); n > 16 {
				t.Errorf("%d refreshes in the hour after, want 15 or 16", n)
			}
			if n := k.hour(); n < 12 || n > 15 {
				t.Errorf("%d refreshes in the third hour, want 12 to 15", n)
			}
		})
	}
}

func TestARightClockNeedsNoDate(t *testing.T) {
	for name, date := range map[string][]string{"missing": nil, "malformed": {"yesterday"}, "empty": {""}} {
		inBubble(t, name, func(t *testing.T) {
			k := newKept(t)
			base := k.Base
			k.Base = roundTripFunc(func(r *http.Request) (*http.Response, error) {
				resp, err := base.RoundTrip(r)
				if err == nil {
					resp.Header = resp.Header.Clone()
					resp.Header["Date"] = date
				}
				return resp, err
			})
			if n := k.hour(); n < 12 || n > 15 {
				t.Errorf("%d refreshes in an hour, want 12 to 15", n)
			}
		})
	}
}

func TestAFailedRefreshIsNotTriedAgainForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKept(t)
		k.at(5 * time.Minute)
		start := time.Now()
		var tried []time.Duration
		k.srv.FailRefresh(-1, walletauthtest.Fault{Status: 404, Do: func(*http.Request) { tried = append(tried, time.Since(start)) }})

		var last error
		for range 1000 {
			before := len(tried)
			err := k.fails(0)
			if len(tried) == before && err != last {
				t.Fatalf("while it pauses, a request failed with\n%v, not\n%v", err, last)
			}
			last = err
			time.Sleep(100 * time.Millisecond)
		}
		if n := len(tried); n < 7 || n > 9 { // after 1 s doubling to 30 s, with jitter: TestCooldown
			t.Errorf("refreshes were sent after %s", tried)
		}

		k.srv.ClearFaults()
		time.Sleep(36 * time.Second)
		k.works(0)
		k.isLatest(k.stored())
	})
}

func TestAPauseIsShortAgainAfterASuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKept(t)
		k.at(5 * time.Minute)
		k.srv.FailRefresh(3, walletauthtest.Fault{Status: 404})
		for _, pause := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
			_ = k.fails(0)
			time.Sleep(pause * 6 / 5) // with jitter
		}
		k.works(0)
		time.Sleep(5 * time.Minute)
		k.srv.FailRefresh(1, walletauthtest.Fault{Status: 404})
		_ = k.fails(0)
		time.Sleep(1200 * time.Millisecond)
		k.works(0)
	})
}

func TestAPauseOfOneKeyIsNoneOfAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKept(t)
		k.login("other", "other")
		k.at(5 * time.Minute)
		k.srv.FailRefresh(1, walletauthtest.Fault{Status: 404})
		_ = k.fails(0)
		if _, err := k.get(walletauth.WithKey(t.Context(), "other")); err != nil {
			t.Error(err)
		}
	})
}

func TestTheLastSessionServesOnWhileTheStoreCannotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := errors.New("the disk is gone")
		st := newKeptStore()
		k := newKept(t, st.in)
		k.works(0)
		st.set(func(st *keptStore) {
			st.load = func() error { return down }
			st.before = func() error { return down }
		})
		for _, age := range []time.Duration{time.Minute, 4*time.Minute + 30*time.Second, late, 5*time.Minute - 1} {
			k.at(age)
			k.works(0)
			k.wentOutWith(k.first)
		}
		if _, err := k.get(walletauth.WithKey(t.Context(), "another key")); !errors.Is(err, down) {
			t.Errorf("another key: %v, want the store's error", err)
		}
		k.at(5 * time.Minute)
		if err := k.fails(0); !errors.Is(err, down) || !strings.Contains(err.Error(), "load") {
			t.Errorf("after its expiry: %v, want the store's error and what it is about", err)
		}
		k.sent(0)
		st.set(func(st *keptStore) { st.load, st.before = nil, nil })
		k.works(0)
		k.sent(1)
	})
}

func TestALoadWithoutSessionAndErrorIsNoSession(t *testing.T) {
	k := newKept(t, func(k *kept) {
		k.Store = &walletauth.FuncStore{
			LoadFunc: func(context.Context, string) (*walletauth.Session, error) { return nil, nil },
			SaveFunc: func(context.Context, string, *walletauth.Session) error { return nil },
		}
	})
	if _, err := k.get(t.Context()); !errors.Is(err, walletauth.ErrNoSession) || !strings.Contains(err.Error(), "nil") {
		t.Errorf("%v, want ErrNoSession and what the store did", err)
	}
}

func TestTimeComesFromTheClockAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mock := clock.NewMock()
		mock.Set(time.Date(2031, 5, 6, 7, 8, 9, 0, time.UTC))
		k := newKeptBy(t, walletauthtest.Config{TB: t, Clock: mock}, func(k *kept) { k.Clock = mock })
		request := func() <-chan error {
			done := make(chan error, 1)
			go func() {
				_, err := k.get(t.Context())
				done <- err
			}()
			synctest.Wait()
			return done
		}
		time.Sleep(time.Hour) // says nothing
		if err := <-request(); err != nil {
			t.Fatal(err)
		}
		k.sent(0)

		mock.Add(early)
		if err := <-request(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		k.sent(1)

		mock.Add(5 * time.Minute)
		k.srv.FailRefresh(1, walletauthtest.Fault{Status: 503, Header: http.Header{"Retry-After": {"2"}}})
		waits, began := request(), time.Now()
		mock.Add(2*time.Second - 1)
		k.sent(2)
		mock.Add(401 * time.Millisecond) // a fifth of jitter
		if err := <-waits; err != nil {
			t.Fatal(err)
		}
		k.sent(3)
		if took := time.Since(began); took > time.Second { // the mock takes a few milliseconds
			t.Errorf("%s of another clock's time", took)
		}
	})
}

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

// loadTimes is a store that notes when it is asked, since began.
type loadTimes struct {
	walletauth.TokenStore
	mu    sync.Mutex
	began time.Time
	at    []time.Duration
}

func (st *loadTimes) Load(ctx context.Context, key string) (*walletauth.Session, error) {
	st.mu.Lock()
	st.at = append(st.at, time.Since(st.began))
	st.mu.Unlock()
	return st.TokenStore.Load(ctx, key)
}

func TestKeepAlivesOfManyProcessesDoNotTryAgainAtOnce(t *testing.T) {
	for what, spoil := range map[string]func(k *kept){
		"a store that fails": func(k *kept) {
			st := newKeptStore()
			st.TokenStore, st.load = k.Store, func() error { return errFull }
			k.Store = st
		},
		"a refresh that fails": func(k *kept) {
			k.Refresher = refreshFunc(func(context.Context, *walletauth.Session) (*walletauth.Session, error) {
				return nil, &walletauth.RefreshError{StatusCode: 404}
			})
		},
	} {
		inBubble(t, what, func(t *testing.T) {
			k := newKept(t)
			k.at(5*time.Minute + time.Second)
			seen := map[time.Duration]bool{}
			for range 8 {
				st := &loadTimes{began: time.Now()}
				other := k.another(spoil, func(k *kept) { st.TokenStore, k.Store = k.Store, st })
				ctx, cancel := context.WithTimeout(t.Context(), 1300*time.Millisecond)
				_ = other.KeepAlive(ctx)
				cancel()
				again := st.at[len(st.at)-1]
				if again < time.Second || again > 1200*time.Millisecond {
					t.Errorf("it tries again after %v, want 1 s and up to a fifth more", again)
				}
				seen[again] = true
			}
			if len(seen) != 8 {
				t.Errorf("8 processes try again at %d times", len(seen))
			}
		})
	}
}
