package remote

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// shard is what is known of one part of the server. Parts fail one by one, and
// what happens to one must change nothing for the keys of the others.
type shard struct {
	calls  semaphore
	outage outage

	answered atomic.Pointer[time.Time] // when it did last; nil: never
	heard    atomic.Pointer[period]    // every change in it was heard of; nil: there is none
}

// enter waits for room until ctx ends, or the server has answered nobody for the
// timeout: errTimeout.
func (s *shard) enter(ctx context.Context, urgent bool, timeout time.Duration) (leave func(), err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer s.onSilence(ctx, time.Now(), timeout, func() { cancel(errTimeout) }).Stop()
	return s.calls.enter(ctx, urgent)
}

// onSilence calls fn once the server has answered nobody for the timeout since
// then, unless ctx has ended.
func (s *shard) onSilence(ctx context.Context, since time.Time, timeout time.Duration, fn func()) *time.Timer {
	return time.AfterFunc(timeout-s.silence(since), func() {
		switch {
		case ctx.Err() != nil:
		case s.silence(since) >= timeout:
			fn()
		default:
			s.onSilence(ctx, since, timeout, fn)
		}
	})
}

// silence is for how long the server has answered nobody since then.
func (s *shard) silence(since time.Time) time.Duration {
	if last := s.answered.Load(); last != nil && last.After(since) {
		since = *last
	}
	return time.Since(since)
}

// period is a stretch of time, its ends included.
type period struct{ since, until time.Time }

// isHeard reports whether a change would have been heard of, but for those of the
// last maxStaleness.
func (s *shard) isHeard(now time.Time, maxStaleness time.Duration) bool {
	p := s.heard.Load()
	return p != nil && elapsed(p.until, now) < maxStaleness
}

// isHeardSince reports whether that holds for every change since then.
func (s *shard) isHeardSince(then, now time.Time, maxStaleness time.Duration) bool {
	p := s.heard.Load()
	return p != nil && !then.Before(p.since) && elapsed(p.until, now) < maxStaleness
}

// shards are those that were met so far, by name.
type shards struct {
	maxInFlight int

	mu     sync.Mutex // guards byName
	byName map[string]*shard
}

func (s *shards) of(name string) *shard {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := s.byName[name]
	if found == nil {
		found = &shard{calls: newSemaphore(s.maxInFlight)}
		if s.byName == nil {
			s.byName = make(map[string]*shard)
		}
		s.byName[name] = found
	}
	return found
}

// outage remembers that the server could not be asked. Until it answers again
// one question in a second finds that out, and no Load waits for it that has a
// copy. What cannot be asked is one key while changes of its shard are heard of,
// and a whole shard otherwise.
type outage struct {
	next atomic.Pointer[time.Time] // when to ask; nil: no outage
}

func inASecond() *time.Time {
	next := time.Now().Add(time.Second)
	return &next
}

// begin does not prolong an outage that lasts already.
func (o *outage) begin()      { o.next.CompareAndSwap(nil, inASecond()) }
func (o *outage) end()        { o.next.Store(nil) }
func (o *outage) lasts() bool { return o.next.Load() != nil }

// due reports whether the caller is the one to ask.
func (o *outage) due() bool {
	next := o.next.Load()
	return next == nil || !time.Now().Before(*next) && o.next.CompareAndSwap(next, inASecond())
}
