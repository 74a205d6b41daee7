package walletauth_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/internal/simulation"
)

// A badDay is many users of one Transport, and what becomes of the refresh
// endpoint. It counts, in bubble time since its start.
type badDay struct {
	walletauth.Transport
	t        *testing.T
	endpoint func(at time.Duration, user string) endpointReply
	sessions walletauth.MemoryStore
	start    time.Time
	idle     int // goroutines before the first request

	mu          sync.Mutex
	calls       []time.Duration // to the endpoint, when each was sent
	running     int
	mostAtOnce  int
	goroutines  int // the most beside those of idle and the users
	users       int
	updates     int // of the store
	served      []time.Duration
	longest     time.Duration // that a request took to fail
	events      map[walletauth.EventType]int
	held        int
	callsOfUser map[string][]time.Duration
}

// endpointReply is what the endpoint does with one call.
type endpointReply struct {
	after  time.Duration
	status int
	header http.Header
	err    error
}

var (
	healthyAnswer = endpointReply{after: 20 * time.Millisecond, status: 200}
	refusedDial   = &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
)

// newBadDay returns one whose users, named by their number, have sessions that
// expire after ttl.
func newBadDay(t *testing.T, users int, ttl time.Duration, endpoint func(at time.Duration, user string) endpointReply) *badDay {
	d := &badDay{
		t: t, endpoint: endpoint, start: time.Now(), users: users,
		events: make(map[walletauth.EventType]int), callsOfUser: make(map[string][]time.Duration),
	}
	d.Store, d.BaseURL, d.Base = d, "https://mainnet.walletkit.com", roundTripFunc(d.serve)
	d.OnEvent = func(_ context.Context, e walletauth.Event) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.events[e.Type]++
		d.held += e.Held
	}
	for i := range users {
		user := fmt.Sprint(i)
		if err := walletauth.Save(t.Context(), &d.sessions, user, d.session(user, ttl)); err != nil {
			t.Fatal(err)
		}
	}
	d.idle = runtime.NumGoroutine()
	return d
}

// session is a session of user as the server issues it.
func (d *badDay) session(user string, ttl time.Duration) *walletauth.Session {
	now := time.Now()
	return &walletauth.Session{
		ID: "session " + user, CreatedAt: d.start, ProjectID: "project", UserID: user,
		AccessToken: fmt.Sprintf("access-%s-%d", user, now.UnixNano()), AccessTokenExpiresAt: now.Add(ttl),
		RefreshToken: fmt.Sprintf("refresh-%s-%d", user, now.UnixNano()), RefreshTokenExpiresAt: now.Add(720 * time.Hour),
	}
}

// Load and Update are the store's.
func (d *badDay) Load(ctx context.Context, key string) (*walletauth.Session, error) {
	return d.sessions.Load(ctx, key)
}

func (d *badDay) Update(ctx context.Context, key string, fn func(context.Context, *walletauth.Session) (*walletauth.Session, error)) error {
	d.mu.Lock()
	d.updates++
	d.mu.Unlock()
	return d.sessions.Update(ctx, key, fn)
}

func (d *badDay) now() time.Duration { return time.Since(d.start) }

// serve is the API: every other endpoint of it is well.
func (d *badDay) serve(req *http.Request) (*http.Response, error) {
	if req.URL.Path != "/users/refresh-token" {
		return response(req, endpointReply{status: 200}, ""), nil
	}
	var body struct {
		SessionID string `json:"session_id"`
	}
	if err := json.NewDecoder(req.Body).Decode(&body); err != nil {
		return nil, err
	}
	user := strings.TrimPrefix(body.SessionID, "session ")
	at := d.now()
	d.mu.Lock()
	d.calls = append(d.calls, at)
	d.callsOfUser[user] = append(d.callsOfUser[user], at)
	d.running++
	d.mostAtOnce = max(d.mostAtOnce, d.running)
	d.mu.Unlock()
	d.countGoroutines()
	a := d.endpoint(at, user)
	select {
	case <-time.After(a.after):
	case <-req.Context().Done():
		a.err = req.Context().Err()
	}
	d.mu.Lock()
	d.running--
	d.mu.Unlock()
	switch {
	case a.err != nil:
		return nil, a.err
	case a.status != 200:
		return response(req, a, fmt.Sprintf(`{"code":"user-%s","error":"of user-%s"}`, user, user)), nil
	}
	data, _ := walletauth.JSONCodec{}.Encode(user, d.session(user, 5*time.Minute))
	return response(req, a, string(data)), nil
}

