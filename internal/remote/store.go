package remote

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/walletauth/walletauth"
)

// Config says how a Store behaves. Name and Server are required.
type Config struct {
	Name   string // of the package whose store this is, to begin its errors
	Server Server
	// Codec is walletauth.JSONCodec if nil.
	Codec walletauth.Codec
	// Lease is how long the holder of a key may be silent, 30 seconds if not
	// positive.
	Lease time.Duration
	// Trust is for how long a copy serves that no subscription vouches for: 5
	// seconds if zero, and at most. No copies are kept if it is negative.
	Trust time.Duration
	// Copies is the most that are kept, 100,000 if zero.
	Copies int
	// AtOnce is the most questions that are with the server at once.
	AtOnce int
}

// Store is a walletauth.TokenStore over a server.
type Store struct {
	Config
	gate   gate
	turns  walletauth.MemoryStore // stays empty: its exclusion is the queue in front of the lease
	copies copies
	feed   feed
	outage outage
}

var _ walletauth.TokenStore = (*Store)(nil)

// New returns a store that has not begun anything yet.
func New(c Config) *Store {
	s := &Store{Config: c, gate: make(gate, max(1, c.AtOnce))}
	if s.Codec == nil {
		s.Codec = walletauth.JSONCodec{}
	}
	if s.Lease <= 0 {
		s.Lease = 30 * time.Second
	}
	s.Trust = min(cmp.Or(s.Trust, maxTrust), maxTrust)
	if s.Trust > 0 {
		s.copies.max = max(2, cmp.Or(s.Copies, 100_000))
	}
	s.feed = feed{server: c.Server, gate: s.gate, copies: &s.copies, every: max(s.Trust/3, 50*time.Millisecond)}
	return s
}

// Close stops what runs in the background.
func (s *Store) Close() { s.feed.close() }

// Load is walletauth.TokenStore.Load.
func (s *Store) Load(ctx context.Context, key string) (*walletauth.Session, error) {
	id := s.Server.ID(key)
	if copy := s.copies.fresh(id, time.Now(), s.Trust); copy != nil {
		return copy, nil
	}
	session, err := s.fetch(ctx, id, key)
	if err != nil {
		return nil, fmt.Errorf("%s: load the session: %w", s.Name, err)
	}
	return session, nil
}

// patience is for how long the server may think where there is a copy to answer
// with.
const patience = 500 * time.Millisecond

// fetch returns what the server holds, or the copy that may be outdated while
// the server cannot be asked.
func (s *Store) fetch(ctx context.Context, id, key string) (*walletauth.Session, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.keepCoherent()
	stale := s.copies.any(id)
	outage := stale != nil && s.outage.lasts()
	if outage && !s.outage.due() {
		return stale, nil
	}
	r, isNew := s.copies.join(id)
	if isNew {
		go s.read(ctx, r, key, stale != nil)
	}
	switch {
	case stale == nil:
		return r.wait(ctx)
	case outage:
		return stale, nil
	}
	hurried, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	session, err := r.wait(hurried)
	if err == nil || ctx.Err() != nil {
		return session, err
	}
	if r.unreachable() {
		s.outage.begin()
		return stale, nil
	}
	return r.session, r.err
}

// keepCoherent sees to it that changes are heard of, if there can be copies.
func (s *Store) keepCoherent() {
	if s.copies.max > 0 {
		s.feed.start()
	}
}

// read carries out a read that others may wait for too, apart from the ctx of
// the first of them. Without a copy to answer with it rides out a short outage.
func (s *Store) read(ctx context.Context, r *read, key string, hasCopy bool) {
	defer s.copies.finish(r)
	defer recovered(&r.err)
	r.err = errors.New("the Codec ended its goroutine (runtime.Goexit)")
	limit := rideOut
	if hasCopy {
		limit = 0
	}
	record, err := persist(context.WithoutCancel(ctx), s, limit, func(ctx context.Context) (Record, error) {
		return s.Server.Read(ctx, r.id)
	})
	if err != nil {
		s.outage.begin()
		s.copies.drop(r.look)
		r.failed, r.err = true, err
		return
	}
	s.outage.end()
	if r.session, r.err = s.take(r.look, key, record); r.session == nil && r.err == nil {
		r.err = walletauth.ErrNoSession
	}
}

