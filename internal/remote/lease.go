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
// so long. With a new token at stake it is tried for longer: a spent refresh
// token whose successor is lost ends the session.
const (
	answerWithin = 5 * time.Second // one attempt
	retryFor     = 5 * time.Second
	saveWithin   = 15 * time.Second
	freeWithin   = 2 * time.Second // to release, before it is left to the background
)

var errLeaseLost = errors.New("the lease was lost")

// lease is one that this process has.
type lease struct {
	*Store
	id    string
	owner Stamp
	grant Grant
	asked atomic.Bool // the server was: it may have granted it

	mu   sync.Mutex // guards ends
	ends time.Time  // when it does, unless it is renewed
}

// acquire waits until this process holds the lease of id. With force it does so
// though what is stored cannot be read. The errors: that of ctx, and that of the
// server once it has lasted.
func (s *Store) acquire(ctx context.Context, id string, force bool) (*lease, error) {
	l := &lease{Store: s, id: id, owner: newStamp()}
	var failing time.Time
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		granted, err := l.try(ctx, force)
		switch {
		case granted:
			return l, nil
		case ctx.Err() != nil:
			return nil, fmt.Errorf("wait for the lease: %w", ctx.Err())
		case err == nil:
			failing = time.Time{}
		case failing.IsZero():
			failing = time.Now()
		}
		if err != nil && (!s.client.transient(err) || exhausted(err, s.client.shard(id), failing, retryFor)) {
			if l.asked.Load() {
				go l.release(ctx) // it may have been granted
			}
			return nil, fmt.Errorf("acquire the lease: %w", err)
		}
		sleep(ctx, jitter(pause))
	}
}

// try asks for the lease once. Who leaves before the answer gives back what it
// may bring.
func (l *lease) try(ctx context.Context, force bool) (bool, error) {
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	type granted struct {
		Grant
		ok bool
	}
	l.prolong(time.Now())
	answered := begin(ctx, call[granted]{where: l.client.shardOf(l.id), timeout: answerWithin,
		do: func(ctx context.Context) (g granted, err error) {
			l.asked.Store(true)
			g.Grant, g.ok, err = l.Server.Acquire(ctx, l.id, l.owner, l.Lease, force)
			return g, err
		}})
	select {
	case a := <-answered:
		l.grant = a.value.Grant
		return a.value.ok && a.err == nil, a.err
	case <-ctx.Done():
		go func() {
			if <-answered; l.asked.Load() {
				l.release(ctx)
			}
		}()
		return false, ctx.Err()
	}
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
		kept, err := once(ctx, call[bool]{where: l.client.shardOf(l.id), urgent: true, timeout: l.left(),
			do: func(ctx context.Context) (bool, error) {
				return l.Server.Renew(ctx, l.id, l.owner, l.Lease)
			}})
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

// release gives the lease back. What fails is tried again until the lease has
// ended by itself, behind the caller, whom others need not wait for.
func (l *lease) release(ctx context.Context) {
	ctx = context.WithoutCancel(ctx)
	if !l.tryRelease(ctx) {
		go func() {
			for pause := firstPause; l.left() > 0 && sleep(ctx, jitter(pause)) && !l.tryRelease(ctx); {
				pause = min(2*pause, lastPause)
			}
		}()
	}
}

// tryRelease reports whether there is nothing left to try.
func (l *lease) tryRelease(ctx context.Context) bool {
	_, err := once(ctx, call[struct{}]{where: l.client.shardOf(l.id), urgent: true, timeout: freeWithin,
		do: func(ctx context.Context) (struct{}, error) {
			return struct{}{}, l.Server.Release(ctx, l.id, l.owner)
		}})
	return err == nil || !l.client.transient(err)
}
