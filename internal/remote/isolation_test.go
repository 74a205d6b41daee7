package remote

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
)

// TestOneKeyThatFails: a key that cannot be read changes nothing for the others,
// however often it is asked for.
func TestOneKeyThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var failing atomic.Bool
		server := &memory{away: func(id string) bool { return id == "bad" && failing.Load() }}
		s, other := newTestStore(t, server), newTestStore(t, server)
		save(t, s, "bad", 1)
		save(t, s, "k", 1)
		<-time.After(2 * time.Second) // the subscription is heard
		wantLoad(t, s, "bad", 1)
		wantLoad(t, s, "k", 1)
		failing.Store(true)
		s.cache.doubt("bad") // so that it is asked for
		for n := 2; n < 50; n++ {
			wantLoad(t, s, "bad", 1)
			save(t, other, "k", n)
			synctest.Wait()
			wantLoad(t, s, "k", n)
			<-time.After(700 * time.Millisecond)
		}
		failing.Store(false)
		save(t, other, "bad", 2)
		synctest.Wait()
		wantLoad(t, s, "bad", 2)
	})
}

// TestOneShardDown: the keys of a shard that is down are served from their copies
// at one question a second, and those of the others as if nothing was.
func TestOneShardDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		server := &memory{shards: []string{"b", "c"}, away: func(id string) bool { return down.Load() && strings.HasPrefix(id, "b/") }}
		s, other := newTestStore(t, server), newTestStore(t, server)
		for _, key := range []string{"b/k", "c/k", "k"} {
			save(t, s, key, 1)
		}
		<-time.After(2 * time.Second)
		for _, key := range []string{"b/k", "c/k", "k"} {
			wantLoad(t, s, key, 1)
		}
		down.Store(true)
		before := server.count("Read k") + server.count("Read c/k")
		for range 60 * 10 {
			<-time.After(100 * time.Millisecond)
			for _, key := range []string{"b/k", "c/k", "k"} {
				wantLoad(t, s, key, 1)
			}
		}
		if n := server.count("Read k") + server.count("Read c/k") - before; n != 0 {
			t.Errorf("in a minute the keys of the shards that are up were read %d times, want 0", n)
		}
		for _, key := range []string{"c/k", "k"} {
			save(t, other, key, 2)
			synctest.Wait()
			wantLoad(t, s, key, 2)
		}
		down.Store(false)
		save(t, other, "b/k", 2)
		<-time.After(2 * time.Second) // one question a second
		_, _ = s.Load(t.Context(), "b/k")
		synctest.Wait()
		wantLoad(t, s, "b/k", 2)
	})
}

// TestShardUnheard: of a shard whose messages do not come, as when the bus of a
// cluster is cut, copies are used for 5 seconds. Those of others are used on.
func TestShardUnheard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &memory{shards: []string{"b"}, mute: func(id string) bool { return strings.HasPrefix(id, "b/") }}
		s, other := newTestStore(t, server), newTestStore(t, server)
		save(t, s, "b/k", 1)
		save(t, s, "k", 1)
		<-time.After(time.Minute)
		wantLoad(t, s, "b/k", 1)
		wantLoad(t, s, "k", 1)
		before := server.count("Read k")
		save(t, other, "b/k", 2)
		<-time.After(5 * time.Second)
		wantLoad(t, s, "b/k", 2)
		<-time.After(time.Minute)
		wantLoad(t, s, "k", 1)
		if n := server.count("Read k") - before; n != 0 {
			t.Errorf("a key of the shard that is heard was read %d times, want 0", n)
		}
	})
}

