package remote

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

func TestStore(t *testing.T) {
	walletauthtest.TestStore(t, func(t *testing.T) walletauth.TokenStore { return corruptible{newTestStore(t, new(memory))} })
}

// TestStoreWithoutCopies: a negative MaxStaleness has every Load ask the server.
func TestStoreWithoutCopies(t *testing.T) {
	walletauthtest.TestStore(t, func(t *testing.T) walletauth.TokenStore {
		s := New(Config{Name: "test", Server: new(memory), Codec: walletauth.JSONCodec{}, Lease: time.Second, MaxStaleness: -1, MaxCopies: 100, MaxInFlight: 1})
		t.Cleanup(s.Close)
		return corruptible{s}
	})
}

// corruptible is a store that the suite can have unreadable sessions in.
type corruptible struct{ *Store }

func (c corruptible) Corrupt(t testing.TB, key string) {
	server, id := c.Server.(*memory), c.Server.ID(key)
	if err := server.call("", id, func(r *row) {
		r.Record = Record{Stamp: newStamp(), Fence: r.Fence + 1, Data: []byte("garbage")}
	}); err != nil {
		t.Fatal(err)
	}
	c.cache.doubt(id) // as a message would
}

type updateFunc = func(context.Context, *walletauth.Session) (*walletauth.Session, error)

// whileFailing is an fn that has the calls of a method fail for some time and
// reports whether its ctx ended meanwhile.
func whileFailing(failing *atomic.Bool, d time.Duration, ended *bool) updateFunc {
	return func(ctx context.Context, _ *walletauth.Session) (*walletauth.Session, error) {
		failing.Store(true)
		*ended = !sleep(ctx, d)
		failing.Store(false)
		return session(2), nil
	}
}

func TestRenewalThatFailsIsNoLossBeforeTheLeaseEnds(t *testing.T) {
	for d, want := range map[time.Duration]bool{14 * time.Second: false, 16 * time.Second: true} {
		t.Run(d.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var failing atomic.Bool
				s := newTestStore(t, &memory{fault: func(method string) error {
					if method == "Renew" && failing.Load() {
						return errNetwork
					}
					return nil
				}})
				var ended bool
				if err := s.Update(t.Context(), "k", whileFailing(&failing, d, &ended)); err != nil {
					t.Errorf("Update: %v", err)
				}
				if ended != want {
					t.Errorf("after %v without renewal the ctx of fn has ended: %v, want %v", d, ended, want)
				}
				wantLoad(t, s, "k", 2)
			})
		})
	}
}

func TestLeaseIsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := new(memory)
		s := newTestStore(t, server)
		var idle atomic.Bool
		var ended bool
		if err := s.Update(t.Context(), "k", whileFailing(&idle, 10*time.Minute, &ended)); err != nil || ended {
			t.Errorf("Update of 10 minutes: %v, its ctx has ended: %v", err, ended)
		}
		if n := server.count("Renew"); n < 118 || n > 120 {
			t.Errorf("in 10 minutes a lease of 15 s was renewed %d times, want one in 5 s", n)
		}
	})
}

func TestLostLeaseEndsTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := new(memory)
		s, other := newTestStore(t, server), newTestStore(t, server)
		calls := 0
		err := s.Update(t.Context(), "k", func(ctx context.Context, current *walletauth.Session) (*walletauth.Session, error) {
			if calls++; calls == 2 {
				return current, nil
			}
			_ = server.call("", "k", func(r *row) { r.until = time.Time{} }) // the server forgets
			save(t, other, "k", 1)
			if !sleep(ctx, time.Minute) && errors.Is(context.Cause(ctx), errLeaseLost) {
				return session(2), nil
			}
			t.Errorf("the ctx of fn: %v", context.Cause(ctx))
			return nil, errors.New("no")
		})
		if err != nil || calls != 2 {
			t.Errorf("Update after another holder has stored: %v, %d calls of fn", err, calls)
		}
		wantLoad(t, s, "k", 1)
	})
}

