package throttle

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// bubble runs a test in bubble time with a Throttle of its own.
func bubble(t *testing.T, name string, test func(*testing.T, *Throttle)) {
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { test(t, New(realClock{})) })
	})
}

// acquire asks for a call and waits for its place.
func acquire(th *Throttle, token uint64, background bool) (*Call, error) {
	call, err := th.Ask(token, background)
	if err != nil {
		return nil, err
	}
	if _, err := call.Wait(); err != nil {
		call.Done(Unknown, nil, 0)
		return nil, err
	}
	return call, nil
}

// ask asks for a call that need not wait, and returns nil if it is refused.
func ask(t *testing.T, th *Throttle, token uint64) *Call {
	t.Helper()
	began := time.Now()
	call, err := acquire(th, token, false)
	if call == nil && !errors.Is(err, errDown) && !errors.Is(err, ErrUnanswered) {
		t.Fatalf("refused with %v, want the last failure", err)
	}
	equal(t, "time that asking took", time.Since(began), 0)
	return call
}

func sends(t *testing.T, th *Throttle, token uint64) *Call {
	t.Helper()
	call := ask(t, th, token)
	if call == nil {
		t.Fatalf("token %d is refused", token)
	}
	call.Sent()
	t.Cleanup(func() {
		select {
		case <-call.ended:
		default:
			call.Done(Unknown, nil, 0)
		}
	})
	return call
}

func refused(t *testing.T, th *Throttle, token uint64) {
	t.Helper()
	if ask(t, th, token) != nil {
		t.Fatalf("token %d is not refused", token)
	}
}

func fails(t *testing.T, th *Throttle, token uint64) {
	t.Helper()
	sends(t, th, token).Done(Failed, errDown, 0)
}

func answers(t *testing.T, th *Throttle, token uint64) {
	t.Helper()
	sends(t, th, token).Done(Answered, nil, 0)
}

// takeDown lets tokens 1 and 2 fail, and token 3 as the first probe.
func takeDown(t *testing.T, th *Throttle) {
	t.Helper()
	for token := range uint64(3) {
		fails(t, th, token+1)
	}
}

func TestHealthy(t *testing.T) {
	bubble(t, "refuses nobody of those who come at once, and 256 run at once", func(t *testing.T, _ *Throttle) {
		w := newWorld(func(time.Duration, uint64) reply { return reply{50 * time.Millisecond, Answered, 0} })
		w.runAll(crowd, true)
		equal(t, "calls", len(w.calls), crowd)
		equal(t, "refused", w.refusals, 0)
		equal(t, "at once", w.mostAtOnce, 256)
		equal(t, "taken for down", w.downs, 0)
		rounds := time.Duration((crowd + 255) / 256)
		equal(t, "all are served after", w.served[len(w.served)-1], rounds*50*time.Millisecond)
	})
	bubble(t, "lets those who wait go in order, in the background or not", func(t *testing.T, th *Throttle) {
		calls := fill(t, th)
		var order []int
		for i := range 4 {
			go func() {
				call, _ := acquire(th, uint64(1000+i), i%2 == 0)
				order = append(order, i)
				call.Done(Answered, nil, 0)
			}()
			synctest.Wait()
		}
		equal(t, "calls beyond 256", len(order), 0)
		for _, call := range calls {
			call.Done(Answered, nil, 0)
			synctest.Wait()
		}
		equal(t, "order", fmt.Sprint(order), "[0 1 2 3]")
		equal(t, "running in the end", th.admitted, 0)
	})
	bubble(t, "is not throttled by one session that always gets a 500", func(t *testing.T, th *Throttle) {
		for range 100 {
			fails(t, th, 1)
		}
		for token := range uint64(100) {
			sends(t, th, token)
		}
	})
	bubble(t, "is not throttled by failures with an answer in between", func(t *testing.T, th *Throttle) {
		for token := range uint64(100) {
			fails(t, th, token)
			answers(t, th, 1000)
		}
	})
	bubble(t, "is not throttled by what tells nothing", func(t *testing.T, th *Throttle) {
		for token := range uint64(100) {
			sends(t, th, token).Done(Unknown, nil, time.Minute)
		}
	})
	bubble(t, "is not throttled by an answer that took 11 s", func(t *testing.T, th *Throttle) {
		fails(t, th, 1)
		call := sends(t, th, 2)
		time.Sleep(11 * time.Second)
		call.Done(Answered, nil, 0)
		equal(t, "state", th.state, healthy)
	})
}

// fill lets 256 calls run.
func fill(t *testing.T, th *Throttle) (calls []*Call) {
	for token := range uint64(256) {
		calls = append(calls, sends(t, th, token))
	}
	return calls
}