// TestShardHeardAgain: what a shard changed while it could not be heard, no message
// tells of afterwards. Copies from before are not trusted again because the next
// messages come through.
func TestShardHeardAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var cut atomic.Bool
		server := &memory{shards: []string{"b"}, mute: func(id string) bool { return cut.Load() && strings.HasPrefix(id, "b/") }}
		s, other := newTestStore(t, server), newTestStore(t, server)
		for _, key := range []string{"b/changes", "b/stays", "k"} {
			save(t, s, key, 1)
		}
		<-time.After(time.Minute)
		for _, key := range []string{"b/changes", "b/stays", "k"} {
			wantLoad(t, s, key, 1)
		}
		before, elsewhere := server.count("Read b/stays"), server.count("Read k")
		cut.Store(true)
		save(t, other, "b/changes", 2)
		<-time.After(2 * time.Second) // a probe is lost
		cut.Store(false)
		for range 60 {
			<-time.After(time.Second)
			wantLoad(t, s, "b/stays", 1)
			wantLoad(t, s, "k", 1)
		}
		wantLoad(t, s, "b/changes", 2)
		if n := server.count("Read b/stays") - before; n != 1 {
			t.Errorf("a copy of the shard was read %d times, want once after it was heard again", n)
		}
		if n := server.count("Read k") - elsewhere; n != 0 {
			t.Errorf("a key of another shard was read %d times, want 0", n)
		}
	})
}

// TestShardThatHangs: calls to it use up no room of the others.
func TestShardThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var hanging atomic.Bool
		server := &memory{shards: []string{"b"}, away: func(id string) bool {
			if hanging.Load() && strings.HasPrefix(id, "b/") {
				<-time.After(answerWithin)
				return true
			}
			return false
		}}
		s := newTestStore(t, server)
		hanging.Store(true)
		for i := range 100 {
			go func() { _, _ = s.Load(t.Context(), fmt.Sprint("b/", i)) }()
		}
		synctest.Wait()
		began := time.Now()
		save(t, s, "k", 1)
		if took := time.Since(began); took != 0 {
			t.Errorf("a save in a shard that works took %v", took)
		}
		hanging.Store(false)
		<-time.After(time.Minute) // until none hangs
	})
}

// TestStaleCopyIsNotServedUnasked: while messages come, a copy that one of them has
// replaced is not served without a question, in an outage of its key neither.
func TestStaleCopyIsNotServedUnasked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var failing atomic.Bool
		server := &memory{away: func(id string) bool { return id == "k" && failing.Load() }}
		s, other := newTestStore(t, server), newTestStore(t, server)
		save(t, s, "k", 1)
		<-time.After(2 * time.Second)
		wantLoad(t, s, "k", 1)
		save(t, other, "k", 2)
		failing.Store(true)
		synctest.Wait()
		for range 10 {
			wantLoad(t, s, "k", 1) // for lack of an answer
		}
		failing.Store(false)
		wantLoad(t, s, "k", 2)
	})
}

// TestOnlyInOutage: the copies of a server that cannot tell of changes are never
// trusted, and serve while it cannot be asked.
func TestOnlyInOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var away atomic.Bool
		server := &memory{deaf: true, away: func(string) bool { return away.Load() }}
		s := New(Config{Name: "test", Server: server, OnlyInOutage: true, MaxInFlight: 10})
		defer s.Close()
		other := newTestStore(t, server)
		for n := 1; n <= 10; n++ {
			save(t, other, "k", n)
			wantLoad(t, s, "k", n)
		}
		away.Store(true)
		for range 100 {
			wantLoad(t, s, "k", 10)
		}
	})
}

// TestPanicOfTheSubscription: it is a subscription that failed, and the next one is
// made.
func TestPanicOfTheSubscription(t *testing.T) {
	for _, where := range []string{"Subscribe", "Next", "Shards", "Close"} {
		t.Run(where, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := &panicking{memory: new(memory), where: where}
				s := New(Config{Name: "test", Server: server, MaxInFlight: 10})
				defer s.Close()
				save(t, s, "k", 1)
				<-time.After(10 * time.Second)
				if n := server.panics.Load(); n != 3 {
					t.Errorf("%d panics, want 3 and then a subscription", n)
				}
				save(t, newTestStore(t, server.memory), "k", 2)
				synctest.Wait()
				wantLoad(t, s, "k", 2)
			})
		})
	}
}

