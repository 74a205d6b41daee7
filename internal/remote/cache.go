package remote

import (
	"context"
	"sync"
	"time"

	"github.com/walletauth/walletauth"
)

// cache holds the sessions that this process has seen, by id. Their number is
// bounded in the cheapest way that spares what is in use: two generations, of
// which the older is dropped as a whole when the younger is full or old.
// An exact order of use would cost a lock and a list for every Load.
//
// What is newer the fence tells, which grows with every save of a key and which
// answers and messages carry. A server that has lost what it knew may begin
// again with lower fences: therefore an answer counts, whatever its fence, if
// nothing was heard since it was asked for.
type cache struct {
	max          int // of both generations together; none are kept if it is not positive
	maxStaleness time.Duration

	mu         sync.RWMutex // guards what follows, the entries too
	young, old map[string]*entry
	rotated    time.Time // when the generations last changed
	subscribed bool
	epoch      uint64 // counts the subscriptions there have been
}

// entry is what is known of one id: the copy, and what was heard of it.
type entry struct {
	session *walletauth.Session // nil: no copy
	stamp   Stamp
	fence   int64
	stale   bool   // the server may hold something else
	heard   int64  // the highest fence that a message told of
	changes int    // heard of or made here so far
	shard   *shard // that answered last
	outage  outage
	asOf    time.Time // the copy was the server's then
	epoch   uint64    // of asOf, so that what was missed between two subscriptions is known
	read    *read     // under way

	restoring bool // the copy is being stored again
}

// maxStaleness is for how long a copy may serve that nobody vouches for.
const maxStaleness = 5 * time.Second

// idle is for how long an unused copy is kept, at least; at most twice that.
const idle = 10 * time.Minute

// fresh returns the copy of id if it may serve without a look at the server: it was
// read less than maxStaleness ago, or every change since then was heard of, but for
// those of the last maxStaleness.
func (c *cache) fresh(id string, now time.Time) *walletauth.Session {
	c.mu.RLock()
	e, isYoung := c.young[id]
	if isYoung && e.fresh(c, now) {
		defer c.mu.RUnlock()
		return e.session
	}
	c.mu.RUnlock()
	if isYoung {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e = c.find(id); e == nil || !e.fresh(c, now) {
		return nil
	}
	return e.session
}

func (e *entry) fresh(c *cache, now time.Time) bool {
	switch {
	case e.session == nil || e.stale:
		return false
	case c.subscribed && e.epoch != c.epoch:
		return false // it may have changed between two subscriptions
	case e.epoch == c.epoch && e.shard.isHeardSince(e.asOf, now, c.maxStaleness):
		return true
	default:
		return elapsed(e.asOf, now) < c.maxStaleness
	}
}

// elapsed is the time from then to now by the clock that saw more of it. The
// monotonic one stands still while a machine sleeps, the other can be set.
func elapsed(then, now time.Time) time.Duration {
	return max(now.Sub(then), now.Round(0).Sub(then.Round(0)))
}

// find returns the entry of id, nil if there is none, and makes it young.
func (c *cache) find(id string) *entry {
	if e := c.young[id]; e != nil {
		return e
	}
	e := c.old[id]
	if e != nil {
		delete(c.old, id)
		c.add(id, e)
	}
	return e
}

// add puts e into the young generation.
func (c *cache) add(id string, e *entry) {
	if len(c.young) >= max(1, c.max/2) {
		c.rotate(time.Now())
	}
	if c.young == nil {
		c.young = make(map[string]*entry)
	}
	c.young[id] = e
}

func (c *cache) rotate(now time.Time) {
	c.old, c.young, c.rotated = c.young, nil, now
}

// sweep drops what nobody used for long and returns how many copies are left.
func (c *cache) sweep(now time.Time) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if elapsed(c.rotated, now) >= idle {
		c.rotate(now)
	}
	return len(c.young) + len(c.old)
}

// lookup is the beginning of a question to the server. What is heard of the id
// until it is answered decides whether the answer can be kept.
type lookup struct {
	id      string
	entry   *entry
	copy    *walletauth.Session // at hand at the beginning
	changes int
	epoch   uint64
	at      time.Time
}

func (c *cache) begin(id string) lookup {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lookup(id)
}

func (c *cache) lookup(id string) lookup {
	e := c.find(id)
	if e == nil {
		e = new(entry)
		if c.max > 0 {
			c.add(id, e)
		}
	}
	return lookup{id: id, entry: e, copy: e.session, changes: e.changes, epoch: c.epoch, at: time.Now()}
}

// store ends a lookup: at its time, or later, shard held r, which is s.
func (c *cache) store(l lookup, s *walletauth.Session, r Record, shard *shard) {
	c.mu.Lock()
	defer c.mu.Unlock()
	crossed := l.entry.changes != l.changes
	if c.find(l.id) != l.entry || crossed && r.Fence < l.entry.fence {
		return // it was dropped meanwhile, with what was heard; or the copy is the newer one
	}
	l.entry.set(l, s, r, shard)
	if l.entry.stale = crossed && r.Fence < l.entry.heard; !l.entry.stale {
		l.entry.heard = r.Fence
	}
	c.prune(l.id, l.entry)
}

