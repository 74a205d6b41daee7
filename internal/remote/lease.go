package remote

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Waiting for a lease that another process holds is asking again, with pauses
// that double and are jittered. To be told of its end would take a blocking
// command or a connection per waiter, and a process has one waiter per key.
const (
	firstPause = 20 * time.Millisecond
	lastPause  = 250 * time.Millisecond
)

// A server that restarts is back in a moment, so what failed is tried again for
// so long. With a new token at stake it is tried for longer: a used refresh
// token whose successor is lost ends the session.
const (
	answerWithin = 5 * time.Second // one attempt
	retryFor     = 5 * time.Second
	saveWithin   = 15 * time.Second
	freeWithin   = 2 * time.Second // to release, and for how long the caller waits for that
)

var errLeaseLost = errors.New("the lease was lost")

// lease is one that this process has.
type lease struct {
	*Store
	id    string
	owner Stamp
	grant Grant

	asked  atomic.Bool            // the server was: it may have granted it
	answer <-chan result[granted] // to the last question

	mu   sync.Mutex // guards ends
	ends time.Time  // when it does, unless it is renewed
}

// acquire waits until this process holds the lease of id. With force it does so
// though what is stored cannot be read. The errors: ctx's, and the server's
// once it has lasted.
func (s *Store) acquire(ctx context.Context, id string, force bool) (*lease, error) {
	l := &lease{Store: s, id: id, owner: newStamp()}
	var failing time.Duration // since the first of the last failures in a row
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		granted, failed, err := l.try(ctx, force)
		before := jitter(pause)
		switch {
		case granted:
			return l, nil
		case ctx.Err() != nil:
			l.giveUp(ctx)
			return nil, fmt.Errorf("wait for the lease: %w", ctx.Err())
		case err == nil:
			failing = 0
			l.asked.Store(false)
		case !s.client.transient(err) || failing > retryFor:
			l.giveUp(ctx)
			return nil, fmt.Errorf("acquire the lease: %w", err)
		default:
			failing += failed + before
		}
		sleep(ctx, before)
	}
}

type granted struct {
	Grant
	ok bool
}

// try asks for the lease once.
func (l *lease) try(ctx context.Context, force bool) (ok bool, failed time.Duration, err error) {
	asked := begin(ctx, call[granted]{where: l.client.shardOf(l.id), timeout: answerWithin,
		do: func(ctx context.Context) (g granted, err error) {
			l.asked.Store(true)
			l.prolong(time.Now())
			g.Grant, g.ok, err = l.Server.Acquire(ctx, l.id, l.owner, l.Lease, force)
			return g, err
		}})
	l.answer = asked.done
	select {
	case r := <-l.answer:
		l.grant = r.value.Grant
		return r.value.ok && r.err == nil, r.failed, r.err
	case <-ctx.Done():
		return false, 0, ctx.Err()
	}
}

// giveUp gives back what the server may have granted, or grants yet.
func (l *lease) giveUp(ctx context.Context) {
	go func() {
		for range l.answer {
		}
		if l.asked.Load() {
			l.release(ctx)
		}
	}()
}

// hold returns the context of what runs under the lease, and renews the lease
// until stop is called. The context ends with ctx and with the lease.
func (l *lease) hold(ctx context.Context) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	renewing, cease := context.WithCancel(context.WithoutCancel(ctx))
	var ended sync.WaitGroup
	ended.Go(func() { l.renew(renewing, cancel) })
	return &leaseContext{ctx, l, cancel}, func() {
		cease()
		ended.Wait()
		cancel(nil)
	}
}

// leaseContext is a context that ends with the lease even if no timer has fired
// yet: in a process that was stopped, the first thing to run may be what must
// not begin any more.
type leaseContext struct {
	context.Context
	lease *lease
	lose  context.CancelCauseFunc
}

func (c *leaseContext) Err() error {
	if c.Context.Err() == nil && c.lease.left() <= 0 {
		c.lose(errLeaseLost)
	}
	return c.Context.Err()
}

// renew prolongs the lease every third of its length until ctx ends. A server
// that cannot be reached is asked again soon: the lease lasts until its end.
func (l *lease) renew(ctx context.Context, lose context.CancelCauseFunc) {
	pause := l.Lease / 3
	for sleep(ctx, min(pause, l.left())) {
		sent := time.Now()
		kept, err := l.tryRenew(ctx)
		if err == nil && kept {
			l.prolong(sent)
		}
		if err == nil && !kept || l.left() <= 0 {
			lose(errLeaseLost)
			return
		}
		if pause = l.Lease / 3; err != nil {
			pause = l.Lease / 30
		}
	}
}

func (l *lease) tryRenew(ctx context.Context) (kept bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, l.left())
	defer cancel()
	r := once(ctx, call[bool]{where: l.client.shardOf(l.id), urgent: true, timeout: answerWithin,
		do: func(ctx context.Context) (bool, error) { return l.Server.Renew(ctx, l.id, l.owner, l.Lease) },
	})
	return r.value, r.err
}

func (l *lease) prolong(from time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ends = from.Add(l.Lease)
}

// left is for how much longer the lease lasts, counted from before it was
// asked for: the server began to count later.
func (l *lease) left() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Lease - elapsed(l.ends.Add(-l.Lease), time.Now())
}

// save stores c and ends the lease with it, unless something else is stored than
// c has seen. That the caller's ctx or the lease has ended does not matter any
// more: a new token is at stake.
func (l *lease) save(ctx context.Context, c Change) (fence int64, saved bool, err error) {
	c.Stamp, c.LeaseFence = l.owner, l.grant.LeaseFence
	type reply struct {
		fence int64
		saved bool
	}
	r, err := retry(context.WithoutCancel(ctx), l.client, saveWithin, call[reply]{
		where: l.client.shardOf(l.id), urgent: true, timeout: answerWithin,
		do: func(ctx context.Context) (r reply, err error) {
			r.fence, r.saved, err = l.Server.Save(ctx, l.id, c)
			return r, err
		}})
	if err != nil {
		return 0, false, fmt.Errorf("store the session: %w", err)
	}
	return r.fence, r.saved, nil
}

// stored asks what the record is now.
func (l *lease) stored(ctx context.Context) (Record, error) {
	return retry(context.WithoutCancel(ctx), l.client, saveWithin, call[Record]{
		where: l.client.shardOf(l.id), urgent: true, timeout: answerWithin,
		do: func(ctx context.Context) (Record, error) { return l.Server.Read(ctx, l.id) },
	})
}

// release gives the lease back. It is tried until the lease has ended by itself,
// but the caller is not kept for so long: whoever waits for the lease does not wait
// for the caller.
func (l *lease) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), max(l.left(), freeWithin))
	released := make(chan struct{})
	go func() {
		defer close(released)
		defer cancel()
		_, _ = retry(ctx, l.client, l.Lease, call[struct{}]{ // if it fails, the lease ends by itself
			where: l.client.shardOf(l.id), urgent: true, timeout: freeWithin,
			do: func(ctx context.Context) (struct{}, error) {
				return struct{}{}, l.Server.Release(ctx, l.id, l.owner)
			}})
	}()
	patience := time.NewTimer(freeWithin)
	defer patience.Stop()
	select {
	case <-released:
	case <-patience.C:
	}
}