// TestEndedLeaseNeedsNoTimer: in a process that was stopped, fn may run before
// any timer fires.
func TestEndedLeaseNeedsNoTimer(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	h := &lease{Store: &Store{Config: Config{Lease: time.Second}}, ends: time.Now().Add(time.Minute)}
	c := &leaseContext{ctx, h, cancel}
	if err := c.Err(); err != nil {
		t.Errorf("before the end of the lease: %v", err)
	}
	h.ends = time.Now().Add(-time.Nanosecond)
	if err := c.Err(); !errors.Is(err, context.Canceled) || !errors.Is(context.Cause(c), errLeaseLost) {
		t.Errorf("after the end of the lease: %v, cause %v", err, context.Cause(c))
	}
}

// TestLostAnswers: each call is repeated after its answer was lost, and takes
// effect once.
func TestLostAnswers(t *testing.T) {
	for _, method := range []string{"Acquire", "Save", "Read", "Release"} {
		t.Run(method, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var losses atomic.Int32
				server := &memory{lost: func(called string) bool { return called == method && losses.Add(1) <= 3 }}
				s := newTestStore(t, server)
				began := time.Now()
				for n := 1; n <= 2; n++ {
					save(t, s, "k", n)
				}
				wantLoad(t, newTestStore(t, server), "k", 2)
				if took := time.Since(began); took > 5*time.Second {
					t.Errorf("it took %v: an Update waited for its own lease", took)
				}
			})
		})
	}
}

func TestServerAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var away atomic.Bool
		server := &memory{fault: func(string) error {
			if away.Load() {
				return errNetwork
			}
			return nil
		}}
		s := newTestStore(t, server)
		save(t, s, "k", 1)
		away.Store(true)
		began := time.Now()
		for range 100 {
			<-time.After(time.Second)
			wantLoad(t, s, "k", 1)
		}
		if took := time.Since(began) - 100*time.Second; took > time.Second {
			t.Errorf("Loads without a server took %v in all", took)
		}
		if err := walletauth.Save(t.Context(), s, "k", session(2)); !errors.Is(err, errNetwork) {
			t.Errorf("Update without a server: %v", err)
		}
		away.Store(false)
		<-time.After(2 * time.Second)
		save(t, newTestStore(t, server), "k", 3)
		<-time.After(6 * time.Second)
		_, _ = s.Load(t.Context(), "k") // finds out that the server is back
		synctest.Wait()
		wantLoad(t, s, "k", 3)
	})
}

func TestSaveRidesOutAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var away atomic.Bool
		server := &memory{fault: func(string) error {
			if away.Load() {
				return errNetwork
			}
			return nil
		}}
		s := newTestStore(t, server)
		err := s.Update(t.Context(), "k", func(context.Context, *walletauth.Session) (*walletauth.Session, error) {
			away.Store(true)
			time.AfterFunc(10*time.Second, func() { away.Store(false) })
			return session(1), nil
		})
		if err != nil {
			t.Errorf("Update: %v", err)
		}
		wantLoad(t, s, "k", 1)
	})
}

// TestWaitEndsThoughTheServerHangs: and what it grants late is given back.
func TestWaitEndsThoughTheServerHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var once atomic.Bool
		server := &memory{fault: func(method string) error {
			if method == "Acquire" && !once.Swap(true) {
				<-time.After(4 * time.Second)
			}
			return nil
		}}
		s := newTestStore(t, server)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if err := walletauth.Save(ctx, s, "k", session(1)); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("Update: %v after %v", err, time.Since(began))
		}
		<-time.After(4 * time.Second)
		began = time.Now()
		save(t, newTestStore(t, server), "k", 2)
		if took := time.Since(began); took > time.Second {
			t.Errorf("the next Update waited for %v", took)
		}
	})
}

// TestWaitEndsBetweenQuestions: what was granted by an answer that was lost is given
// back.
func TestWaitEndsBetweenQuestions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var once atomic.Bool
		server := &memory{lost: func(method string) bool { return method == "Acquire" && !once.Swap(true) }}
		ctx, cancel := context.WithTimeout(t.Context(), firstPause/4)
		defer cancel()
		if err := walletauth.Save(ctx, newTestStore(t, server), "k", session(1)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Update: %v", err)
		}
		synctest.Wait()
		began := time.Now()
		save(t, newTestStore(t, server), "k", 2)
		if took := time.Since(began); took > lastPause {
			t.Errorf("the next Update waited for %v", took)
		}
	})
}

