package remote

import (
	"context"
	"sync"
	"time"

	"github.com/walletauth/walletauth"
)

// copies are the sessions that this process has seen, by id. Their number is
// bounded in the cheapest way that spares what is in use: two generations, of
// which the older is dropped as a whole when the younger is full or old.
// An exact order of use would cost a lock and a list for every Load.
type copies struct {
	max int // of both generations together; none are kept if it is not positive

	mu         sync.RWMutex // guards what follows, the slots too
	young, old map[string]*slot
	turned     time.Time // when the generations last changed
	listening  bool      // there is a subscription
	epoch      uint64    // counts those there have been
	proven     time.Time // until when everything that changed has been heard of
}

// slot is what is known of one id: the copy, and what was heard of it.
type slot struct {
	session  *walletauth.Session // nil: no copy
	stamp    Stamp
	outdated bool      // the server holds something else
	asOf     time.Time // it was the server's then
	epoch    uint64    // of asOf, so that what was missed between two subscriptions is known
	changes  int       // heard of so far
	heard    Stamp     // the last of them
	awaited  Stamp     // of the last Update here, until it is heard of
	since    uint64    // the epoch of awaited
	read     *read     // under way
}

// maxTrust is for how long a copy may serve that nobody vouches for.
const maxTrust = 5 * time.Second

// idle is for how long an unused copy is kept, at least; at most twice that.
const idle = 10 * time.Minute

// fresh returns the copy of id if it may serve without a look at the server:
// it was read less than trust ago, or a subscription that was proven to work
// less than trust ago would have told of a change.
func (c *copies) fresh(id string, now time.Time, trust time.Duration) *walletauth.Session {
	c.mu.RLock()
	s, isYoung := c.young[id]
	if isYoung && s.usable(c, now, trust) {
		defer c.mu.RUnlock()
		return s.session
	}
	c.mu.RUnlock()
	if isYoung {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if s = c.find(id); s == nil || !s.usable(c, now, trust) {
		return nil
	}
	return s.session
}

func (s *slot) usable(c *copies, now time.Time, trust time.Duration) bool {
	switch {
	case s.session == nil || s.outdated:
		return false
	case c.listening && s.epoch != c.epoch:
		return false // it may have changed between two subscriptions
	case s.epoch == c.epoch && elapsed(c.proven, now) < trust:
		return true
	default:
		return elapsed(s.asOf, now) < trust
	}
}

// elapsed is the time from then to now by the clock that saw more of it. The
// monotonic one stands still while a machine sleeps, the other can be set.
func elapsed(then, now time.Time) time.Duration {
	return max(now.Sub(then), now.Round(0).Sub(then.Round(0)))
}

// find returns the slot of id, nil if there is none, and makes it young.
func (c *copies) find(id string) *slot {
	if s := c.young[id]; s != nil {
		return s
	}
	s := c.old[id]
	if s != nil {
		delete(c.old, id)
		c.add(id, s)
	}
	return s
}

// add puts s into the young generation.
func (c *copies) add(id string, s *slot) {
	if len(c.young) >= max(1, c.max/2) {
		c.turn(time.Now())
	}
	if c.young == nil {
		c.young = make(map[string]*slot)
	}
	c.young[id] = s
}

func (c *copies) turn(now time.Time) {
	c.old, c.young, c.turned = c.young, nil, now
}

// sweep drops what nobody used for long and returns how many copies are left.
func (c *copies) sweep(now time.Time) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if elapsed(c.turned, now) >= idle {
		c.turn(now)
	}
	return len(c.young) + len(c.old)
}

// look is the beginning of a question to the server. What is heard of the id
// until it is answered decides on whether the answer can be kept.
type look struct {
	id      string
	slot    *slot
	changes int
	epoch   uint64
	at      time.Time
}

func (c *copies) begin(id string) look {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.look(id)
}