// panicking panics in one method, three times.
type panicking struct {
	*memory
	where  string
	panics atomic.Int32
}

func (p *panicking) at(where string) {
	if where == p.where && p.panics.Add(1) <= 3 {
		panic("boom")
	}
	if p.where == where {
		p.panics.Add(-1)
	}
}

func (p *panicking) Shards(ctx context.Context) ([]string, error) {
	p.at("Shards")
	return p.memory.Shards(ctx)
}

func (p *panicking) Subscribe(ctx context.Context, echo string) (Subscription, error) {
	p.at("Subscribe")
	sub, err := p.memory.Subscribe(ctx, echo)
	return &panickingSubscription{sub, p}, err
}

type panickingSubscription struct {
	Subscription
	of *panicking
}

func (s *panickingSubscription) Next(ctx context.Context) (Message, error) {
	s.of.at("Next")
	if s.of.where == "Close" && s.of.panics.Load() < 3 {
		return Message{}, errNetwork // so that there is something to close
	}
	return s.Subscription.Next(ctx)
}

func (s *panickingSubscription) Close() {
	s.Subscription.Close()
	s.of.at("Close")
}

// TestBusyServer: a queue for a server that answers is no outage, however long it
// is, nor is one failure at the end of it.
func TestBusyServer(t *testing.T) {
	const keys, perCall = 75, 2 * time.Second // two minutes and a half of acquiring, one after the other
	for name, server := range map[string]*memory{"every call succeeds": {}, "every other key fails once to acquire, and to save": {away: failingOnce()}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server.fault = func(string) error { <-time.After(perCall); return nil }
				s := New(Config{Name: "test", Server: server, MaxInFlight: 2, MaxStaleness: -1})
				defer s.Close()
				saveAll(t, s, keys, func(i int, err error) {
					if err != nil {
						t.Errorf("key %d: %v", i, err)
					}
				})
			})
		})
	}
}

// failingOnce has the first and the third call of every other key fail, in the order
// in which keys come: its first acquire and its first save.
func failingOnce() func(id string) bool {
	calls := make(map[string]int)
	fails := make(map[string]bool)
	var mu sync.Mutex // guards both
	return func(id string) bool {
		mu.Lock()
		defer mu.Unlock()
		if calls[id] == 0 {
			fails[id] = len(calls)%2 == 0
		}
		calls[id]++
		return fails[id] && (calls[id] == 1 || calls[id] == 3)
	}
}

// saveAll saves under many keys at once, says what came of each, and waits for what
// goes on behind.
func saveAll(t *testing.T, s *Store, keys int, ended func(i int, err error)) {
	var all sync.WaitGroup
	for i := range keys {
		all.Go(func() { ended(i, walletauth.Save(t.Context(), s, fmt.Sprint(i), session(i))) })
	}
	all.Wait()
	<-time.After(time.Minute)
}

// TestSaveBesideAQueue: what was refreshed does not queue behind what wants to be.
func TestSaveBesideAQueue(t *testing.T) {
	const keys, perCall = 100, time.Second
	synctest.Test(t, func(t *testing.T) {
		server := &memory{fault: func(string) error { <-time.After(perCall); return nil }}
		s := New(Config{Name: "test", Server: server, MaxInFlight: 2, MaxStaleness: -1})
		defer s.Close()
		var all sync.WaitGroup
		for i := range keys {
			all.Go(func() {
				var refreshed time.Time
				err := s.Update(t.Context(), fmt.Sprint(i), func(context.Context, *walletauth.Session) (*walletauth.Session, error) {
					refreshed = time.Now()
					return session(i), nil
				})
				if took := time.Since(refreshed); err != nil || took > 2*perCall { // one that was before it, and its own
					t.Errorf("key %d: stored after %v, %v", i, took, err)
				}
			})
		}
		all.Wait()
		<-time.After(time.Minute)
	})
}

