package remote

import (
	"context"
	"crypto/rand"
	"errors"
	mathrand "math/rand/v2"
	"slices"
	"sync"
	"time"
)

// invalidator keeps the cache coherent by a subscription, on goroutines that run
// while there are copies. A connection that is up proves nothing: it may be
// half open, or lead to a server that has been replaced, or through a pooler
// that drops messages. So it sends itself probes by the way that changes take,
// from every shard of the server, and only their echoes count.
type invalidator struct {
	client *client
	cache  *cache
	every  time.Duration // between probes, and at most between a loss and the next attempt

	mu      sync.Mutex // guards what follows
	used    time.Time  // when start was called last
	stop    context.CancelFunc
	ended   chan struct{} // closed at the end of the goroutines, nil if there are none
	stopped bool
}

// start starts the goroutines unless they run or were stopped for good.
func (v *invalidator) start() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.used = time.Now()
	if v.ended != nil || v.stopped {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	v.stop, v.ended = cancel, make(chan struct{})
	go func(ended chan struct{}) {
		defer v.end(ended)
		v.run(ctx)
	}(v.ended)
}

// close stops the goroutines and waits for their end.
func (v *invalidator) close() {
	v.mu.Lock()
	v.stopped = true
	ended := v.ended
	if ended != nil {
		v.stop()
	}
	v.mu.Unlock()
	if ended != nil {
		<-ended
	}
}

// run subscribes, again and again, until there are no copies any more.
func (v *invalidator) run(ctx context.Context) {
	const least = 50 * time.Millisecond
	for wait := least; !v.over(ctx); wait = min(2*wait, v.every) {
		began := time.Now()
		err := v.listen(ctx)
		switch {
		case errors.Is(err, errors.ErrUnsupported):
			wait = time.Minute // each attempt costs a connection
		case time.Since(began) > v.every: // it worked for a while
			wait = least
		}
		sleep(ctx, jitter(wait))
	}
}

func (v *invalidator) end(ended chan struct{}) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.stop()
	v.ended = nil
	close(ended)
}

// over reports whether there is nothing left to do. An empty cache alone does
// not mean that: the copy that start was called for may be yet to come.
func (v *invalidator) over(ctx context.Context) bool {
	v.mu.Lock()
	used := v.used
	v.mu.Unlock()
	now := time.Now()
	return ctx.Err() != nil || v.cache.sweep(now) == 0 && elapsed(used, now) > time.Minute
}

// listen takes messages in until the subscription fails. The error is that
// there could be none, or a panic of the client library, which ends no more than
// this subscription.
func (v *invalidator) listen(ctx context.Context) (err error) {
	defer recoverPanic(&err)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p := prober{invalidator: v, name: rand.Text(), began: time.Now()}
	if err := p.list(ctx); err != nil {
		return err
	}
	sub, err := v.client.server.Subscribe(ctx, p.name)
	if err != nil {
		return err
	}
	defer sub.Close()
	v.cache.subscribe()
	defer v.cache.unsubscribe()
	var reader sync.WaitGroup
	defer reader.Wait()
	defer cancel()
	reader.Go(func() { defer cancel(); _ = v.read(ctx, sub, &p) }) // its end is what matters
	p.run(ctx)
	return nil
}

func (v *invalidator) read(ctx context.Context, sub Subscription, p *prober) (err error) {
	defer recoverPanic(&err)
	for {
		m, err := sub.Next(ctx)
		switch {
		case err != nil:
			return err
		case m.Echo == "":
			v.cache.invalidate(m)
		default:
			p.echo(m.Echo)
		}
	}
}

// prober sends the probes of one subscription.
type prober struct {
	*invalidator
	name  string
	began time.Time

	calls  sync.WaitGroup
	mu     sync.Mutex // guards what follows
	names  []string   // of the shards
	trails map[string]*trail
	busy   map[string]bool // who is being asked now
	heard  time.Time       // when the last echo came
}

// trail is what a shard was sent that may still be echoed. Echoes come in the order
// of the probes, as all messages of a shard do.
type trail struct {
	pending []probe
	since   time.Time // no echo is missing since this probe; zero: the last one is
}

type probe struct {
	payload string
	at      time.Time
}

// send adds a probe. An old one, which would prove nothing any more, is lost.
func (t *trail) send(p probe) {
	for len(t.pending) > 0 && elapsed(t.pending[0].at, p.at) >= maxStaleness {
		t.pending, t.since = t.pending[1:], time.Time{}
	}
	t.pending = append(t.pending, p)
}

// echo takes in what came back and returns the time of which every change was
// heard, nil if the echo is of another shard. Where an echo is missing, so may be
// the message of a change.
func (t *trail) echo(payload string) *period {
	i := slices.IndexFunc(t.pending, func(p probe) bool { return p.payload == payload })
	if i < 0 {
		return nil
	}
	at := t.pending[i].at
	if i > 0 || t.since.IsZero() {
		t.since = at
	}
	t.pending = t.pending[i+1:]
	return &period{t.since, at}
}

// run sends probes until ctx ends, nothing is left to keep coherent, or none
// has come back from anywhere for so long that no copy is trusted anyway.
func (p *prober) run(ctx context.Context) {
	defer p.calls.Wait()
	tick := time.NewTicker(p.every)
	defer tick.Stop()
	for !p.over(ctx) && !p.silent() {
		for _, name := range p.shards() {
			p.alone("shard "+name, func() { p.probe(ctx, name) })
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		p.alone("list", func() { _ = p.list(ctx) }) // if it fails, the last one stands
	}
}

// alone runs fn in the background unless what it does is under way: a shard that
// does not answer must not keep the others waiting.
func (p *prober) alone(what string, fn func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.busy[what] {
		return
	}
	if p.busy == nil {
		p.busy = make(map[string]bool)
	}
	p.busy[what] = true
	p.calls.Go(func() {
		fn()
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.busy, what)
	})
}

// anywhere is the room for what concerns no shard in particular.
func (p *prober) anywhere() *shard { return p.client.shards.of("") }

func (p *prober) list(ctx context.Context) error {
	r := once(ctx, call[[]string]{where: p.anywhere, urgent: true, timeout: answerWithin, do: p.client.server.Shards})
	if r.err == nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.names = r.value
	}
	return r.err
}

func (p *prober) shards() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.names
}

func (p *prober) probe(ctx context.Context, name string) {
	_ = once(ctx, call[struct{}]{ // if it fails, no echo comes
		where:  func() *shard { return p.client.shards.of(name) },
		urgent: true, timeout: p.every,
		do: func(ctx context.Context) (struct{}, error) {
			return struct{}{}, p.client.server.Probe(ctx, name, p.name, p.next(name))
		},
	})
}

// next is the payload of the next probe of a shard, which begins now.
func (p *prober) next(name string) (payload string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.trails == nil {
		p.trails = make(map[string]*trail)
	}
	if p.trails[name] == nil {
		p.trails[name] = new(trail)
	}
	next := probe{rand.Text(), time.Now()}
	p.trails[name].send(next)
	return next.payload
}

func (p *prober) echo(payload string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, trail := range p.trails {
		if heard := trail.echo(payload); heard != nil {
			p.heard = time.Now()
			p.client.shards.of(name).heard.Store(heard)
		}
	}
}

func (p *prober) silent() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	return elapsed(p.began, now) > maxStaleness && elapsed(p.heard, now) > maxStaleness
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