func response(req *http.Request, a endpointReply, body string) *http.Response {
	h := http.Header{"Content-Type": {"application/json"}}
	for name, values := range a.header {
		h[name] = values
	}
	return &http.Response{StatusCode: a.status, Header: h, Body: io.NopCloser(strings.NewReader(body)), Request: req}
}

func (d *badDay) countGoroutines() {
	n := runtime.NumGoroutine() - d.idle - d.users
	d.mu.Lock()
	d.goroutines = max(d.goroutines, n)
	d.mu.Unlock()
}

// request is one of user's, which may be sent again and again.
func (d *badDay) request(user string) *http.Request {
	req, err := http.NewRequestWithContext(walletauth.WithKey(d.t.Context(), user), http.MethodGet, d.BaseURL+"/wallets", nil)
	if err != nil {
		d.t.Error(err)
	}
	return req
}

// ask sends one request of user.
func (d *badDay) ask(user string) error { return d.send(d.request(user)) }

func (d *badDay) send(req *http.Request) error {
	began := d.now()
	resp, err := d.RoundTrip(req)
	if err == nil {
		return resp.Body.Close()
	}
	d.mu.Lock()
	d.longest = max(d.longest, d.now()-began)
	d.mu.Unlock()
	return err
}

// askUntilServed asks once a second, first at phase, until user is served.
func (d *badDay) askUntilServed(user string, phase time.Duration) {
	req := d.request(user)
	time.Sleep(phase)
	for d.send(req) != nil {
		time.Sleep(time.Second - (d.now()-phase)%time.Second)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.served = append(d.served, d.now())
}

// askAll lets all users ask until they are served.
func (d *badDay) askAll(phase func(user int) time.Duration) {
	var all sync.WaitGroup
	for i := range d.users {
		all.Go(func() { d.askUntilServed(fmt.Sprint(i), phase(i)) })
	}
	all.Wait()
	slices.Sort(d.calls)
	slices.Sort(d.served)
	if d.users > 1 {
		d.t.Log(d)
	}
}

func (d *badDay) String() string {
	return fmt.Sprintf("%d calls, %d updates, last served at %v of %d, %d at once, %d goroutines, longest failure %v, %v, held %d",
		len(d.calls), d.updates, slices.Max(append(d.served, 0)), len(d.served), d.mostAtOnce, d.goroutines, d.longest, d.events, d.held)
}

func (d *badDay) sent() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.calls)
}

// between counts the calls in [from, to), once they are sorted.
func (d *badDay) between(from, to time.Duration) int {
	first, _ := slices.BinarySearch(d.calls, from)
	last, _ := slices.BinarySearch(d.calls, to)
	return last - first
}

// busiest is the most calls of any second that begins in [from, to).
func (d *badDay) busiest(from, to time.Duration) (most int) {
	for _, at := range d.calls {
		if at >= from && at < to {
			most = max(most, d.between(at, at+time.Second))
		}
	}
	return most
}

func (d *badDay) lastServed() time.Duration { return d.served[len(d.served)-1] }

// crowdSize is how many users there are where their number matters most; a
// quarter of them elsewhere, for the sake of the tests' speed. The race detector
// knows at most 8,128 goroutines. All bounds are the same.
func crowdSize() int { return many(10_000) }

// many is n, or a tenth of it under the race detector, which makes everything ten
// times as slow.
func many(n int) int {
	if simulation.RaceDetector {
		return n / 10
	}
	return n
}

