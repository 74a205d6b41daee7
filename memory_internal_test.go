package walletauth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

// patient is a Clock that only the test moves.
type patient struct{ now time.Time }

func (c *patient) Now() time.Time                       { return c.now }
func (c *patient) After(time.Duration) <-chan time.Time { return nil }

func seconds(n int) time.Duration { return time.Duration(n) * time.Second }

func pausesBy(c *patient) *pauses[string] {
	return &pauses[string]{clock: c, memory: time.Minute}
}

func (p *pauses[T]) demand(t *testing.T, want time.Duration) {
	t.Helper()
	if _, left := p.active("key"); left != want {
		t.Errorf("pauses for %s, want %s", left, want)
	}
}

func TestAPauseGrowsWithEveryFailureInARow(t *testing.T) {
	c := &patient{}
	p := pausesBy(c)
	p.demand(t, 0)
	for n := 1; n <= 3; n++ {
		p.fail("key", fmt.Sprint(n), seconds)
		p.demand(t, seconds(n))
		c.now = c.now.Add(seconds(n))
		p.demand(t, 0)
	}
	c.now = c.now.Add(time.Minute)
	p.fail("key", "within memory", seconds)
	p.demand(t, seconds(4))
	c.now = c.now.Add(seconds(4) + time.Minute + 1)
	p.fail("key", "forgotten by then", seconds)
	p.demand(t, seconds(1))
	p.clear("key")
	p.demand(t, 0)
	p.fail("key", "again", seconds)
	p.demand(t, seconds(1))
}

func TestAKeyThatWorksEndsNoPauseButItsOwn(t *testing.T) {
	p := pausesBy(&patient{})
	p.fail("key", "down", seconds)
	p.fail("another", "down", seconds)
	p.clear("another")
	p.demand(t, seconds(1))
}

func TestTheSameFailureCountsOnceUntilItsPauseHasEnded(t *testing.T) {
	c := &patient{}
	p := pausesBy(c)
	for range 10 {
		p.fail("key", "same", seconds)
	}
	p.demand(t, seconds(1))
	c.now = c.now.Add(seconds(1))
	p.fail("key", "same", seconds)
	p.demand(t, seconds(2))
}

func TestTheSameFailureWithoutAPauseCountsOnce(t *testing.T) {
	p := pausesBy(&patient{})
	for range 10 {
		p.fail("key", "same", func(n int) time.Duration { return seconds(n - 1) })
	}
	p.demand(t, 0)
	p.fail("key", "another", func(n int) time.Duration { return seconds(n - 1) })
	p.demand(t, seconds(1))
}

func TestPausesThatNoLongerCountMakeRoom(t *testing.T) {
	c := &patient{}
	p := pausesBy(c)
	for i := range 100_000 {
		p.fail(fmt.Sprint(i), "", seconds)
		c.now = c.now.Add(time.Second)
	}
	if n := len(p.byKey); n > 256 { // a minute and a second of them count
		t.Errorf("%d keys are remembered", n)
	}
	if _, left := p.active("99999"); left != 0 {
		t.Errorf("left %s", left)
	}
}

func TestEndingsAreRememberedUpToABound(t *testing.T) {
	var e endings
	cause := errors.New("over")
	for i := range maxEnded + 1000 {
		s := &Session{RefreshToken: fmt.Sprint(i)}
		e.add(s, cause)
		if e.cause(s) != cause {
			t.Fatal("the last one is forgotten")
		}
	}
	if n := len(e.causes); n != maxEnded {
		t.Errorf("%d are remembered, want %d", n, maxEnded)
	}
	if e.cause(&Session{RefreshToken: "another"}) != nil {
		t.Error("another is over too")
	}
}

// moody is a Refresher that works or does not, for all alike.
type moody struct{ err error }

func (m *moody) Refresh(_ context.Context, s *Session) (*Session, error) {
	if m.err != nil {
		return nil, m.err
	}
	next := *s
	next.AccessToken += "'"
	next.AccessTokenExpiresAt = time.Now().Add(5 * time.Minute)
	return &next, nil
}

type okBase struct{}

func (okBase) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
}

func TestKeysThatWereUsedLeaveNothing(t *testing.T) {
	const keys = 100_000
	synctest.Test(t, func(t *testing.T) {
		st := &MemoryStore{}
		for i := range keys {
			st.put(fmt.Sprint(i), &Session{
				ID: "sid", UserID: "user", ProjectID: "project", CreatedAt: time.Now(),
				AccessToken: "access", AccessTokenExpiresAt: time.Now().Add(5 * time.Minute),
				RefreshToken: "refresh-" + fmt.Sprint(i), RefreshTokenExpiresAt: time.Now().Add(24 * time.Hour),
			})
		}
		mood := &moody{}
		tr := &Transport{Store: st, BaseURL: "https://walletkit.test", Base: okBase{}, Refresher: mood}
		each := func(works bool) {
			t.Helper()
			for i := range keys {
				if i%100 == 0 {
					synctest.Wait() // the more goroutines at once, the more stays allocated for them
				}
				req, err := http.NewRequestWithContext(WithKey(t.Context(), fmt.Sprint(i)), "GET", "https://walletkit.test/", nil)
				if err != nil {
					t.Fatal(err)
				}
				resp, err := tr.RoundTrip(req)
				if (err == nil) != works {
					t.Fatalf("key %d: %v", i, err)
				}
				if err == nil {
					_ = resp.Body.Close()
				}
			}
		}
		each(true) // used
		before := heapInUse()

		time.Sleep(5 * time.Minute)
		mood.err = &RefreshError{StatusCode: 404}
		each(false)
		mood.err = nil
		time.Sleep(time.Second)
		each(true) // recovered, refreshed
		synctest.Wait()

		k := tr.keeper
		if n := len(k.cooling.byKey) + len(k.refusals.byKey) + len(k.flying) + len(k.unsaved.byKey) + len(k.ended.causes) + len(st.updates.locks); n != 0 {
			t.Errorf("%d entries are left", n)
		}
		if grown := heapInUse() - before; grown > keys*32 {
			t.Errorf("the heap has grown by %d bytes", grown)
		}
		runtime.KeepAlive(tr)
	})
}

func heapInUse() int64 {
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestALockThatNobodyHoldsOrWaitsForIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var k keyedMutex
		unlock, err := k.lock(t.Context(), "key")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := k.lock(ctx, "key"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, want that the wait ended", err)
		}
		if _, err := k.lock(ctx, "other"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, want that ctx had ended", err)
		}
		if n := len(k.locks); n != 1 {
			t.Errorf("%d locks, want 1", n)
		}
		unlock()
		if n := len(k.locks); n != 0 {
			t.Errorf("%d locks, want none", n)
		}
	})
}
