package walletauth

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

var errShutdown = errors.New("walletauth: the Transport was shut down")

// shutdown starts nothing new, waits for what is under way, and stores what is
// not stored yet.
func (k *keeper) shutdown(ctx context.Context) error {
	k.close()
	idle := make(chan struct{})
	go func() {
		defer close(idle)
		k.work.Wait()
	}()
	select {
	case <-idle:
	case <-ctx.Done():
		if k.work.underWay() {
			return fmt.Errorf("walletauth: Shutdown ended before a refresh or save that is under way: %w", ctx.Err())
		}
	}
	return k.saveAll(ctx)
}

func (k *keeper) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.closed.Swap(true) {
		close(k.closing)
	}
}

// saveAll tries until everything is stored, ctx ends, or RefreshTimeout has
// passed: a caller that gave no deadline still wants its program to end.
func (k *keeper) saveAll(ctx context.Context) error {
	ctx, cancel := withTimeout(ctx, k.clock, k.timeout)
	defer cancel()
	for failures := 1; ; failures++ {
		err := k.saveOnce(ctx)
		if err == nil {
			return nil
		}
		if !sleep(ctx, k.clock, backoff(failures, 100*time.Millisecond, 10*time.Second)) {
			return fmt.Errorf("walletauth: sessions that could not be stored: %d, the last because: %w", len(k.unsaved.keys()), err)
		}
	}
}

// saveOnce tries once for each key, and again for what came meanwhile: the
// answer to a login that was under way.
func (k *keeper) saveOnce(ctx context.Context) (last error) {
	for keys := k.unsaved.keys(); last == nil && len(keys) > 0; keys = k.unsaved.keys() {
		for _, key := range keys {
			if err := k.save(ctx, key); err != nil {
				last = err
			}
		}
	}
	return last
}

// begin announces work that Shutdown waits for, and returns what to call at its
// end. After Shutdown nobody waits.
func (k *keeper) begin() (end func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed.Load() {
		return func() {}
	}
	k.work.begin()
	return k.work.end
}

// tasks is a sync.WaitGroup that can be asked whether anybody is left.
type tasks struct {
	sync.WaitGroup
	left atomic.Int64
}

func (t *tasks) begin() {
	t.left.Add(1)
	t.Add(1)
}

func (t *tasks) end() {
	t.left.Add(-1)
	t.Done()
}

func (t *tasks) underWay() bool { return t.left.Load() > 0 }