// phases starts the users at an even pace within a second.
func (d *badDay) phases(user int) time.Duration {
	return time.Duration(user) * time.Second / time.Duration(d.users)
}

func atMost[T cmp.Ordered](t *testing.T, what string, got, most T) {
	t.Helper()
	if got > most {
		t.Errorf("%s: %v, want at most %v", what, got, most)
	}
}

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// down is an endpoint that answers a until the outage is over.
func down(outage time.Duration, a endpointReply) func(time.Duration, string) endpointReply {
	return func(at time.Duration, _ string) endpointReply {
		if at < outage {
			return a
		}
		return healthyAnswer
	}
}

var (
	unavailable = endpointReply{after: 20 * time.Millisecond, status: 503}
	noConnect   = endpointReply{err: refusedDial}
	limited     = endpointReply{after: 20 * time.Millisecond, status: 429, header: http.Header{"Retry-After": {"20"}}}
	hanging     = endpointReply{after: time.Hour, status: 503}
)

// The tokens of all users expire in the second in which the endpoint goes down
// for a minute.
func TestEndpointOutage(t *testing.T) {
	for _, test := range []struct {
		name       string
		users      int
		answer     endpointReply
		goroutines int // beside the users
		longest    time.Duration
	}{
		{"answers 503", crowdSize(), unavailable, 5_000, 8 * time.Second},
		{"refuses connections", crowdSize() / 4, noConnect, 5_000, 8 * time.Second},
		{"answers 429, Retry-After 20", crowdSize() / 4, limited, 5_000, 8 * time.Second},
		// Attempts are waited for until they are cut off after 30 s, and those that
		// wait for a place until it is known that none come free, 10 s.
		{"hangs", crowdSize() / 4, hanging, 5_000, 36 * time.Second},
	} {
		inBubble(t, "that "+test.name+", with many users", func(t *testing.T) {
			const outage = time.Minute
			d := newBadDay(t, test.users, 0, down(outage, test.answer))
			d.askAll(d.phases)
			atMost(t, "calls in any second after the fifth", d.busiest(5*time.Second, outage-time.Second), 100)
			atMost(t, "calls in any second once it is back", d.busiest(outage-time.Second, time.Hour), 2_000)
			atMost(t, "goroutines beside the users", d.goroutines, test.goroutines)
			atMost(t, "time until a request fails", d.longest, test.longest)
			equal(t, "Updates of the store, one for each call", d.updates, len(d.calls))
			equal(t, "users served", len(d.served), test.users)
			atMost(t, "time after the outage until all are served", d.lastServed()-outage, 90*time.Second)
			equal(t, "events that it is down", d.events[walletauth.EndpointDown], 1)
			equal(t, "events that it is back", d.events[walletauth.EndpointUp], 1)
			atMost(t, "calls that failed, of which there are events", d.events[walletauth.RefreshFailed], len(d.calls)-test.users)
			equal(t, "refreshes", d.events[walletauth.RefreshSucceeded], test.users)
			equal(t, "refreshes that ended", d.events[walletauth.RefreshSucceeded]+d.events[walletauth.RefreshFailed], d.events[walletauth.RefreshBegan])
		})
	}
	for name, a := range map[string]endpointReply{"answers 503": unavailable, "refuses connections": noConnect} {
		for _, outage := range []time.Duration{10 * time.Second, time.Minute, 10 * time.Minute} {
			t.Run(fmt.Sprintf("that %s for %v, with one user", name, outage), func(t *testing.T) {
				for phase := time.Duration(0); phase < time.Second; phase += 50 * time.Millisecond {
					synctest.Test(t, func(t *testing.T) {
						d := newBadDay(t, 1, 0, down(outage, a))
						d.askAll(func(int) time.Duration { return phase })
						atMost(t, "time after the outage until the user is served", d.lastServed()-outage, 5*time.Second)
						atMost(t, "calls", len(d.calls), 15+int(outage/(4*time.Second)))
						equal(t, "refused", d.held, 0)
					})
				}
			})
		}
	}
}