func TestPanicOfTheClient(t *testing.T) {
	s := newTestStore(t, &memory{fault: func(method string) error {
		if method != "Probe" {
			panic("boom")
		}
		return nil
	}})
	if _, err := s.Load(t.Context(), "k"); err == nil || !strings.Contains(err.Error(), "boom") {
		t.Errorf("Load: %v", err)
	}
	if err := walletauth.Save(t.Context(), s, "k", session(1)); err == nil || !strings.Contains(err.Error(), "boom") {
		t.Errorf("Update: %v", err)
	}
}

// TestOneReadForAll: Loads that miss together ask once.
func TestOneReadForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &memory{fault: func(method string) error {
			if method == "Read" {
				<-time.After(time.Second)
			}
			return nil
		}}
		save(t, newTestStore(t, server), "k", 1)
		s := newTestStore(t, server)
		var all sync.WaitGroup
		for range 1000 {
			all.Go(func() {
				if _, err := s.Load(t.Context(), "k"); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if n := server.count("Read"); n != 1 {
			t.Errorf("1000 Loads at once read %d times", n)
		}
	})
}

// TestMaxStaleness: without a subscription, and when its messages stop coming, a copy
// is used for 5 seconds.
func TestMaxStaleness(t *testing.T) {
	for name, server := range map[string]*memory{
		"no subscription": {deaf: true},
		"no message arrives": {fault: func(method string) error {
			if method == "Probe" {
				return errNetwork
			}
			return nil
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newTestStore(t, server)
				save(t, s, "k", 1)
				<-time.After(time.Second) // for the subscription
				wantLoad(t, s, "k", 1)
				_ = server.call("", "k", func(r *row) { // unheard of
					r.Stamp = newStamp()
					r.Data, _ = walletauth.JSONCodec{}.Encode("k", session(2))
				})
				<-time.After(5 * time.Second)
				wantLoad(t, s, "k", 2)
			})
		})
	}
}

func TestSubscriptionCostsNoReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := new(memory)
		s, other := newTestStore(t, server), newTestStore(t, server)
		save(t, s, "k", 1)
		<-time.After(time.Second)
		wantLoad(t, s, "k", 1)
		reads := server.count("Read")
		for range 3600 {
			<-time.After(time.Second)
			wantLoad(t, s, "k", 1)
		}
		if n := server.count("Read") - reads; n != 0 {
			t.Errorf("Loads of an hour read %d times", n)
		}
		save(t, other, "k", 2)
		synctest.Wait()
		wantLoad(t, s, "k", 2)
		if err := walletauth.Delete(t.Context(), other, "k"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if _, err := s.Load(t.Context(), "k"); !errors.Is(err, walletauth.ErrNoSession) {
			t.Errorf("Load after a logout elsewhere: %v", err)
		}
	})
}

// runs reports whether the goroutines do.
func (v *invalidator) runs() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.ended != nil
}

// TestInvalidatorAwaitsTheFirstCopy: one that found no copy at its start and ended
// would leave the first ones alone.
func TestInvalidatorAwaitsTheFirstCopy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestStore(t, new(memory))
		if _, err := s.Load(t.Context(), "k"); !errors.Is(err, walletauth.ErrNoSession) {
			t.Error(err)
		}
		<-time.After(10 * time.Second)
		if !s.invalidator.runs() {
			t.Error("the invalidator has ended 10 seconds after a Load that found nothing")
		}
	})
}

// TestUnusedStoreEnds: a store that nobody uses gives its copies and
// goroutines up, and takes them up again.
func TestUnusedStoreEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestStore(t, new(memory))
		for range 2 {
			save(t, s, "k", 1)
			<-time.After(9 * time.Minute)
			if !s.invalidator.runs() {
				t.Error("the invalidator ended though the copy was used 9 minutes ago")
			}
			<-time.After(13 * time.Minute)
			if n := s.cache.sweep(time.Now()); n > 0 || s.invalidator.runs() {
				t.Errorf("after 22 minutes there are %d copies, and the invalidator runs: %v", n, s.invalidator.runs())
			}
		}
	})
}
