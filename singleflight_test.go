package walletauth_test

import (
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

	"github.com/benbjohnson/clock"
	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

// kept is a Transport whose session, stored under the key "", a stand-in server
// has issued. All of it is in memory and by the bubble's time.
type kept struct {
	*walletauth.Transport
	t      testing.TB
	srv    *walletauthtest.Server
	first  *walletauth.Session // the login
	events keptEvents
	bearer atomic.Pointer[string] // what the last request went out with
}

// newKept returns a Transport over a MemoryStore, changed by change. A client
// that breaks the protocol fails the test.
func newKept(t testing.TB, change ...func(*kept)) *kept {
	t.Helper()
	return newKeptBy(t, walletauthtest.Config{TB: t}, change...)
}

func newKeptBy(t testing.TB, config walletauthtest.Config, change ...func(*kept)) *kept {
	t.Helper()
	k := &kept{t: t, srv: walletauthtest.NewUnstartedServer(config)}
	t.Cleanup(k.srv.Close)
	k.Transport = &walletauth.Transport{
		Store: &walletauth.MemoryStore{}, BaseURL: k.srv.URL, Base: keptBase{k}, OnEvent: k.events.add,
	}
	for _, f := range change {
		f(k)
	}
	k.first = k.login("", "user")
	t.Cleanup(k.stop)
	return k
}

// stop waits for the refreshes that a test has left running. What a Transport
// forgets to wait for, the bubble finds.
func (k *kept) stop() { _ = k.Shutdown(context.Background()) }

// another returns a second Transport over the same store and server.
func (k *kept) another(change ...func(*kept)) *kept {
	other := &kept{t: k.t, srv: k.srv, first: k.first}
	other.Transport = &walletauth.Transport{
		Store: k.Store, BaseURL: k.BaseURL, Base: keptBase{other}, OnEvent: other.events.add,
	}
	for _, f := range change {
		f(other)
	}
	k.t.Cleanup(other.stop)
	return other
}

// keptBase is the server, and notes what goes out.
type keptBase struct{ k *kept }

func (b keptBase) RoundTrip(r *http.Request) (*http.Response, error) {
	if token := r.Header.Get("Authorization"); token != "" {
		token = strings.TrimPrefix(token, "Bearer ")
		b.k.bearer.Store(&token)
	}
	return b.k.srv.RoundTripper().RoundTrip(r)
}

// login stores a session of user without the Transport knowing.
func (k *kept) login(key, user string) *walletauth.Session {
	k.t.Helper()
	s := k.srv.Login(user)
	if err := walletauth.Save(context.Background(), k.Store, key, s); err != nil {
		k.t.Fatal(err)
	}
	return s
}

// get lists the wallets of ctx's key and returns how long that took.
func (k *kept) get(ctx context.Context) (took time.Duration, err error) {
	start := time.Now()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, k.BaseURL+"/wallets", nil)
	if err != nil {
		return 0, err
	}
	resp, err := k.RoundTrip(req)
	if err != nil {
		return time.Since(start), err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d", resp.StatusCode)
	}
	_, copyErr := io.Copy(io.Discard, resp.Body)
	return time.Since(start), errors.Join(err, copyErr)
}

// works demands that a request succeeds in exactly the time.
func (k *kept) works(in time.Duration) {
	k.t.Helper()
	took, err := k.get(k.t.Context())
	if err != nil {
		k.t.Fatalf("request: %v", err)
	}
	if took != in {
		k.t.Errorf("the request took %v, want %v", took, in)
	}
}

// fails demands that a request fails in exactly the time, and returns why.
func (k *kept) fails(in time.Duration) error {
	k.t.Helper()
	took, err := k.get(k.t.Context())
	if err == nil {
		k.t.Fatal("the request succeeded")
	}
	if took != in {
		k.t.Errorf("the request took %v, want %v", took, in)
	}
	return err
}

// sent demands the number of refreshes that reached the server so far, those
// that failed included.
func (k *kept) sent(want int) {
	k.t.Helper()
	if got := k.srv.Requests(walletauthtest.RefreshToken); got != want {
		k.t.Errorf("%d refreshes were sent, want %d", got, want)
	}
}

// stored returns what the store holds under "".
func (k *kept) stored() *walletauth.Session {
	k.t.Helper()
	s, err := k.Store.Load(context.Background(), "")
	if err != nil {
		k.t.Fatalf("Load: %v", err)
	}
	return s
}