func TestRequestsWhileTheEndpointIsDown(t *testing.T) {
	inBubble(t, "of one user, a hundred in turn, make at most 10 calls and wait for 5 s in all", func(t *testing.T) {
		d := newBadDay(t, 1, 0, down(time.Hour, unavailable))
		for range 100 {
			if d.ask("0") == nil {
				t.Fatal("served")
			}
		}
		atMost(t, "calls", len(d.calls), 10)
		equal(t, "time that they took", d.now(), 5*time.Second+unavailable.after)
		d.stop()
	})
	inBubble(t, "fail after 5 s when offline, with the network's error", func(t *testing.T) {
		d := newBadDay(t, 1, 0, down(time.Hour, noConnect))
		err := d.ask("0")
		if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%v, want the network's error", err)
		}
		equal(t, "time until it failed", d.longest, 5*time.Second)
		d.stop()
	})
	inBubble(t, "get an error that holds nothing of another user", func(t *testing.T) {
		d := newBadDay(t, 4, 0, down(time.Hour, unavailable))
		var all sync.WaitGroup
		for i := range 2 {
			all.Go(func() { _ = d.ask(fmt.Sprint(i)) })
		}
		synctest.Wait()
		time.Sleep(100 * time.Millisecond)
		all.Go(func() { _ = d.ask("2") }) // the probe
		synctest.Wait()
		err := d.ask("3")
		var refused *walletauth.RefreshError
		if !errors.As(err, &refused) || refused.StatusCode != 503 || strings.Contains(err.Error(), "user-") {
			t.Errorf("%v, want the status and nothing of another user", err)
		}
		equal(t, "time until it failed", d.longest, 0)
		d.stop()
		all.Wait()
	})
}

// stop ends what runs in the background.
func (d *badDay) stop() {
	d.t.Helper()
	if err := d.Shutdown(d.t.Context()); err != nil {
		d.t.Error(err)
	}
}

func TestShutdownInAnOutage(t *testing.T) {
	for _, pause := range []time.Duration{100 * time.Millisecond, 2 * time.Second, 4 * time.Second, 20 * time.Second} {
		inBubble(t, fmt.Sprintf("of an endpoint that refuses connections does not wait for the next attempt, %v after the first", pause), func(t *testing.T) {
			d := newBadDay(t, 1, 0, down(time.Hour, noConnect))
			failed := make(chan error, 1)
			go func() { failed <- d.ask("0") }()
			time.Sleep(pause)
			before, asked := d.sent(), d.now()
			d.stop()
			equal(t, "time that Shutdown took", d.now()-asked, 0)
			if err := <-failed; err == nil {
				t.Error("the request was served")
			}
			atMost(t, "time until the request failed", d.longest, min(pause, 5*time.Second))
			time.Sleep(time.Minute)
			equal(t, "calls since", d.sent(), before)
		})
	}
	inBubble(t, "sends nothing for those who wait for a place", func(t *testing.T) {
		d := newBadDay(t, 500, 0, down(time.Hour, endpointReply{after: 5 * time.Second, err: refusedDial}))
		var all sync.WaitGroup
		for i := range d.users {
			all.Go(func() { _ = d.ask(fmt.Sprint(i)) })
		}
		synctest.Wait()
		d.stop()
		all.Wait()
		equal(t, "calls", d.sent(), 256)
		equal(t, "time until all ended", d.now(), 5*time.Second)
	})
}