// TestQueueForAServerThatHangs: it ends for all as it does for the few who were let
// in.
func TestQueueForAServerThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &memory{fault: func(string) error { <-time.After(answerWithin); return errNetwork }}
		s := New(Config{Name: "test", Server: server, MaxInFlight: 2, MaxStaleness: -1})
		defer s.Close()
		began := time.Now()
		saveAll(t, s, 100, func(i int, err error) {
			const attempt = 2 * answerWithin // in the queue, and then for the answer
			if took := time.Since(began); err == nil || took > 2*attempt+lastPause {
				t.Errorf("key %d: %v after %v", i, err, took)
			}
		})
	})
}

// TestQueueIsLeft: by who does not want to wait any more. For them nothing is asked.
func TestQueueIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &memory{fault: func(string) error { <-time.After(4 * time.Second); return nil }}
		s := New(Config{Name: "test", Server: server, MaxInFlight: 2, MaxStaleness: -1})
		defer s.Close()
		go func() { _ = walletauth.Save(t.Context(), s, "first", session(1)) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if err := walletauth.Save(ctx, s, "k", session(1)); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("Save: %v after %v", err, time.Since(began))
		}
		<-time.After(time.Minute)
		if n := server.count("Acquire k") + server.count("Release k"); n != 0 {
			t.Errorf("for who has left the server was asked %d times", n)
		}
	})
}

// TestSaveWithoutRoom: a save that is never let in, since the calls before it hang,
// ends.
func TestSaveWithoutRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		server := &memory{fault: func(method string) error {
			if method == "Save" {
				<-hang
			}
			return nil
		}}
		s := New(Config{Name: "test", Server: server, MaxInFlight: 2, MaxStaleness: -1})
		defer s.Close()
		var all sync.WaitGroup
		var refreshed sync.WaitGroup
		refreshed.Add(4)
		for i := range 4 {
			all.Go(func() {
				var began time.Time
				err := s.Update(t.Context(), fmt.Sprint(i), func(context.Context, *walletauth.Session) (*walletauth.Session, error) {
					refreshed.Done()
					refreshed.Wait() // so that all have their lease
					began = time.Now()
					return session(i), nil
				})
				if took := time.Since(began); !errors.Is(err, errTimeout) || took < saveWithin || took > saveWithin+answerWithin {
					t.Errorf("key %d: %v after %v", i, err, took)
				}
			})
		}
		all.Wait()
		close(hang)
		<-time.After(time.Minute)
	})
}

// TestStall: when the server stands still for 10 seconds in the middle of 10,000
// refreshes, over a pool of 4, whatever was refreshed is stored.
func TestStall(t *testing.T) {
	const keys, perCall = 10_000, 3 * time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		ends := began.Add(15 * time.Second)
		server := &memory{fault: func(string) error {
			<-time.After(perCall)
			if since := time.Since(began); since > 5*time.Second && time.Now().Before(ends) {
				<-time.After(min(time.Until(ends), answerWithin))
				if time.Now().Before(ends) {
					return errNetwork
				}
			}
			return nil
		}}
		s := New(Config{Name: "test", Server: server, MaxInFlight: 3, MaxStaleness: -1})
		defer s.Close()
		var all sync.WaitGroup
		for i := range keys {
			all.Go(func() {
				for isRefreshed := false; !isRefreshed; { // as requests do: they try again
					err := s.Update(t.Context(), fmt.Sprint(i), func(context.Context, *walletauth.Session) (*walletauth.Session, error) {
						isRefreshed = true
						<-time.After(200 * time.Millisecond)
						return session(i), nil
					})
					if isRefreshed && err != nil {
						t.Errorf("key %d was refreshed and is lost: %v", i, err)
					}
				}
			})
		}
		all.Wait()
		<-time.After(time.Minute) // for leases that are given back behind their owners
		if n := server.count("Save"); n < keys {
			t.Errorf("%d saves of %d keys", n, keys)
		}
	})
}