// take makes the session of what the server answered, nil if there is none,
// and keeps a copy.
func (s *Store) take(l look, key string, record Record) (session *walletauth.Session, err error) {
	if record.Data != nil {
		session = s.copies.decoded(l, record.Stamp)
	}
	if record.Data != nil && session == nil {
		session, err = s.Codec.Decode(key, record.Data)
	}
	switch {
	case err != nil:
		s.copies.drop(l)
		return nil, err
	case session == nil && record.Data != nil:
		s.copies.drop(l)
		return nil, errors.New("the Codec returned neither a session nor an error")
	}
	s.copies.learn(l, session, record.Stamp, false)
	return session, nil
}

// Update is walletauth.TokenStore.Update. An error of fn is returned as it is.
func (s *Store) Update(ctx context.Context, key string, fn func(context.Context, *walletauth.Session) (*walletauth.Session, error)) error {
	id := s.Server.ID(key)
	s.keepCoherent()
	waiting := true
	err := s.turns.Update(ctx, id, func(ctx context.Context, none *walletauth.Session) (*walletauth.Session, error) {
		waiting = false
		return none, s.update(ctx, id, key, fn)
	})
	if err != nil && waiting {
		return fmt.Errorf("%s: wait for the lease: %w", s.Name, err)
	}
	return err
}

// update runs fn under the lease. No connection is held meanwhile.
func (s *Store) update(ctx context.Context, id, key string, fn func(context.Context, *walletauth.Session) (*walletauth.Session, error)) error {
	l := s.copies.begin(id)
	h, err := s.acquire(ctx, id)
	if err != nil {
		s.copies.drop(l)
		return fmt.Errorf("%s: %w", s.Name, err)
	}
	leased, stop := h.under(ctx)
	released := false
	defer func() { // also when fn panics or ends the goroutine
		stop()
		if !released {
			h.release(ctx)
		}
	}()
	current, err := s.take(l, key, h.grant.Record)
	if err != nil {
		return fmt.Errorf("%s: load the session: %w", s.Name, err)
	}
	next, err := fn(leased, current)
	if err != nil || next == current {
		return err
	}
	if err := s.save(ctx, h, key, next); err != nil {
		return fmt.Errorf("%s: %w", s.Name, err)
	}
	released = true
	return nil
}

// save stores next, nil to delete, and keeps a copy.
func (s *Store) save(ctx context.Context, h *hold, key string, next *walletauth.Session) (err error) {
	var c Change
	if next != nil {
		c.Expires = next.RefreshTokenExpiresAt
		if c.Data, err = s.Codec.Encode(key, next); err != nil {
			return err
		}
		if len(c.Data) == 0 {
			return errors.New("the Codec returned neither data nor an error")
		}
	}
	l := s.copies.begin(h.id)
	if err = h.save(ctx, c); err != nil {
		s.copies.hear(Message{ID: h.id, Stamp: newStamp()}) // there may be something new
		s.copies.drop(l)
		return err
	}
	s.copies.learn(l, next, h.owner, true)
	return nil
}

// recovered is to be deferred: it makes a panic an error.
func recovered(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("a panic: %v", p)
	}
}

// outage remembers that the server could not be asked. Until it answers again
// one question in a second finds that out, and no Load waits for it that has a
// copy.
type outage struct {
	next atomic.Int64 // when to ask, in nanoseconds of Unix time; 0: no outage
}

func (o *outage) begin()      { o.next.Store(time.Now().Add(time.Second).UnixNano()) }
func (o *outage) end()        { o.next.Store(0) }
func (o *outage) lasts() bool { return o.next.Load() != 0 }

// due reports whether the caller is the one to ask.
func (o *outage) due() bool {
	next, now := o.next.Load(), time.Now()
	return now.UnixNano() >= next && o.next.CompareAndSwap(next, now.Add(time.Second).UnixNano())
}
