// Package timeout has what a context does by a clock that tests can set, and for
// work that goes on without its caller.
package timeout

import (
	"context"
	"reflect"
	"sync"
	"time"
)

// Clock waits.
type Clock interface {
	After(d time.Duration) <-chan time.Time
}

type parent = context.Context

// Context is a context that ends after a time by a Clock, and whose Err
// is context.DeadlineExceeded then. One made by context.WithCancelCause would
// say context.Canceled, which to callers means that they left themselves.
//
// The time can be stopped and started again, so that one context covers waiting
// for a lock and saving, but not what runs in between.
type Context struct {
	parent // the parent, for its values
	clock  Clock
	done   chan struct{}
	detach func() bool // from the parent

	mu      sync.Mutex // guards what follows, and the closing of done
	err     error
	started int // counts calls of Start and Stop: an earlier timer has no effect
}

// New returns a Context that ends with parent or after d. Cancel releases it.
func New(parent context.Context, clock Clock, d time.Duration) *Context {
	c := &Context{parent: parent, clock: clock, done: make(chan struct{})}
	c.detach = context.AfterFunc(parent, func() { c.end(parent.Err()) })
	c.Start(d)
	return c
}

// Done is closed when c has ended.
func (c *Context) Done() <-chan struct{} { return c.done }

// Err says why c has ended, nil while it has not.
func (c *Context) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Start lets c end after d, counted from now.
func (c *Context) Start(d time.Duration) {
	n := c.Stop()
	due := c.clock.After(d)
	go func() {
		select {
		case <-due:
			c.expire(n)
		case <-c.done:
		}
	}()
}

// Stop cancels the time that runs.
func (c *Context) Stop() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.started++
	return c.started
}

func (c *Context) expire(n int) {
	c.mu.Lock()
	current := c.started == n
	c.mu.Unlock()
	if current {
		c.end(context.DeadlineExceeded)
	}
}

// Cancel releases what c holds.
func (c *Context) Cancel() {
	c.detach()
	c.end(context.Canceled)
}

func (c *Context) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
		close(c.done)
	}
}

// Sleep waits for d, or until ctx ends, and reports whether it waited in full.
func Sleep(ctx context.Context, clock Clock, d time.Duration) bool {
	select {
	case <-clock.After(d):
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// Detach returns a context with the values of ctx that does not end with it.
// It hides the trace hooks of package httptrace: they are meant for the caller's
// request, not for work on its behalf.
func Detach(ctx context.Context) context.Context { return untraced{context.WithoutCancel(ctx)} }

type untraced struct{ context.Context }

// Value looks at where a key's type is from, since package net has trace hooks of
// its own under a key of an internal package.
func (c untraced) Value(key any) any {
	if t := reflect.TypeOf(key); t != nil && (t.PkgPath() == "net/http/httptrace" || t.PkgPath() == "internal/nettrace") {
		return nil
	}
	return c.Context.Value(key)
}
