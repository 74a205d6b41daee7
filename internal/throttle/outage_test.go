package throttle

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

type realClock struct{} // of the bubble

func (realClock) Now() time.Time                         { return time.Now() }
func (realClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// A world is an endpoint and users who each ask once a second until they are
// served, by way of one Throttle. It counts in bubble time since its start.
type world struct {
	throttle *Throttle
	start    time.Time
	reply    func(at time.Duration, token uint64) reply

	mu         sync.Mutex
	calls      []time.Duration // when each was sent
	running    int
	mostAtOnce int
	served     []time.Duration // when each user was
	counts
	downs, ups int
	held       int           // back then, as told
	back       time.Duration // when that was told
}

// counts is what users count, each alone and then all together.
type counts struct {
	refusals int
	longest  time.Duration // that a request took to fail
	waited   time.Duration // until a call was refused
}

// A reply is what the endpoint does with a call.
type reply struct {
	after      time.Duration
	outcome    Outcome
	retryAfter time.Duration
}

var errDown = errors.New("503")

func newWorld(reply func(at time.Duration, token uint64) reply) *world {
	w := &world{throttle: New(realClock{}), start: time.Now(), reply: reply}
	w.throttle.OnChange = func(down bool, _ error, held int) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if down {
			w.downs++
		} else {
			w.ups, w.held = w.ups+1, held
			w.back = w.now()
		}
	}
	return w
}

func (w *world) now() time.Duration { return time.Since(w.start) }

// send is one call to the endpoint.
func (w *world) send(token uint64) reply {
	at := w.now()
	w.mu.Lock()
	w.calls = append(w.calls, at)
	w.running++
	w.mostAtOnce = max(w.mostAtOnce, w.running)
	w.mu.Unlock()
	r := w.reply(at, token)
	time.Sleep(r.after)
	w.mu.Lock()
	w.running--
	w.mu.Unlock()
	return r
}

// A user is one session: it backs off as a key of the transport does, 250 ms
// doubling to 4 s plus up to a fifth, and obeys the Retry-After it gets.
type user struct {
	*world
	counts
	token     uint64
	failures  int
	coolUntil time.Duration
}

// run asks once a second, first at phase, until the user is served.
func (u *user) run(phase time.Duration) {
	time.Sleep(phase)
	for {
		if u.refresh() {
			break
		}
		time.Sleep(time.Second - (u.now()-phase)%time.Second)
	}
	u.mu.Lock()
	u.served = append(u.served, u.now())
	u.mu.Unlock()
	u.add()
}

// refresh is one request that waits for a refresh, but not for longer than 5 s
// after its first failure.
func (u *user) refresh() (ok bool) {
	if u.now() < u.coolUntil {
		return false
	}
	began, leave := u.now(), time.Duration(0)
	defer func() {
		if !ok {
			u.failed(began, leave)
		}
	}()
	for {
		asked := u.now()
		call, err := u.throttle.Acquire(context.Background(), u.token, false)
		if err != nil {
			u.refusals++
			u.waited = max(u.waited, u.now()-asked)
			return false
		}
		call.Began()
		r := u.send(u.token)
		call.Done(r.outcome, errDown, r.retryAfter)
		if r.outcome == Answered {
			return true
		}
		u.failures++
		pause := min(250*time.Millisecond<<min(u.failures-1, 10), 4*time.Second)
		pause += pause * time.Duration(hash(u.token, uint64(u.failures))%1000) / 5000
		u.coolUntil = u.now() + max(pause, r.retryAfter)
		leave = cmp.Or(leave, u.now()+5*time.Second)
		if u.coolUntil > leave {
			return false
		}
		time.Sleep(u.coolUntil - u.now())
	}
}

func (u *user) failed(began, leave time.Duration) {
	failed := u.now()
	if leave > 0 {
		failed = min(failed, leave) // an attempt goes on without it
	}
	u.longest = max(u.longest, failed-began)
}