func TestHealthyEndpoint(t *testing.T) {
	inBubble(t, "refuses none of ten thousand who ask at once", func(t *testing.T) {
		d := newBadDay(t, crowdSize(), 0, func(time.Duration, string) endpointReply { return healthyAnswer })
		d.askAll(func(int) time.Duration { return 0 })
		equal(t, "calls", len(d.calls), crowdSize())
		equal(t, "calls at once", d.mostAtOnce, 256)
		equal(t, "failed requests, by how long they took", d.longest, 0)
		rounds := time.Duration((crowdSize() + 255) / 256)
		equal(t, "time until all are served", d.lastServed(), rounds*healthyAnswer.after)
		equal(t, "events of the endpoint", d.events[walletauth.EndpointDown]+d.events[walletauth.EndpointUp], 0)
	})
	inBubble(t, "throttles nobody because one session always gets a 500", func(t *testing.T) {
		d := newBadDay(t, 1_000, 0, func(_ time.Duration, user string) endpointReply {
			if user == "0" {
				return endpointReply{after: 20 * time.Millisecond, status: 500}
			}
			return healthyAnswer
		})
		stop := make(chan struct{})
		var all sync.WaitGroup
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Second):
					_ = d.ask("0")
				}
			}
		})
		for i := 1; i < d.users; i++ {
			time.Sleep(100 * time.Millisecond)
			began := d.now()
			if err := d.ask(fmt.Sprint(i)); err != nil {
				t.Fatal(err)
			}
			equal(t, "time that a request of another took", d.now()-began, healthyAnswer.after)
		}
		close(stop)
		all.Wait()
		if n := len(d.callsOfUser["0"]); n < 20 {
			t.Errorf("%d calls of the bad session, want that it tries on", n)
		}
		d.stop()
	})
}

func TestKeepAliveInAnOutage(t *testing.T) {
	inBubble(t, "of thousands of keys", func(t *testing.T) {
		const outage = 100 * time.Second // the first tokens live for one minute
		d := newBadDay(t, crowdSize()/4, time.Minute, down(outage, unavailable))
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for i := range d.users {
			all.Go(func() {
				if err := d.KeepAlive(walletauth.WithKey(ctx, fmt.Sprint(i))); !errors.Is(err, context.Canceled) {
					t.Errorf("KeepAlive ended with %v", err)
				}
			})
		}
		time.Sleep(outage + 90*time.Second)
		synctest.Wait()
		cancel()
		all.Wait()
		slices.Sort(d.calls)
		t.Log(d)
		first := d.calls[0]
		atMost(t, "calls in any second after the fifth", d.busiest(first+5*time.Second, outage-time.Second), 100)
		atMost(t, "calls in any second once it is back", d.busiest(outage-time.Second, time.Hour), 2_000)
		atMost(t, "goroutines beside the callers", d.goroutines, 5_000)
		equal(t, "Updates of the store, one for each call", d.updates, len(d.calls))
		equal(t, "sessions that are fresh 90 s after it", d.events[walletauth.RefreshSucceeded], d.users)
	})
}

