package walletauth

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

var errShutdown = errors.New("walletauth: the Transport was shut down")

// shutdown starts nothing new, waits for what is under way, and stores what is
// not stored yet.
func (k *keeper) shutdown(ctx context.Context) error {
	k.work.close()
	if !k.work.ends(ctx) {
		return fmt.Errorf("walletauth: Shutdown ended before a refresh or save that is under way: %w", ctx.Err())
	}
	return k.saveAll(ctx)
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

// work is what Shutdown waits for: flights, and what saves in the background.
// Unlike a sync.WaitGroup it lets nothing begin after the end was announced,
// and can be waited for with a context.
type work struct {
	closing chan struct{} // closed by the first Shutdown
	idle    chan struct{} // closed when nothing is left after that

	mu   sync.Mutex // guards left, and the closing of the channels
	left int
}

func newWork() *work {
	return &work{closing: make(chan struct{}), idle: make(chan struct{})}
}

// begin announces work, which end is to follow. It reports false if it is too
// late: nobody would wait for it.
func (w *work) begin() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed() {
		return false
	}
	w.left++
	return true
}

func (w *work) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.left--; w.left == 0 && w.closed() {
		close(w.idle)
	}
}

func (w *work) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed() {
		return
	}
	if close(w.closing); w.left == 0 {
		close(w.idle)
	}
}

func (w *work) closed() bool { return isClosed(w.closing) }

// ends waits until nothing is left. It reports false if ctx ended before.
func (w *work) ends(ctx context.Context) bool {
	select {
	case <-w.idle:
	case <-ctx.Done():
	}
	return isClosed(w.idle)
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