// storeSaved ends a lookup: this process has stored r in shard, which is s.
func (c *cache) storeSaved(l lookup, s *walletauth.Session, r Record, shard *shard) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l.entry.changes++ // an answer from before must not bring back what was there
	if c.find(l.id) != l.entry {
		return
	}
	l.entry.set(l, s, r, shard)
	l.entry.stale = r.Fence < l.entry.heard
	c.prune(l.id, l.entry)
}

func (e *entry) set(l lookup, s *walletauth.Session, r Record, shard *shard) {
	e.session, e.stamp, e.fence, e.shard = s, r.Stamp, r.Fence, shard
	e.asOf, e.epoch = l.at, l.epoch
	e.outage.end()
}

// invalidate takes a message in. A session that was replaced is kept for the
// time when the server cannot be asked; one that was deleted is not.
func (c *cache) invalidate(m Message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.young[m.ID]
	if e == nil {
		e = c.old[m.ID] // to be heard of is not to be used
	}
	if e == nil {
		return
	}
	e.changes++
	e.heard = max(e.heard, m.Fence)
	if e.fence == m.Fence {
		return
	}
	e.stale = true // also if the fence is lower: the server may have begun anew
	if m.Deleted && m.Fence > e.fence {
		e.session = nil
	}
}

// doubt notes that the server may hold something else, for a reason that no
// message tells of.
func (c *cache) doubt(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.find(id); e != nil {
		e.changes++
		e.stale = true
	}
}

// newerThan returns the copy of l if it is a later state of the same login as s
// and was stored after r, so that the server has lost it. Only a copy that was
// at hand before the server was asked counts: a later one explains the
// difference by itself. What was heard meanwhile does not matter. It may be the
// message of the very save that is lost.
func (c *cache) newerThan(l lookup, s *walletauth.Session, r Record) *walletauth.Session {
	c.mu.RLock()
	defer c.mu.RUnlock()
	e := l.entry
	if e.session == l.copy && e.fence > r.Fence && sameLogin(e.session, s) && expiresLater(e.session, s) {
		return e.session
	}
	return nil
}

// startRestore reports whether the caller is the one to store the copy again.
func (c *cache) startRestore(l lookup) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.entry.restoring {
		return false
	}
	l.entry.restoring = true
	return true
}

func (c *cache) endRestore(l lookup) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l.entry.restoring = false
}

// decoded returns the session that was stored with stamp if a copy of it is
// at hand, so that it need not be decoded again. Without a stamp, as of a record
// that was restored by hand, one is like the other.
func (c *cache) decoded(l lookup, stamp Stamp) *walletauth.Session {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if l.entry.stamp != stamp || stamp == (Stamp{}) {
		return nil
	}
	return l.entry.session
}

// prune drops an entry that holds nothing: that there is no session is never
// remembered, as it would hide a login.
func (c *cache) prune(id string, e *entry) {
	if e.session == nil && c.young[id] == e {
		delete(c.young, id)
	}
}

// drop ends a lookup without an answer.
func (c *cache) drop(l lookup) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.prune(l.id, l.entry)
}

// forget drops the copy too: it is known to be wrong, and nothing is known
// that is right.
func (c *cache) forget(l lookup) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l.entry.session = nil
	c.prune(l.id, l.entry)
}

// subscribe begins an epoch: changes from now on will be heard of. Copies from
// before may have missed some.
func (c *cache) subscribe() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch++
	c.subscribed = true
}

func (c *cache) unsubscribe() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.subscribed = false
}

// lastKnown returns the copy of id, however old, nil if there is none, and the
// outage during which it serves without a look at the server. There is none for
// a copy that is known to be stale while the subscription works.
func (c *cache) lastKnown(id string, now time.Time) (*walletauth.Session, *outage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.find(id)
	switch {
	case e == nil || e.session == nil:
		return nil, nil
	case !c.subscribed || !e.shard.isHeard(now, c.maxStaleness):
		return e.session, &e.shard.outage
	case e.stale:
		return e.session, nil
	default:
		return e.session, &e.outage
	}
}

// read is a question to the server that all Loads of the id wait for.
type read struct {
	lookup
	done chan struct{} // closed when what follows is set

	session *walletauth.Session
	err     error
	failed  bool // err is the server's and says nothing about the session
}

// wait returns what was read, or that ctx ended.
func (r *read) wait(ctx context.Context) (*walletauth.Session, error) {
	select {
	case <-r.done:
		return r.session, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// unreachable reports whether r has come to nothing, or to nothing yet.
func (r *read) unreachable() bool {
	select {
	case <-r.done:
		return r.failed
	default:
		return true
	}
}

// join returns the read of id that is under way, or a new one that the caller
// has to carry out. One that may have begun before the last change is not
// joined.
func (c *cache) join(id string) (r *read, isNew bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.lookup(id)
	if r := l.entry.read; r != nil && r.changes == l.changes {
		return r, false
	}
	r = &read{lookup: l, done: make(chan struct{})}
	l.entry.read = r
	return r, true
}

func (c *cache) finish(r *read) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.entry.read == r {
		r.entry.read = nil
	}
	close(r.done)
}