// isLatest demands that s is the session as the server issued it last.
func (k *kept) isLatest(s *walletauth.Session) {
	k.t.Helper()
	all := k.srv.Sessions(s.UserID)
	if len(all) == 0 || *all[len(all)-1] != *s {
		k.t.Errorf("the store holds %v, want the server's latest", s)
	}
}

// wentOutWith demands the access token of the last request.
func (k *kept) wentOutWith(s *walletauth.Session) {
	k.t.Helper()
	if *k.bearer.Load() != s.AccessToken {
		k.t.Error("the request went out with another token")
	}
}

func (k *kept) shutdown() {
	k.t.Helper()
	if err := k.Shutdown(k.t.Context()); err != nil {
		k.t.Errorf("Shutdown: %v", err)
	}
}

// at sleeps until d after the login.
func (k *kept) at(d time.Duration) { time.Sleep(time.Until(k.first.CreatedAt.Add(d))) }

// inBubble runs a test by fake time and demands that no goroutine is left.
func inBubble(t *testing.T, name string, f func(*testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		t.Helper()
		synctest.Test(t, f)
	})
}

type refreshFunc func(context.Context, *walletauth.Session) (*walletauth.Session, error)

func (f refreshFunc) Refresh(ctx context.Context, s *walletauth.Session) (*walletauth.Session, error) {
	return f(ctx, s)
}

// keptStore is a TokenStore that can be told to misbehave. Its zero hooks do
// nothing.
type keptStore struct {
	walletauth.TokenStore
	loads, updates atomic.Int32

	mu     sync.Mutex
	load   func() error                          // before Load
	before func() error                          // before fn is called
	after  func(*walletauth.Session) error       // before what fn returned is stored
	excl   func(context.Context) context.Context // fn's ctx
}

func newKeptStore() *keptStore { return &keptStore{TokenStore: &walletauth.MemoryStore{}} }

// in sets the store of a kept.
func (st *keptStore) in(k *kept) { k.Store = st }

// set changes hooks while the store is in use.
func (st *keptStore) set(f func(*keptStore)) {
	st.mu.Lock()
	defer st.mu.Unlock()
	f(st)
}

func (st *keptStore) hooks() (load, before func() error, after func(*walletauth.Session) error, excl func(context.Context) context.Context) {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.load, st.before, st.after, st.excl
}

func (st *keptStore) Load(ctx context.Context, key string) (*walletauth.Session, error) {
	st.loads.Add(1)
	if load, _, _, _ := st.hooks(); load != nil {
		if err := load(); err != nil {
			return nil, err
		}
	}
	return st.TokenStore.Load(ctx, key)
}

func (st *keptStore) Update(ctx context.Context, key string, fn func(context.Context, *walletauth.Session) (*walletauth.Session, error)) error {
	st.updates.Add(1)
	_, before, after, excl := st.hooks()
	if before != nil {
		if err := before(); err != nil {
			return err
		}
	}
	return st.TokenStore.Update(ctx, key, func(ctx context.Context, current *walletauth.Session) (*walletauth.Session, error) {
		if excl != nil {
			ctx = excl(ctx)
		}
		next, err := fn(ctx, current)
		if err == nil && after != nil {
			err = after(next)
		}
		return next, err
	})
}

// hold takes the exclusion of key "" until release is called.
func (k *kept) hold() (release func()) {
	held, end, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		_ = k.Store.Update(context.Background(), "", func(_ context.Context, s *walletauth.Session) (*walletauth.Session, error) {
			close(held)
			<-end
			return s, nil
		})
	}()
	<-held
	return func() { close(end); <-ended }
}

func TestOneRefreshServesAllWhoWait(t *testing.T) {
	for _, callers := range []int{1, 100, 10_000} {
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

type roundTripFunc func(*http.Request) (*http.Response, error)

func (f roundTripFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

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
	inBubble(t, "20 requests of a client ten minutes behind", func(t *testing.T) {
		k := newKept(t, func(k *kept) { k.srv.SetClockOffset(10 * time.Minute) })
		for range 20 {
			k.works(0)
			time.Sleep(20 * time.Second)
		}
		k.sent(1)
	})
}

// setClock is the system's clock, set wrong.
type setClock struct{ ahead atomic.Int64 }

func (c *setClock) Now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

func (c *setClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

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
