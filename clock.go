package walletauth

import (
	"context"
	"sync"
	"time"
)

// Clock tells the time and waits for it. The Clock and the *Mock of
// github.com/benbjohnson/clock are Clocks as they are, and so are the clocks of
// github.com/jonboulle/clockwork and k8s.io/utils/clock.
//
// Implementations must be safe for concurrent use.
type Clock interface {
	// Now returns the time, as time.Now does.
	Now() time.Time
	// After returns a channel that gets the time once d has passed, as
	// time.After does. There may be no receiver.
	After(d time.Duration) <-chan time.Time
}

// sleep waits for d, or until ctx ends, and reports whether it waited in full.
func sleep(ctx context.Context, clock Clock, d time.Duration) bool {
	select {
	case <-clock.After(d):
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// timeoutContext is a context that ends after a time by a [Clock], and whose Err
// is context.DeadlineExceeded then. One made by context.WithCancelCause would
// say context.Canceled, which to callers means that they left themselves.
//
// The time can be stopped and started again, so that one context covers waiting
// for a lock and saving, but not what runs in between.
type timeoutContext struct {
	context.Context // the parent, for its values
	clock           Clock
	done            chan struct{}
	detach          func() bool // from the parent

	mu      sync.Mutex // guards what follows, and the closing of done
	err     error
	started int // counts calls of start and stop: an earlier timer has no effect
}

func withTimeout(parent context.Context, clock Clock, d time.Duration) *timeoutContext {
	c := &timeoutContext{Context: parent, clock: clock, done: make(chan struct{})}
	c.detach = context.AfterFunc(parent, func() { c.end(parent.Err()) })
	c.start(d)
	return c
}

func (c *timeoutContext) Done() <-chan struct{} { return c.done }

func (c *timeoutContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// start lets c end after d, counted from now.
func (c *timeoutContext) start(d time.Duration) {
	n := c.stop()
	due := c.clock.After(d)
	go func() {
		select {
		case <-due:
			c.expire(n)
		case <-c.done:
		}
	}()
}

// stop cancels the time that runs.
func (c *timeoutContext) stop() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.started++
	return c.started
}

func (c *timeoutContext) expire(n int) {
	c.mu.Lock()
	current := c.started == n
	c.mu.Unlock()
	if current {
		c.end(context.DeadlineExceeded)
	}
}

// cancel releases what c holds.
func (c *timeoutContext) cancel() {
	c.detach()
	c.end(context.Canceled)
}

func (c *timeoutContext) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
		close(c.done)
	}
}