func TestFailing(t *testing.T) {
	bubble(t, "begins with the second token that fails, and a probe goes out at once", func(t *testing.T, th *Throttle) {
		fails(t, th, 1)
		fails(t, th, 2)
		sends(t, th, 3)
		refused(t, th, 4)
	})
	bubble(t, "refuses those who wait, with the same error", func(t *testing.T, th *Throttle) {
		calls := fill(t, th)
		var refusals atomic.Int32
		for token := range uint64(100) {
			go func() {
				if _, err := acquire(th, 1000+token, false); err == errDown {
					refusals.Add(1)
				}
			}()
			synctest.Wait()
		}
		calls[0].Done(Failed, errors.New("another"), 0)
		synctest.Wait() // one token has failed, and the first who waits has its place
		calls[1].Done(Failed, errDown, 0)
		synctest.Wait()
		equal(t, "refused", refusals.Load(), 99)
		equal(t, "held back", th.held, 99)
	})
	bubble(t, "begins when two calls have had no answer for 10 s, which those who wait notice", func(t *testing.T, th *Throttle) {
		fill(t, th)
		began := time.Now()
		_, err := acquire(th, 1000, false)
		equal(t, "error", err, ErrUnanswered)
		equal(t, "after", time.Since(began), 10*time.Second)
	})
	bubble(t, "begins not for calls that wait for something else", func(t *testing.T, th *Throttle) {
		for token := range uint64(10) {
			ask(t, th, token) // and has not begun
		}
		time.Sleep(time.Minute)
		sends(t, th, 1000)
	})
	bubble(t, "sends a probe every 250 ms by tokens not tried yet", func(t *testing.T, th *Throttle) {
		takeDown(t, th)
		for token := range uint64(100) {
			time.Sleep(250*time.Millisecond - 1)
			refused(t, th, 100+token)
			time.Sleep(time.Nanosecond)
			refused(t, th, 1) // tried
			fails(t, th, 100+token)
		}
	})
	bubble(t, "sends a probe every second by tokens that were tried", func(t *testing.T, th *Throttle) {
		takeDown(t, th)
		for range 10 {
			time.Sleep(time.Second - time.Nanosecond)
			refused(t, th, 1)
			time.Sleep(time.Nanosecond)
			fails(t, th, 1)
			refused(t, th, 2)
		}
	})
	bubble(t, "lets no token that was tried take the place of a new one", func(t *testing.T, th *Throttle) {
		takeDown(t, th)
		time.Sleep(time.Second)
		hangs := sends(t, th, 1)
		refused(t, th, 2)
		sends(t, th, 4)
		hangs.Done(Failed, errDown, 0)
	})
	bubble(t, "puts refreshes ahead of time off for 2 s", func(t *testing.T, th *Throttle) {
		takeDown(t, th)
		time.Sleep(2*time.Second - 1)
		_, err := acquire(th, 4, true)
		equal(t, "error", err, errDown)
		time.Sleep(time.Nanosecond)
		if _, err := acquire(th, 4, true); err != nil {
			t.Error("and is refused after that")
		}
	})
	bubble(t, "takes tokens for new again after 1,024, and keeps no more", func(t *testing.T, th *Throttle) {
		takeDown(t, th)
		for token := range uint64(maxFailed) {
			time.Sleep(250 * time.Millisecond)
			fails(t, th, 100+token)
		}
		time.Sleep(250 * time.Millisecond)
		fails(t, th, 1)
		atMost(t, "tokens remembered", len(th.failed), maxFailed)
	})
	bubble(t, "ends with the answer to a call that hung", func(t *testing.T, th *Throttle) {
		calls := fill(t, th)
		time.Sleep(10 * time.Second)
		sends(t, th, 1000)
		refused(t, th, 1001)
		for _, call := range calls {
			call.Done(Answered, nil, 0)
		}
		sends(t, th, 1001)
	})
	bubble(t, "needs no error of the caller", func(t *testing.T, th *Throttle) {
		for token := range uint64(3) {
			sends(t, th, token).Done(Failed, nil, 0)
		}
		if call, err := acquire(th, 3, false); call != nil || err == nil {
			t.Errorf("got %v, %v", call, err)
		}
	})
}

// tell lets so many tokens fail with a Retry-After, each as soon as it may.
func tell(t *testing.T, th *Throttle, tokens int, after ...time.Duration) {
	t.Helper()
	for i := range tokens {
		token := uint64(5000 + i)
		if at := th.RetryAt(token); !at.IsZero() {
			time.Sleep(time.Until(at))
		}
		sends(t, th, token).Done(Failed, errDown, after[i%len(after)])
	}
}