// add adds what the user counted to the world's counts.
func (u *user) add() {
	u.mu.Lock()
	defer u.mu.Unlock()
	all := &u.world.counts
	all.refusals += u.refusals
	all.longest = max(all.longest, u.longest)
	all.waited = max(all.waited, u.waited)
}

func hash(a, b uint64) uint64 {
	x := (a+1)*0x9e3779b97f4a7c15 + b
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// crowd is how many users there are. The race detector knows at most 8,128
// goroutines; under it the users are fewer, and all bounds are the same.
func crowd() int {
	if raceDetector {
		return 1_000
	}
	return 10_000
}

// runAll runs users to their end: spread over the second, or all in step.
func (w *world) runAll(users int, inStep bool) {
	var all sync.WaitGroup
	for i := range users {
		phase := time.Duration(0)
		if !inStep {
			phase = time.Duration(i) * time.Second / time.Duration(users)
		}
		u := &user{world: w, token: uint64(i)}
		all.Go(func() { u.run(phase) })
	}
	all.Wait()
	slices.Sort(w.calls)
	slices.Sort(w.served)
}

// between counts the calls in [from, to).
func (w *world) between(from, to time.Duration) int {
	first, _ := slices.BinarySearch(w.calls, from)
	last, _ := slices.BinarySearch(w.calls, to)
	return last - first
}

// busiest is the most calls of any second that begins in [from, to).
func (w *world) busiest(from, to time.Duration) (most int) {
	for _, at := range w.calls {
		if at >= from && at < to {
			most = max(most, w.between(at, at+time.Second))
		}
	}
	return most
}

func (w *world) String() string {
	return fmt.Sprintf("%d calls, %d served, last %v, %d at once, %d refusals (%d until it was back at %v), longest failure %v",
		len(w.calls), len(w.served), w.served[len(w.served)-1], w.mostAtOnce, w.refusals, w.held, w.back, w.longest)
}

// TestOutage: the endpoint is down for a minute, and every user's token has
// expired in the second in which that begins.
func TestOutage(t *testing.T) {
	const minute = time.Minute
	down := func(r reply) func(time.Duration, uint64) reply {
		return func(at time.Duration, _ uint64) reply {
			if at < minute {
				return r
			}
			return reply{after: 20 * time.Millisecond, outcome: Answered}
		}
	}
	hanging := func(at time.Duration, _ uint64) reply {
		if at < minute { // what hangs is cut off by the caller
			return reply{after: 30 * time.Second, outcome: Failed}
		}
		return reply{after: 20 * time.Millisecond, outcome: Answered}
	}
	for _, test := range []struct {
		name      string
		inStep    bool // all users ask at the same moment, not spread over the second
		reply     func(time.Duration, uint64) reply
		first     int           // at most so many calls in the first five seconds
		later     int           // and in the rest of the minute
		atOnce    int           // run at once
		longest   time.Duration // that a request takes to fail
		waited    time.Duration // until a call is refused
		allServed time.Duration
	}{
		{"answers 503", false, down(reply{20 * time.Millisecond, Failed, 0}), 256 + 21, 4 * 56, 256, 8 * time.Second, 0, 25 * time.Second},
		{"answers 503, all users in step", true, down(reply{20 * time.Millisecond, Failed, 0}), 256 + 21, 4 * 56, 256, 8 * time.Second, 20 * time.Millisecond, 25 * time.Second},
		{"answers 503 after 2 s", false, down(reply{2 * time.Second, Failed, 0}), 256 + 4, 56 / 2, 256, 8 * time.Second, 2 * time.Second, 25 * time.Second},
		{"refuses connections", false, down(reply{0, Failed, 0}), 256 + 21, 4 * 56, 256, 8 * time.Second, 0, 25 * time.Second},
		{"answers 429, Retry-After 20", false, down(reply{20 * time.Millisecond, Failed, 20 * time.Second}), 256 + 1, 3 * 4, 256, 8 * time.Second, 0, 45 * time.Second},
		// The attempts that hang are waited for until they are cut off.
		{"hangs", true, hanging, 256, 2 * 56 / 3, 256 + 20, 36 * time.Second, 10 * time.Second, 30 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(test.reply)
				w.runAll(crowd(), test.inStep)
				t.Log(w)
				atMost(t, "calls in the first 5 s", w.between(0, 5*time.Second), test.first)
				atMost(t, "calls in the rest of the outage", w.between(5*time.Second, minute), test.later)
				atMost(t, "calls in any second after the fifth", w.busiest(5*time.Second, minute-time.Second), 100)
				atMost(t, "calls in any second once it is back", w.busiest(minute-time.Second, time.Hour), 2000)
				atMost(t, "calls at once", w.mostAtOnce, test.atOnce)
				atMost(t, "time until a request fails", w.longest, test.longest)
				atMost(t, "time until a call is refused", w.waited, test.waited)
				atMost(t, "time until all are served", w.served[len(w.served)-1]-minute, test.allServed)
				equal(t, "users served", len(w.served), crowd())
				equal(t, "events that it is down", w.downs, 1)
				equal(t, "events that it is back", w.ups, 1)
			})
		})
	}
}

