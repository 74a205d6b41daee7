// Package body has request bodies that can be sent twice, and response bodies
// that are read ahead of their reader: what a transport needs to answer a 401
// with a second try.
package body

import (
	"context"
	"sync"
	"time"
)

// bodyTimeout bounds how long a request that got a 401 waits for a body: for
// the rest of its own, which the sender has not written yet, for a Read of it
// that hangs, or for the end of the 401's.
const bodyTimeout = time.Second

// Clock is the part of a clock that this package needs.
type Clock interface {
	After(d time.Duration) <-chan time.Time
}

// A waiter waits for at most bodyTimeout in all, from its first wait that is not
// over at once.
type waiter struct {
	ctx     context.Context
	timeout func() <-chan time.Time
}

func newWaiter(ctx context.Context, clock Clock) waiter {
	return waiter{ctx, sync.OnceValue(func() <-chan time.Time { return clock.After(bodyTimeout) })}
}

// wait receives from done, and reports whether it could in time.
func (w waiter) wait(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
	}
	select {
	case <-done:
		return true
	case <-w.timeout():
	case <-w.ctx.Done():
	}
	return false
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