// Sessions that were issued in one second are refreshed apart from each other,
// and further apart from cycle to cycle, under traffic of one request in two
// seconds for each in the early window.
func TestBornTogether(t *testing.T) {
	inBubble(t, "and refreshed apart", func(t *testing.T) {
		const lifetime, cycles = 5 * time.Minute, 4
		d := newBadDay(t, crowdSize(), lifetime, func(time.Duration, string) endpointReply { return healthyAnswer })
		names := make([]string, d.users)
		for i := range names {
			names[i] = fmt.Sprint(i)
		}
		requests := make([]*http.Request, d.users)
		for i, user := range names {
			requests[i] = d.request(user)
		}
		var waited time.Duration
		time.Sleep(lifetime - time.Minute)
		for d.now() < cycles*lifetime {
			for i, user := range names {
				if i%(d.users/20) == 0 { // 20 groups ask one after the other
					time.Sleep(100 * time.Millisecond)
				}
				began := d.now()
				if s, _ := d.sessions.Load(t.Context(), user); time.Until(s.AccessTokenExpiresAt) > time.Minute {
					continue
				}
				if err := d.send(requests[i]); err != nil {
					t.Fatal(err)
				}
				waited = max(waited, d.now()-began)
			}
		}
		synctest.Wait()
		nth := func(n int) (times []time.Duration) {
			for _, calls := range d.callsOfUser {
				if len(calls) >= n {
					times = append(times, calls[n-1])
				}
			}
			slices.Sort(times)
			return times
		}
		first, fourth := nth(1), nth(4)
		slices.Sort(d.calls)
		d.stop()
		equal(t, "time that a request waited", waited, 0)
		equal(t, "sessions in the fourth cycle", len(fourth), d.users)
		mostFirst := d.busiest(first[0], first[len(first)-1])
		mostFourth := d.busiest(fourth[0], fourth[len(fourth)-1])
		var period time.Duration
		for i := range fourth {
			period += fourth[i] / 4 / time.Duration(len(fourth))
		}
		mean := float64(d.users) / period.Seconds()
		t.Logf("most in one second: %.2f%% of the first cycle, %.2f times the mean in the fourth", 100*float64(mostFirst)/float64(d.users), float64(mostFourth)/mean)
		if !simulation.RaceDetector { // with a tenth of them, chance plays a larger part
			atMost(t, "of the sessions in any second of the first cycle", float64(mostFirst)/float64(d.users), 0.035)
			atMost(t, "times the mean in any second of the fourth", float64(mostFourth)/mean, 3)
		}
	})
}

// Two processes that share a session refresh it at the same point of the early
// window, up to a tenth of the offset, which keeps them apart.
func TestEarlyRefreshInTwoProcesses(t *testing.T) {
	inBubble(t, "begins at the same offset up to a tenth", func(t *testing.T) {
		const users, window = 50, time.Minute // a fifth of the lifetime
		var processes [2]*badDay
		var all sync.WaitGroup
		for i := range processes {
			d := newBadDay(t, users, 5*time.Minute, func(time.Duration, string) endpointReply { return healthyAnswer })
			processes[i] = d
			for user := range users {
				all.Go(func() {
					req := d.request(fmt.Sprint(user))
					for time.Sleep(4 * time.Minute); d.now() < 5*time.Minute; time.Sleep(100 * time.Millisecond) {
						if err := d.send(req); err != nil {
							t.Error(err)
						}
					}
				})
			}
		}
		all.Wait()
		together := 0
		for user := range users {
			a, b := processes[0].callsOfUser[fmt.Sprint(user)], processes[1].callsOfUser[fmt.Sprint(user)]
			if len(a) != 1 || len(b) != 1 {
				t.Fatalf("%d and %d refreshes, want one of each", len(a), len(b))
			}
			apart := (a[0] - b[0]).Abs()
			atMost(t, "time between the two", apart, window*3/4/10+100*time.Millisecond)
			if apart < 100*time.Millisecond {
				together++
			}
		}
		atMost(t, "sessions refreshed by both at once, by chance", together, users/2)
		for _, d := range processes {
			d.stop()
		}
	})
}

// Refreshes ahead of time have a token to go on with, so they are the first to be
// put off.
func TestRefreshesAheadOfTimeInAnOutage(t *testing.T) {
	inBubble(t, "are sent as probes, two seconds after the last one at the earliest", func(t *testing.T) {
		const lifetime = 5 * time.Minute
		d := newBadDay(t, 20, lifetime, down(time.Hour, unavailable))
		time.Sleep(lifetime - 14*time.Second) // in the last quarter of the early window, for 4 s
		ask := func(first, last int) {
			for user := first; user < last; user++ {
				if err := d.ask(fmt.Sprint(user)); err != nil {
					t.Fatal(err)
				}
			}
		}
		ask(0, 2) // after which the endpoint is known to fail
		for range 18 {
			time.Sleep(100 * time.Millisecond)
			ask(2, d.users)
		}
		d.stop()
		probes := 0
		for user := 2; user < d.users; user++ {
			probes += len(d.callsOfUser[fmt.Sprint(user)])
		}
		equal(t, "sessions that sent a probe within two seconds", probes, 1)
	})
}
