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
// Half of the room, rounded down, is for urgent calls alone: saves, renewals and releases. In
// one queue for all, ten thousand who want a lease after a stall would stand
// in front of those who have a new token to store.
type semaphore struct {
	all, ordinary chan struct{}
}

func newSemaphore(maxInFlight int) semaphore {
	return semaphore{
		all:      make(chan struct{}, max(2, maxInFlight)),
		ordinary: make(chan struct{}, max(1, (maxInFlight+1)/2)),
	}
}

// enter waits for room. The only error is errTimeout, once ctx has ended.
func (s semaphore) enter(ctx context.Context, urgent bool) (leave func(), err error) {
	ordinary := s.ordinary
	if urgent {
		ordinary = make(chan struct{}, 1) // nobody else's
	}
	select {
	case ordinary <- struct{}{}:
	case <-ctx.Done():
		return nil, errTimeout
	}
	select {
	case s.all <- struct{}{}:
		return func() { <-s.all; <-ordinary }, nil
	case <-ctx.Done():
		<-ordinary
		return nil, errTimeout
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
	timeout time.Duration // of the call, waiting for room included
	do      func(context.Context) (T, error)
}

type result[T any] struct {
	value T
	err   error
}

// errTimeout is a server that did not answer in time.
var errTimeout = fmt.Errorf("no answer in time: %w", context.DeadlineExceeded)

// begin makes the call on a goroutine of its own, with the values of ctx but not
// its end: go-redis ignores a deadline while a command runs, and pgx closes a
// connection whose query is given up. A panic in the client library becomes an
// error, as nobody else could recover from it.
func begin[T any](ctx context.Context, c call[T]) <-chan result[T] {
	done := make(chan result[T], 1) // nobody may be waiting any more
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.timeout)
		defer cancel()
		r := result[T]{err: errors.New("the client ended its goroutine (runtime.Goexit)")}
		defer func() { done <- r }()
		defer recoverPanic(&r.err)
		shard := c.where()
		leave, err := shard.calls.enter(ctx, c.urgent)
		if err != nil {
			r.err = err
			return
		}
		defer leave()
		if r.value, r.err = c.do(ctx); r.err == nil {
			shard.answered.Store(time.Now().UnixNano())
		}
	}()
	return done
}

// once makes the call and waits for the answer until ctx ends or the timeout
// has passed, which not every client observes by itself.
func once[T any](ctx context.Context, c call[T]) (T, error) {
	var none T
	limit := time.NewTimer(c.timeout)
	defer limit.Stop()
	select {
	case r := <-begin(ctx, c):
		return r.value, r.err
	case <-limit.C:
		return none, errTimeout
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

// retry makes the call until the server answers, for as long as limit allows
// and the failures are transient. It returns the last error.
func retry[T any](ctx context.Context, s *client, limit time.Duration, c call[T]) (T, error) {
	began := time.Now()
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		value, err := once(ctx, c)
		if err == nil || !s.transient(err) || exhausted(err, c.where(), began, limit) || !sleep(ctx, jitter(pause)) {
			return value, err
		}
	}
}

// exhausted reports whether a call that fails since began has failed for long
// enough. Who waits in vain for a server that answers others is in a queue: that
// counts for a quarter.
func exhausted(err error, s *shard, began time.Time, limit time.Duration) bool {
	waited := time.Since(began)
	if errors.Is(err, errTimeout) && waited < 4*limit && time.Since(time.Unix(0, s.answered.Load())) < limit {
		return false
	}
	return waited > limit
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