func (c *copies) look(id string) look {
	s := c.find(id)
	if s == nil {
		s = new(slot)
		if c.max > 0 {
			c.add(id, s)
		}
	}
	return look{id: id, slot: s, changes: s.changes, epoch: c.epoch, at: time.Now()}
}

// learn ends a look: at the time of the look, or later, the server held s.
// With own, it holds it because this process has just stored it.
func (c *copies) learn(l look, s *walletauth.Session, stamp Stamp, own bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	was := l.slot
	current := was.changes == l.changes || was.heard == stamp && (own || !was.awaits(c.epoch))
	if own && current { // so that a slower look does not bring back what was before
		was.await(stamp, l.epoch)
		was.changes++
		was.heard = stamp
	}
	if c.find(l.id) != was {
		return // dropped meanwhile, and with it what was heard
	}
	switch {
	case s != nil && (current || own || was.session == nil):
		was.session, was.stamp, was.outdated = s, stamp, !current
		was.asOf, was.epoch = l.at, l.epoch
	case s == nil && (current || own):
		was.session = nil
		c.prune(l.id, was)
	default: // which of the two is newer only the server knows
		was.outdated = true
	}
}

// await notes that a message of our own Update is on its way, unless it has
// come already.
func (s *slot) await(stamp Stamp, epoch uint64) {
	s.awaited, s.since = Stamp{}, epoch
	if s.heard != stamp {
		s.awaited = stamp
	}
}

// awaits reports whether that message is yet to come. Messages come in the order
// of the changes: until then all are of what was before, and none tells what is
// current.
func (s *slot) awaits(epoch uint64) bool { return s.awaited != (Stamp{}) && s.since == epoch }

// hear takes a message in. A session that was replaced is kept for the time
// when the server cannot be asked; one that was deleted is not.
func (c *copies) hear(m Message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.young[m.ID]
	if s == nil {
		s = c.old[m.ID] // to be heard of is not to be used
	}
	if s == nil {
		return
	}
	s.changes++
	s.heard = m.Stamp
	if s.awaited == m.Stamp {
		s.awaited = Stamp{}
	}
	if m.Deleted {
		s.session = nil
	}
	s.outdated = s.stamp != m.Stamp || s.awaits(c.epoch)
}

// decoded returns the session that was stored with stamp if a copy of it is
// at hand, so that it need not be decoded again. Without a stamp, as of a record
// that was restored by hand, one is like the other.
func (c *copies) decoded(l look, stamp Stamp) *walletauth.Session {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if l.slot.stamp != stamp || stamp == (Stamp{}) {
		return nil
	}
	return l.slot.session
}

// prune drops a slot that holds nothing: that there is no session is never
// remembered, as it would hide a login.
func (c *copies) prune(id string, s *slot) {
	if s.session == nil && c.young[id] == s {
		delete(c.young, id)
	}
}

// drop ends a look without an answer.
func (c *copies) drop(l look) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.prune(l.id, l.slot)
}

// subscribed begins an epoch: changes from now on will be heard of. Copies from
// before may have missed some.
func (c *copies) subscribed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch++
	c.listening = true
}

func (c *copies) unsubscribed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.listening = false
}

// prove says that every change until then has been heard of.
func (c *copies) prove(then time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.proven = then
}

func (c *copies) lastProof() time.Time {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.proven
}

// any returns the copy of id, however old, nil if there is none.
func (c *copies) any(id string) *walletauth.Session {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.find(id); s != nil {
		return s.session
	}
	return nil
}

// read is a question to the server that all Loads of the id wait for.
type read struct {
	look
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
func (c *copies) join(id string) (r *read, isNew bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.look(id)
	if r := l.slot.read; r != nil && r.changes == l.changes {
		return r, false
	}
	r = &read{look: l, done: make(chan struct{})}
	l.slot.read = r
	return r, true
}

func (c *copies) finish(r *read) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.slot.read == r {
		r.slot.read = nil
	}
	close(r.done)
}
