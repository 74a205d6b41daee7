package remote

import (
	"context"
	"errors"
	"fmt"
	"sync"
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
	rideOut      = 5 * time.Second
	saveWithin   = 15 * time.Second
	freeWithin   = 2 * time.Second // to release; a lease that stays ends by itself
)

var (
	errLeaseLost = errors.New("the lease was lost")
	errOvertaken = errors.New("the lease was lost, and its next holder has stored something else")
)

// hold is a lease that this process has.
type hold struct {
	*Store
	id    string
	owner Stamp
	grant Grant

	mu   sync.Mutex // guards ends
	ends time.Time  // when the lease does, unless it is renewed
}

// acquire waits until this process holds the lease of id. The errors: that of
// ctx, and that of the server once it has lasted.
func (s *Store) acquire(ctx context.Context, id string) (*hold, error) {
	h := &hold{Store: s, id: id, owner: newStamp()}
	var failing time.Time
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		granted, err := h.try(ctx)
		switch {
		case granted:
			return h, nil
		case ctx.Err() != nil:
			return nil, fmt.Errorf("wait for the lease: %w", ctx.Err())
		case err == nil:
			failing = time.Time{}
		case failing.IsZero():
			failing = time.Now()
		}
		if err != nil && (!s.transient(err) || time.Since(failing) > rideOut) {
			go h.release(ctx) // it may have been granted
			return nil, fmt.Errorf("acquire the lease: %w", err)
		}
		sleep(ctx, jitter(pause))
	}
}

// try asks for the lease once. Who leaves before the answer gives back what it
// may bring.
func (h *hold) try(ctx context.Context) (bool, error) {
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	type granted struct {
		Grant
		ok bool
	}
	sent := time.Now()
	answered := begin(ctx, h.gate, answerWithin, func(ctx context.Context) (g granted, err error) {
		g.Grant, g.ok, err = h.Server.Acquire(ctx, h.id, h.owner, h.Lease)
		return g, err
	})
	select {
	case a := <-answered:
		h.grant, h.ends = a.value.Grant, sent.Add(h.Lease)
		return a.value.ok && a.err == nil, a.err
	case <-ctx.Done():
		go func() { <-answered; h.release(ctx) }()
		return false, ctx.Err()
	}
}

// under returns the context of what runs under the lease, and renews the lease
// until stop is called. The context ends with ctx and with the lease.
func (h *hold) under(ctx context.Context) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	renewing, cease := context.WithCancel(context.WithoutCancel(ctx))
	var ended sync.WaitGroup
	ended.Go(func() { h.renew(renewing, cancel) })
	return &leased{ctx, h, cancel}, func() {
		cease()
		ended.Wait()
		cancel(nil)
	}
}

// leased is a context that ends with the lease even if no timer has fired yet:
// in a process that was stopped, the first thing to run may be what must not
// begin any more.
type leased struct {
	context.Context
	hold *hold
	lose context.CancelCauseFunc
}

func (c *leased) Err() error {
	if c.Context.Err() == nil && c.hold.left() <= 0 {
		c.lose(errLeaseLost)
	}
	return c.Context.Err()
}

// renew prolongs the lease every third of its length until ctx ends. A server
// that cannot be reached is asked again soon: the lease lasts until its end.
func (h *hold) renew(ctx context.Context, lose context.CancelCauseFunc) {
	pause := h.Lease / 3
	for sleep(ctx, min(pause, h.left())) {
		sent := time.Now()
		kept, err := ask(ctx, h.gate, h.left(), func(ctx context.Context) (bool, error) {
			return h.Server.Renew(ctx, h.id, h.owner, h.Lease)
		})
		if err == nil && kept {
			h.prolong(sent)
		}
		if err == nil && !kept || h.left() <= 0 {
			lose(errLeaseLost)
			return
		}
		if pause = h.Lease / 3; err != nil {
			pause = h.Lease / 30
		}
	}
}

func (h *hold) prolong(from time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ends = from.Add(h.Lease)
}

// left is for how much longer the lease lasts, counted from before it was
// asked for: the server began to count later.
func (h *hold) left() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.Lease - elapsed(h.ends.Add(-h.Lease), time.Now())
}

// save stores next, nil for none, and releases the lease with it. That the
// caller's ctx or the lease has ended does not matter any more: next is the
// only one that is good unless a later holder has saved.
func (h *hold) save(ctx context.Context, c Change) error {
	c.Stamp, c.Fence = h.owner, h.grant.Fence
	saved, err := persist(context.WithoutCancel(ctx), h.Store, saveWithin, func(ctx context.Context) (bool, error) {
		return h.Server.Save(ctx, h.id, c)
	})
	switch {
	case err != nil:
		return fmt.Errorf("store the session: %w", err)
	case !saved:
		return errOvertaken
	default:
		return nil
	}
}

// release gives the lease back. If that fails it ends by itself.
func (h *hold) release(ctx context.Context) {
	_, _ = ask(context.WithoutCancel(ctx), h.gate, freeWithin, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, h.Server.Release(ctx, h.id, h.owner)
	})
}
