package walletauth

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/walletauth/walletauth/internal/policy"
	"github.com/walletauth/walletauth/internal/timeout"
)

// shutdown starts nothing new, waits for what is in progress, and stores what is
// not stored yet.
func (m *sessions) shutdown(ctx context.Context) error {
	m.work.close()
	if !m.work.wait(ctx) {
		return fmt.Errorf("walletauth: Shutdown ended before a refresh or save that is under way: %w", ctx.Err())
	}
	return m.store.flushAll(ctx)
}

// flushAll tries until everything is stored, ctx ends, or the timeout has
// passed: a caller that gave no deadline still wants its program to end.
func (p *pendingStore) flushAll(ctx context.Context) error {
	timed := timeout.New(ctx, p.clock, p.timeout)
	defer timed.Cancel()
	for failures := 1; ; failures++ {
		left, err := p.flushOnce(timed)
		if err == nil {
			return nil
		}
		if !sleep(timed, p.clock, policy.Backoff(failures, 100*time.Millisecond, 10*time.Second)) {
			return wrapError(fmt.Sprintf("walletauth: sessions that could not be stored: %d, the last because: ", left), err)
		}
	}
}

// flushOnce tries once for each key with something pending, and again for what
// came meanwhile, as the answer to a login may. It returns how many are left and
// the last error.
func (p *pendingStore) flushOnce(ctx context.Context) (left int, last error) {
	for keys := p.keys(); last == nil && len(keys) > 0; keys = p.keys() {
		for _, key := range keys {
			if err := p.flush(ctx, key); err != nil {
				last = err
			}
		}
	}
	return len(p.keys()), last
}

func (p *pendingStore) keys() (keys []string) {
	p.states.All(func(key string, st *keyState) {
		if st.pending.Load() != nil {
			keys = append(keys, key)
		}
	})
	return keys
}

// work is what Shutdown waits for: refreshes, and what saves in the background.
// Unlike a sync.WaitGroup it lets nothing begin after the end was announced, and
// can be waited for with a context.
type work struct {
	closing chan struct{} // closed by the first Shutdown
	idle    chan struct{} // closed when nothing is left after that

	mu   sync.Mutex // guards left, and the closing of the channels
	left int
}

func newWork() *work { return &work{closing: make(chan struct{}), idle: make(chan struct{})} }

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

// wait waits until nothing is left. It reports false if ctx ended before.
func (w *work) wait(ctx context.Context) bool {
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