func TestRetryAfter(t *testing.T) {
	// bound is how long nobody is let go.
	bound := func(th *Throttle) time.Duration {
		if at := th.RetryAt(9000); !at.IsZero() {
			return time.Until(at)
		}
		return 0
	}
	for _, test := range []struct {
		name  string
		after []time.Duration // told to one token each
		want  time.Duration
	}{
		{"of two tokens binds no other", []time.Duration{20 * time.Second, 20 * time.Second, 0}, 250 * time.Millisecond},
		{"of three tokens binds all", []time.Duration{20 * time.Second, 20 * time.Second, 20 * time.Second}, 20 * time.Second},
		{"binds until the first of three times, which all agree on", []time.Duration{time.Hour, 5 * time.Second, 30 * time.Second}, 5 * time.Second},
		{"binds for a minute at most", []time.Duration{time.Hour, time.Hour, time.Hour}, time.Minute},
	} {
		bubble(t, test.name, func(t *testing.T, th *Throttle) {
			tell(t, th, 3, test.after...)
			equal(t, "until the next may go", bound(th), test.want)
			time.Sleep(test.want - 1)
			refused(t, th, 9000)
			time.Sleep(time.Nanosecond)
			sends(t, th, 9000)
		})
	}
	bubble(t, "of one token three times binds nobody", func(t *testing.T, th *Throttle) {
		for range 3 {
			sends(t, th, 1).Done(Failed, errDown, 20*time.Second)
		}
		fails(t, th, 2)
		sends(t, th, 3)
	})
	bubble(t, "of three tokens in more than 10 s binds nobody", func(t *testing.T, th *Throttle) {
		for token := range uint64(20) {
			sends(t, th, token).Done(Failed, errDown, 20*time.Second)
			time.Sleep(5*time.Second + 1)
		}
	})
	bubble(t, "of three tokens with an answer in between binds nobody", func(t *testing.T, th *Throttle) {
		for token := range uint64(20) {
			sends(t, th, token).Done(Failed, errDown, 20*time.Second)
			answers(t, th, 1000)
		}
		time.Sleep(time.Second)
		takeDown(t, th) // the third is a probe
	})
	bubble(t, "is not revoked by an answer that was under way", func(t *testing.T, th *Throttle) {
		call := sends(t, th, 1)
		tell(t, th, 3, 20*time.Second)
		call.Done(Answered, nil, 0)
		refused(t, th, 2)
		time.Sleep(20 * time.Second)
		answers(t, th, 2)
		sends(t, th, 3)
		sends(t, th, 4)
	})
	bubble(t, "binds again when three tokens are told so again", func(t *testing.T, th *Throttle) {
		tell(t, th, 3, 20*time.Second)
		for range 3 { // the probes of tried tokens take 2 s
			equal(t, "bound from the first one on", time.Since(th.advice[0].at)+bound(th), 20*time.Second)
			tell(t, th, 3, 20*time.Second)
		}
	})
}

