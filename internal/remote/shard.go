package remote

import (
	"sync"
	"sync/atomic"
	"time"
)

// shard is what is known of one part of the server. Parts fail one by one, and
// what happens to one must change nothing for the keys of the others.
type shard struct {
	calls  semaphore
	outage outage

	answered atomic.Int64              // when it did last, in nanoseconds of Unix time
	verified atomic.Pointer[time.Time] // every change until then has been heard of; nil: none
}

func (s *shard) verify(until time.Time) { s.verified.Store(&until) }

// isVerified reports whether a change would have been heard of, but for those
// of the last maxStaleness.
func (s *shard) isVerified(now time.Time, maxStaleness time.Duration) bool {
	until := s.verified.Load()
	return until != nil && elapsed(*until, now) < maxStaleness
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
	next atomic.Int64 // when to ask, in nanoseconds of Unix time; 0: no outage
}

// begin does not prolong an outage that lasts already.
func (o *outage) begin()      { o.next.CompareAndSwap(0, time.Now().Add(time.Second).UnixNano()) }
func (o *outage) end()        { o.next.Store(0) }
func (o *outage) lasts() bool { return o.next.Load() != 0 }

// due reports whether the caller is the one to ask.
func (o *outage) due() bool {
	next, now := o.next.Load(), time.Now()
	return now.UnixNano() >= next && o.next.CompareAndSwap(next, now.Add(time.Second).UnixNano())
}