// TestFewUsers: those who are few recover as fast as one alone, and one alone
// meets no throttle at all. A session pauses for 4.8 s at most, and its user asks
// again within the second.
func TestFewUsers(t *testing.T) {
	for _, users := range []int{1, 2, 3, 20} {
		for _, outage := range []time.Duration{10 * time.Second, time.Minute, 10 * time.Minute} {
			t.Run(fmt.Sprintf("%d/%v", users, outage), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(func(at time.Duration, _ uint64) reply {
						if at < outage {
							return reply{20 * time.Millisecond, Failed, 0}
						}
						return reply{20 * time.Millisecond, Answered, 0}
					})
					w.runAll(users, false)
					t.Log(w)
					equal(t, "users served", len(w.served), users)
					atMost(t, "time until all are served", w.served[users-1]-outage, 6*time.Second)
					atMost(t, "longest pause between calls", w.longestPause(), 6*time.Second)
					if users == 1 {
						equal(t, "refused", w.refusals, 0)
					}
				})
			})
		}
	}
}

func (w *world) longestPause() (longest time.Duration) {
	for i := range w.calls[1:] {
		longest = max(longest, w.calls[i+1]-w.calls[i])
	}
	return longest
}

// TestBadSessions: sessions that always get a 500 while the others, 1,000 whose
// tokens expire over ten minutes, get their answer.
func TestBadSessions(t *testing.T) {
	const good, cycle = 1_000, 10 * time.Minute
	for _, test := range []struct {
		bad     int
		refused int // good ones at most
	}{
		{1, 0},
		{2, 0},
		{5, 10}, // who comes while another good one is the probe
	} {
		t.Run(fmt.Sprint(test.bad), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(func(_ time.Duration, token uint64) reply {
					if token < uint64(test.bad) {
						return reply{20 * time.Millisecond, Failed, 0}
					}
					return reply{20 * time.Millisecond, Answered, 0}
				})
				var all sync.WaitGroup
				for i := range test.bad {
					u := &user{world: w, token: uint64(i)}
					all.Go(func() {
						for w.now() < cycle {
							u.refresh()
							time.Sleep(time.Second)
						}
					})
				}
				for i := range good {
					u := &user{world: w, token: uint64(test.bad + i)}
					all.Go(func() {
						time.Sleep(time.Duration(i)*cycle/good + time.Duration(hash(u.token, 0)%1e9))
						u.run(0)
					})
				}
				all.Wait()
				t.Log(w)
				equal(t, "good ones served", len(w.served), good)
				atMost(t, "good ones refused", w.refusals, test.refused)
				equal(t, "events that it is down", w.downs, 0)
			})
		})
	}
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