func TestOpening(t *testing.T) {
	// open takes the endpoint down and lets a probe be answered while others are
	// refused, so that it does not count as healthy at once.
	open := func(t *testing.T, th *Throttle) {
		takeDown(t, th)
		time.Sleep(time.Second)
		probe := sends(t, th, 4)
		refused(t, th, 5)
		probe.Done(Answered, nil, 0)
	}
	// flood sends what is let go at this moment.
	flood := func(t *testing.T, th *Throttle) (calls int) {
		t.Helper()
		for call := ask(t, th, 6); call != nil; call = ask(t, th, 6) {
			calls++
			call.Done(Answered, nil, 0)
		}
		return calls
	}
	bubble(t, "doubles each second, to 600", func(t *testing.T, th *Throttle) {
		open(t, th)
		for i, want := range []int{31, 64, 128, 256, 512, 600, 600, 600} { // and the probe
			equal(t, fmt.Sprintf("calls in second %d", i+1), flood(t, th), want)
			time.Sleep(time.Second - 1)
			refused(t, th, 7)
			equal(t, "time until the next step", time.Until(th.RetryAt(7)), 1)
			time.Sleep(time.Nanosecond)
		}
	})
	bubble(t, "ends once nobody was refused for 5 s", func(t *testing.T, th *Throttle) {
		open(t, th)
		flood(t, th)
		time.Sleep(5 * time.Second)
		for token := range uint64(2000) {
			answers(t, th, token)
		}
	})
	bubble(t, "is left out if nobody was refused", func(t *testing.T, th *Throttle) {
		takeDown(t, th)
		time.Sleep(time.Second)
		for token := range uint64(2000) {
			answers(t, th, token)
		}
	})
	bubble(t, "lets 256 run at once and 600 wait or run, and refuses the rest", func(t *testing.T, th *Throttle) {
		open(t, th)
		for range 6 {
			flood(t, th)
			time.Sleep(time.Second)
		}
		var let, sent atomic.Int32
		for token := range uint64(1000) {
			go func() {
				call, err := acquire(th, token, false)
				if err != nil {
					return
				}
				sent.Add(1)
				time.Sleep(100 * time.Millisecond)
				call.Done(Answered, nil, 0)
				let.Add(1)
			}()
			synctest.Wait()
		}
		equal(t, "run at once", sent.Load(), 256)
		time.Sleep(time.Second / 2)
		synctest.Wait()
		equal(t, "let go", let.Load(), 600)
		time.Sleep(time.Second)
		for token := range uint64(600) {
			go acquire(th, token, false) // and none is done
		}
		synctest.Wait()
		time.Sleep(time.Second)
		refused(t, th, 1000)
		th.result(1, Failed, errDown, 0) // to end the bubble: who waits leaves
		th.result(2, Failed, errDown, 0)
	})
	bubble(t, "gives half of a step at most to refreshes ahead of time", func(t *testing.T, th *Throttle) {
		open(t, th)
		time.Sleep(time.Second)
		for i := range 100 {
			call, _ := acquire(th, 6, true)
			equal(t, fmt.Sprintf("call %d is let go", i), call != nil, i < 32)
		}
		equal(t, "left to requests that wait", flood(t, th), 32)
	})
	bubble(t, "of a flapping endpoint makes at most 96 calls in any second", func(t *testing.T, th *Throttle) {
		open(t, th)
		var sent []time.Time
		for i := range 100_000 { // a minute: of three calls, two fail
			if call := ask(t, th, uint64(i)); call != nil {
				call.Sent()
				sent = append(sent, time.Now())
				if len(sent)%3 == 0 {
					call.Done(Answered, nil, 0)
				} else {
					call.Done(Failed, errDown, 0)
				}
			}
			time.Sleep(600 * time.Microsecond)
		}
		for i := range sent[:len(sent)-96] {
			if within := sent[i+96].Sub(sent[i]); within < time.Second {
				t.Fatalf("97 calls within %v", within)
			}
		}
		t.Logf("%d calls in a minute", len(sent))
	})
}

func TestOnChange(t *testing.T) {
	// record keeps what OnChange is told. It calls back: no lock is held.
	record := func(th *Throttle) *[]string {
		var events []string
		th.OnChange = func(down bool, err error, held int) {
			th.RetryAt(1)
			events = append(events, fmt.Sprintf("down %t: %v, held %d", down, err, held))
		}
		return &events
	}
	// fail keeps the endpoint failing for so many seconds: two asks in each, of
	// which one is refused.
	fail := func(t *testing.T, th *Throttle, seconds int) {
		for range seconds {
			time.Sleep(time.Second)
			fails(t, th, 1)
			refused(t, th, 2)
		}
	}
	bubble(t, "tells once that it is down, after 5 s, and once that it is back", func(t *testing.T, th *Throttle) {
		events := record(th)
		takeDown(t, th)
		fail(t, th, 4)
		equal(t, "events before", len(*events), 0)
		fail(t, th, 60)
		equal(t, "events", fmt.Sprint(*events), "[down true: 503, held 4]")
		time.Sleep(time.Second)
		answers(t, th, 3)
		equal(t, "events", fmt.Sprint((*events)[1:]), "[down false: 503, held 64]")
	})
	bubble(t, "tells nothing of a flapping endpoint", func(t *testing.T, th *Throttle) {
		events := record(th)
		for range 10 {
			takeDown(t, th)
			fail(t, th, 4)
			time.Sleep(time.Second / 2)
			answers(t, th, 4)
		}
		equal(t, "events", len(*events), 0)
	})
	bubble(t, "tells nothing if nobody asked until it was back", func(t *testing.T, th *Throttle) {
		events := record(th)
		takeDown(t, th)
		time.Sleep(time.Minute)
		answers(t, th, 4)
		equal(t, "events", len(*events), 0)
	})
	bubble(t, "tells each outage that lasts", func(t *testing.T, th *Throttle) {
		events := record(th)
		for range 2 {
			fails(t, th, 1)
			fails(t, th, 2)
			fail(t, th, 10)
			time.Sleep(time.Second)
			answers(t, th, 3)
		}
		equal(t, "events", fmt.Sprint(*events), "[down true: 503, held 4 down false: 503, held 10 down true: 503, held 4 down false: 503, held 10]")
	})
}
