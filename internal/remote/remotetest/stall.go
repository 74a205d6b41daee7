//go:build linux

package remotetest

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/walletauth/walletauth"
)

// Stall refreshes 10,000 keys at once, 500 in short runs, and stops the server in the
// middle of it for longer than an answer is waited for. Whatever was refreshed is
// stored, which another store without copies is asked for, and Loads are answered
// from copies all the time.
func Stall(t *testing.T, store, another walletauth.TokenStore, stop, resume func()) {
	keys := shortOr(500, 10_000)
	t.Cleanup(resume) // a server that stands still cannot be ended
	s := &stall{T: t, store: store}
	for i := range s.copies {
		s.copies[i] = fmt.Sprint("copy-", i)
		save(t, store, s.copies[i], s.copies[i])
	}
	stopAt := func(n int64) {
		if n == int64(keys/4) { // by whom is refreshed then, and has nothing stored yet
			s.stopped.Store(true)
			stop()
			time.AfterFunc(shortOr(6*time.Second, 10*time.Second), func() { resume(); s.stopped.Store(false) })
		}
	}
	done := make(chan struct{})
	var loading, refreshing sync.WaitGroup
	loading.Go(func() { s.loadUntil(done) })
	began := time.Now()
	for i := range keys {
		refreshing.Go(func() { s.refresh(fmt.Sprint("user-", i), stopAt) })
	}
	refreshing.Wait()
	close(done)
	loading.Wait()
	t.Logf("%d keys were refreshed in %v; %d Updates failed before they began, and were tried again; %d Loads while the server stood still, the slowest took %v",
		s.refreshed.Load(), time.Since(began), s.failed.Load(), s.loads, s.slowest)
	if s.loads == 0 {
		t.Error("nothing was loaded while the server stood still")
	}
	s.wantStored(another, keys)
}

type stall struct {
	*testing.T
	store             walletauth.TokenStore
	copies            [10]string // keys, and the ids of their sessions
	stopped           atomic.Bool
	refreshed, failed atomic.Int64

	loads   int // while the server stood still
	slowest time.Duration
}

// refresh refreshes a key once. It tries again, as requests do, until it has begun.
func (s *stall) refresh(key string, stopAt func(refreshed int64)) {
	for isRefreshed := false; !isRefreshed; {
		err := s.store.Update(s.Context(), key, func(context.Context, *walletauth.Session) (*walletauth.Session, error) {
			isRefreshed = true
			stopAt(s.refreshed.Add(1))
			<-time.After(200 * time.Millisecond) // the refresh
			return Session(key), nil
		})
		switch {
		case err == nil:
		case isRefreshed:
			s.Errorf("%s was refreshed and is lost: %v", key, err)
		case s.Context().Err() != nil:
			return
		default:
			s.failed.Add(1)
		}
	}
}

func (s *stall) loadUntil(done <-chan struct{}) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		key, isStopped, began := s.copies[i%len(s.copies)], s.stopped.Load(), time.Now()
		if got, err := s.store.Load(s.Context(), key); err != nil || got.ID != key {
			s.Errorf("Load of what there is a copy of: %v, %v", got, err)
			return
		}
		if isStopped {
			s.loads++
			s.slowest = max(s.slowest, time.Since(began))
		}
		select {
		case <-done:
			return
		case <-tick.C:
		}
	}
}

// wantStored demands of every key that what was refreshed is what the server holds.
func (s *stall) wantStored(another walletauth.TokenStore, keys int) {
	var stored atomic.Int64
	each(keys, func(i int) {
		key := fmt.Sprint("user-", i)
		if got, err := another.Load(s.Context(), key); err == nil && got.ID == key {
			stored.Add(1)
		} else {
			s.Errorf("the server holds %v, %v under %s", got, err, key)
		}
	})
	if refreshed := s.refreshed.Load(); refreshed != int64(keys) || stored.Load() != refreshed {
		s.Errorf("of %d keys %d were refreshed and %d are stored", keys, refreshed, stored.Load())
	}
}
