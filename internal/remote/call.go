package remote

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// semaphore bounds how many calls are with one shard of the server at once, so
// that a thousand refreshes do not queue up in front of the program's own
// queries: the client's pool belongs to the program.
//
// Half of the room, rounded down, is for urgent calls alone: saves, renewals and
// releases. In one queue for all, ten thousand who want a lease after a stall would
// stand in front of those who have a new token to store.
type semaphore struct {
	all, ordinary chan struct{}
}

func newSemaphore(maxInFlight int) semaphore {
	return semaphore{
		all:      make(chan struct{}, max(2, maxInFlight)),
		ordinary: make(chan struct{}, max(1, (maxInFlight+1)/2)),
	}
}

// enter waits for room until ctx ends. Who came first is let in first: leaving a
// queue that moves, to come back later, is to begin again at its end.
func (s semaphore) enter(ctx context.Context, urgent bool) (leave func(), err error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	ordinary := s.ordinary
	if urgent {
		ordinary = make(chan struct{}, 1) // nobody else's
	}
	select {
	case ordinary <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	select {
	case s.all <- struct{}{}:
		return func() { <-s.all; <-ordinary }, nil
	case <-ctx.Done():
		<-ordinary
		return nil, context.Cause(ctx)
	}
}

// client makes calls to a server, each of bounded time and all of bounded
// number.
type client struct {
	server Server
	shards shards
}

// call is one question to the server.
type call[T any] struct {
	where   func() *shard // that answers it
	urgent  bool          // see semaphore
	timeout time.Duration // for how long the server may be silent: to all while the call waits for room, then to the call
	do      func(context.Context) (T, error)
}

// attempt is a call under way.
type attempt[T any] struct {
	made chan struct{}  // closed once there was room for it
	done chan result[T] // one, and then it is closed
}

type result[T any] struct {
	value  T
	err    error
	failed time.Duration // if there is an err: the time it took, but for that in a queue that moved
}

// errTimeout is a server that did not answer in time.
var errTimeout = fmt.Errorf("no answer in time: %w", context.DeadlineExceeded)

// begin makes the call on a goroutine of its own. It leaves the queue when ctx
// ends, and is then made with the values of ctx but not its end: go-redis ignores
// a deadline while a command runs, and pgx closes a connection whose query is
// given up. A panic in the client library becomes an error, as nobody else could
// recover from it.
func begin[T any](ctx context.Context, c call[T]) attempt[T] {
	a := attempt[T]{make(chan struct{}), make(chan result[T], 1)} // nobody may be waiting any more
	go func() {
		r := result[T]{err: errors.New("the client ended its goroutine (runtime.Goexit)")}
		defer func() { a.done <- r; close(a.done) }()
		defer recoverPanic(&r.err)
		shard := c.where()
		leave, err := shard.enter(ctx, c.urgent, c.timeout)
		if err != nil {
			r.err, r.failed = err, c.timeout
			return
		}
		defer leave()
		close(a.made)
		made := time.Now()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.timeout)
		defer cancel()
		r.value, r.err = c.do(ctx)
		now := time.Now()
		if r.failed = now.Sub(made); r.err == nil {
			shard.answered.Store(&now)
		}
	}()
	return a
}

// once makes the call and waits for the answer until ctx ends or the timeout
// has passed, which not every client observes by itself.
func once[T any](ctx context.Context, c call[T]) result[T] {
	ctx, leave := context.WithCancel(ctx)
	defer leave()
	a := begin(ctx, c)
	select {
	case r := <-a.done:
		return r
	case <-a.made:
	case <-ctx.Done():
		return result[T]{err: ctx.Err()}
	}
	limit := time.NewTimer(c.timeout)
	defer limit.Stop()
	select {
	case r := <-a.done:
		return r
	case <-limit.C:
		return result[T]{err: errTimeout, failed: c.timeout}
	case <-ctx.Done():
		return result[T]{err: ctx.Err()}
	}
}

// retry makes the call until the server answers, for as long as the failures are
// transient and their time is within limit. Time in a queue that moves is no
// failure. It returns the last error.
func retry[T any](ctx context.Context, s *client, limit time.Duration, c call[T]) (T, error) {
	var failing time.Duration
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		r := once(ctx, c)
		before := jitter(pause)
		failing += r.failed + before
		if r.err == nil || !s.transient(r.err) || failing > limit || !sleep(ctx, before) {
			return r.value, r.err
		}
	}
}

func (c *client) transient(err error) bool {
	return errors.Is(err, errTimeout) || c.server.Transient(err)
}

// shard returns the one that holds id. It may ask the server which that is. A
// panic in there leaves it unknown.
func (c *client) shard(id string) *shard {
	name := ""
	func() {
		defer func() { _ = recover() }()
		name = c.server.Shard(id)
	}()
	return c.shards.of(name)
}

// shardOf is where calls that concern id go.
func (c *client) shardOf(id string) func() *shard {
	return func() *shard { return c.shard(id) }
}

// recoverPanic is to be deferred: it makes a panic an error.
func recoverPanic(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("the client or the Codec panicked: %v", p)
	}
}
