package remote

import (
	"context"
	"crypto/rand"
	"errors"
	mathrand "math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// feed keeps the copies coherent by a subscription, on two goroutines that run
// while there are copies. A connection that is up proves nothing: it may be
// half open, or lead to a server that has been replaced, or through a pooler
// that drops messages. So the feed sends itself probes by the way that changes
// take, and only their echoes count.
type feed struct {
	server Server
	gate   gate
	copies *copies
	every  time.Duration // between probes, and at most between a loss and the next attempt

	mu      sync.Mutex // guards what follows
	used    time.Time  // when start was called last
	stop    context.CancelFunc
	ended   chan struct{} // closed at the end of the goroutines, nil if there are none
	stopped bool
}

// start starts the goroutines unless they run or were stopped for good.
func (f *feed) start() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.used = time.Now()
	if f.ended != nil || f.stopped {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	f.stop, f.ended = cancel, make(chan struct{})
	go f.run(ctx, f.ended)
}

// close stops the goroutines and waits for their end.
func (f *feed) close() {
	f.mu.Lock()
	f.stopped = true
	ended := f.ended
	if ended != nil {
		f.stop()
	}
	f.mu.Unlock()
	if ended != nil {
		<-ended
	}
}

// run subscribes, again and again, until there are no copies any more.
func (f *feed) run(ctx context.Context, ended chan struct{}) {
	defer f.end(ended)
	const least = 50 * time.Millisecond
	for wait := least; !f.over(ctx); wait = min(2*wait, f.every) {
		began := time.Now()
		err := f.listen(ctx)
		switch {
		case errors.Is(err, errors.ErrUnsupported):
			wait = time.Minute // each attempt costs a connection
		case time.Since(began) > f.every: // it worked for a while
			wait = least
		}
		sleep(ctx, jitter(wait))
	}
}

func (f *feed) end(ended chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stop()
	f.ended = nil
	close(ended)
}

// over reports whether there is nothing left to do. That there is no copy at
// the moment does not suffice: the one that start was called for may be yet
// to come.
func (f *feed) over(ctx context.Context) bool {
	f.mu.Lock()
	used := f.used
	f.mu.Unlock()
	now := time.Now()
	return ctx.Err() != nil || f.copies.sweep(now) == 0 && elapsed(used, now) > time.Minute
}

// listen takes messages in until the subscription fails. The error is that
// there could be none.
func (f *feed) listen(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p := probes{name: rand.Text()}
	sub, err := f.server.Subscribe(ctx, p.name)
	if err != nil {
		return err
	}
	defer sub.Close()
	f.copies.subscribed()
	defer f.copies.unsubscribed()
	var reader sync.WaitGroup
	defer reader.Wait()
	defer cancel()
	reader.Go(func() { defer cancel(); f.read(ctx, sub, &p) })
	f.probe(ctx, &p)
	return nil
}

func (f *feed) read(ctx context.Context, sub Subscription, p *probes) {
	for {
		m, err := sub.Next(ctx)
		switch {
		case err != nil:
			return
		case m.Echo == "":
			f.copies.hear(m)
		default:
			if sent, ok := p.sentAt(m.Echo); ok {
				f.copies.prove(sent)
			}
		}
	}
}

// probe sends probes until ctx ends, nothing is left to keep coherent, or none
// has come back for so long that the copies are not trusted anyway.
func (f *feed) probe(ctx context.Context, p *probes) {
	tick := time.NewTicker(f.every)
	defer tick.Stop()
	began := time.Now()
	for !f.over(ctx) {
		f.send(ctx, p)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if silent := elapsed(f.copies.lastProof(), time.Now()); silent > maxTrust && elapsed(began, time.Now()) > maxTrust {
			return
		}
	}
}

func (f *feed) send(ctx context.Context, p *probes) {
	now := time.Now()
	next := &probe{payload: strconv.FormatInt(now.UnixNano(), 10), sent: now}
	p.last.Store(next)
	_, _ = ask(ctx, f.gate, f.every, func(ctx context.Context) (struct{}, error) { // if it fails, no echo comes
		return struct{}{}, f.server.Probe(ctx, p.name, next.payload)
	})
}

// probes are those of one subscription. The echo of any but the last comes too
// late to prove anything.
type probes struct {
	name string
	last atomic.Pointer[probe]
}

type probe struct {
	payload string
	sent    time.Time
}

func (p *probes) sentAt(payload string) (time.Time, bool) {
	last := p.last.Load()
	if last == nil || last.payload != payload {
		return time.Time{}, false
	}
	return last.sent, true
}

// jitter spreads those who began together.
func jitter(d time.Duration) time.Duration {
	return d/2 + mathrand.N(d/2+1)
}

// sleep waits for d and reports whether ctx lasted that long.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
