package keylock

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
)

func TestMutex(t *testing.T) {
	t.Run("one holder at a time", func(t *testing.T) {
		var m Mutex
		var callers sync.WaitGroup
		count := 0 // the race detector sees whether the lock guards it
		for range 100 {
			callers.Go(func() {
				unlock, err := m.Lock(t.Context(), "key")
				if err != nil {
					t.Error(err)
					return
				}
				defer unlock()
				count++
			})
		}
		callers.Wait()
		if count != 100 {
			t.Errorf("%d of 100 callers held the lock", count)
		}
	})
	t.Run("another key is free", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { // a wait would be a deadlock, which the bubble reports
			var m Mutex
			a := lockNow(t, &m, "a")
			b := lockNow(t, &m, "b")
			a()
			b()
		})
	})
	t.Run("waiting ends with ctx and keeps nobody else waiting", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var m Mutex
			unlock := lockNow(t, &m, "key")
			ctx, cancel := context.WithCancel(t.Context())
			left := make(chan error)
			go func() { _, err := m.Lock(ctx, "key"); left <- err }()
			synctest.Wait()
			cancel()
			if err := <-left; !errors.Is(err, context.Canceled) {
				t.Errorf("err = %v, want context.Canceled", err)
			}
			unlock()
			lockNow(t, &m, "key")()
		})
	})
	t.Run("a ctx that has ended locks nothing", func(t *testing.T) {
		var m Mutex
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for range 100 { // a free lock and an ended ctx are both ready: never the lock
			if _, err := m.Lock(ctx, "key"); !errors.Is(err, context.Canceled) {
				t.Fatalf("err = %v, want context.Canceled", err)
			}
		}
	})
	t.Run("idle keys use no memory", func(t *testing.T) {
		var m Mutex
		for _, key := range []string{"", "a", "b"} {
			unlock := lockNow(t, &m, key)
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			_, _ = m.Lock(ctx, key)
			unlock()
		}
		if len(m.locks) != 0 {
			t.Errorf("%d locks are left, want 0", len(m.locks))
		}
	})
}

func lockNow(t *testing.T, m *Mutex, key string) (unlock func()) {
	t.Helper()
	unlock, err := m.Lock(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	return unlock
}
