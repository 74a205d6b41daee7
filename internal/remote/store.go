package remote

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/internal/keylock"
)

// Config says how a Store behaves. Name and Server are required.
type Config struct {
	Name   string // of the package whose store this is, to begin its errors
	Server Server
	// Codec is walletauth.JSONCodec if nil.
	Codec walletauth.Codec
	// Lease is how long the holder of a key may be silent, 15 seconds if not
	// positive.
	Lease time.Duration
	// MaxStaleness is for how long a copy serves that no subscription vouches
	// for: 5 seconds if zero, and at most. No copies are kept if it is negative.
	MaxStaleness time.Duration
	// OnlyInOutage has copies serve only while the server cannot be asked. It is
	// for a server that cannot tell of changes.
	OnlyInOutage bool
	// MaxCopies is the most that are kept, 100,000 if zero.
	MaxCopies int
	// MaxInFlight is the most calls that are with one shard of the server at
	// once, 2 at least.
	MaxInFlight int
}

// Store is a walletauth.TokenStore over a server.
type Store struct {
	Config
	client      *client
	queue       keylock.Mutex // in front of the lease: a process has one waiter for it
	cache       cache
	invalidator invalidator
}

var (
	_ walletauth.TokenStore = (*Store)(nil)
	_ walletauth.Replacer   = (*Store)(nil)
)

// New returns a store that has not begun anything yet.
func New(c Config) *Store {
	s := &Store{Config: c, client: &client{server: c.Server, shards: shards{maxInFlight: c.MaxInFlight}}}
	if s.Codec == nil {
		s.Codec = walletauth.JSONCodec{}
	}
	if s.Lease <= 0 {
		s.Lease = 15 * time.Second
	}
	s.MaxStaleness = min(cmp.Or(s.MaxStaleness, maxStaleness), maxStaleness)
	if s.MaxStaleness > 0 {
		s.cache.max = max(2, cmp.Or(s.MaxCopies, 100_000))
	}
	if s.cache.maxStaleness = s.MaxStaleness; s.OnlyInOutage {
		s.cache.maxStaleness = 0
	}
	s.invalidator = invalidator{client: s.client, cache: &s.cache, every: max(s.MaxStaleness/3, 50*time.Millisecond)}
	return s
}

// Close stops what runs in the background.
func (s *Store) Close() { s.invalidator.close() }

// Load is walletauth.TokenStore.Load.
func (s *Store) Load(ctx context.Context, key string) (*walletauth.Session, error) {
	id := s.Server.ID(key)
	if copy := s.cache.fresh(id, time.Now()); copy != nil {
		return copy, nil
	}
	session, err := s.fetch(ctx, id, key)
	if err != nil {
		return nil, fmt.Errorf("%s: load the session: %w", s.Name, err)
	}
	return session, nil
}

// staleAfter is for how long the server may think where there is a copy to answer
// with.
const staleAfter = 500 * time.Millisecond

// fetch returns what the server holds, or the copy that may be outdated while
// the server cannot be asked.
func (s *Store) fetch(ctx context.Context, id, key string) (*walletauth.Session, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.keepCoherent()
	stale, outage := s.cache.lastKnown(id, time.Now())
	inOutage := outage != nil && outage.lasts()
	if inOutage && !outage.due() {
		return stale, nil
	}
	r, isNew := s.cache.join(id)
	if isNew {
		go s.read(ctx, r, key, stale != nil, outage)
	}
	switch {
	case stale == nil:
		return r.wait(ctx)
	case inOutage:
		return stale, nil
	}
	hurried, cancel := context.WithTimeout(ctx, staleAfter)
	defer cancel()
	session, err := r.wait(hurried)
	if err == nil || ctx.Err() != nil {
		return session, err
	}
	if r.unreachable() {
		if outage != nil && hurried.Err() != nil {
			outage.begin()
		}
		return stale, nil
	}
	return r.session, r.err
}

// keepCoherent sees to it that changes are heard of, if there can be copies.
func (s *Store) keepCoherent() {
	if s.cache.max > 0 {
		s.invalidator.start()
	}
}

// read carries out a read that others may wait for too, apart from the ctx of
// the first of them. Without a copy to answer with it rides out a short outage.
// One that does not pass, such as a right that is missing, is no outage.
func (s *Store) read(ctx context.Context, r *read, key string, hasCopy bool, outage *outage) {
	defer s.cache.finish(r)
	defer recoverPanic(&r.err)
	r.err = errors.New("the Codec ended its goroutine (runtime.Goexit)")
	limit := retryFor
	if hasCopy {
		limit = 0
	}
	record, err := retry(context.WithoutCancel(ctx), s.client, limit, call[Record]{
		where: s.client.shardOf(r.id), timeout: answerWithin,
		do: func(ctx context.Context) (Record, error) { return s.Server.Read(ctx, r.id) },
	})
	if err != nil {
		s.readFailed(r, err, outage)
		return
	}
	if outage != nil {
		outage.end()
	}
	var lost bool
	r.session, lost, r.err = s.take(r.lookup, key, record)
	switch {
	case lost && s.cache.startRestore(r.lookup):
		go s.restore(r.lookup, key)
	case r.session == nil && r.err == nil:
		r.err = walletauth.ErrNoSession
	}
}

func (s *Store) readFailed(r *read, err error, outage *outage) {
	r.err = err
	if errors.Is(err, walletauth.ErrUnreadable) {
		s.cache.forget(r.lookup)
		return
	}
	s.cache.drop(r.lookup)
	if r.failed = true; outage != nil && s.client.transient(err) {
		outage.begin()
	}
}

// restore stores the copy again after the server has lost it, in a fail-over for
// example: else the next refresh would send a token that has been used.
func (s *Store) restore(l lookup, key string) {
	defer s.cache.endRestore(l)
	_ = s.Update(context.Background(), key, func(_ context.Context, current *walletauth.Session) (*walletauth.Session, error) {
		return current, nil // Update sees by itself that the server has another
	}) // if it fails, the next read tries again
}

// take makes the session of what the server answered, nil if there is none,
// and keeps a copy. If the copy at hand is a later state that the server has
// lost, it is the session.
func (s *Store) take(l lookup, key string, r Record) (session *walletauth.Session, lost bool, err error) {
	if session, err = s.decode(l, key, r); err != nil {
		s.cache.forget(l)
		return nil, false, err
	}
	if kept := s.cache.newerThan(l, session, r); kept != nil {
		return kept, true, nil
	}
	s.cache.store(l, session, r, s.client.shard(l.id))
	return session, false, nil
}

func (s *Store) decode(l lookup, key string, r Record) (*walletauth.Session, error) {
	if r.Data == nil {
		return nil, nil
	}
	if session := s.cache.decoded(l, r.Stamp); session != nil {
		return session, nil
	}
	session, err := s.Codec.Decode(key, r.Data)
	switch {
	case errors.Is(err, walletauth.ErrUnreadable):
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("%w: %w", walletauth.ErrUnreadable, err)
	case session == nil:
		return nil, fmt.Errorf("%w: the Codec returned neither a session nor an error", walletauth.ErrUnreadable)
	default:
		return session, nil
	}
}

// Update is walletauth.TokenStore.Update. An error of fn is returned as it is.
func (s *Store) Update(ctx context.Context, key string, fn func(context.Context, *walletauth.Session) (*walletauth.Session, error)) error {
	return s.update(ctx, &update{key: key, id: s.Server.ID(key), fn: fn})
}

// Replace is walletauth.Replacer.Replace.
func (s *Store) Replace(ctx context.Context, key string, next *walletauth.Session) error {
	fn := func(context.Context, *walletauth.Session) (*walletauth.Session, error) { return next, nil }
	return s.update(ctx, &update{key: key, id: s.Server.ID(key), fn: fn, blindly: true})
}

// update is one that is under way.
type update struct {
	key, id string
	fn      func(context.Context, *walletauth.Session) (*walletauth.Session, error)
	blindly bool  // what is stored is replaced without being read
	fence   int64 // of the lease under which fn was called first; 0: it was not called
}

// update calls fn until what it returned is stored, or it leaves what is stored
// as it is. It is called again if another process has stored something between:
// the lease was lost, or its last holder was late.
func (s *Store) update(ctx context.Context, u *update) error {
	s.keepCoherent()
	unlock, err := s.queue.Lock(ctx, u.id)
	if err != nil {
		return fmt.Errorf("%s: wait for the lease: %w", s.Name, err)
	}
	defer unlock()
	for {
		if done, err := s.try(ctx, u); done || err != nil {
			return err
		}
	}
}

// try calls fn once, under the lease. No connection is held meanwhile.
func (s *Store) try(ctx context.Context, u *update) (done bool, err error) {
	lookup := s.cache.begin(u.id)
	l, err := s.acquire(ctx, u.id, u.blindly)
	if err != nil {
		s.cache.drop(lookup)
		return false, fmt.Errorf("%s: %w", s.Name, err)
	}
	held, stop := l.hold(ctx)
	released := false
	defer func() { // also when fn panics or ends the goroutine
		stop()
		if !released {
			l.release(ctx)
		}
	}()
	current, lost, err := s.current(lookup, u, l.grant.Record)
	if err != nil {
		return false, fmt.Errorf("%s: load the session: %w", s.Name, err)
	}
	again := u.fence != 0
	if !again {
		u.fence = l.grant.LeaseFence
	}
	next, err := u.fn(held, current)
	switch {
	case err != nil:
		return false, err
	case next == current && !lost && !u.blindly:
		return true, nil
	case again && sameLogin(next, current) && !supersedes(next, u.fence, current, l.grant.Fence):
		return true, nil // it returned what it had before, and a later state is stored
	}
	released, err = s.save(ctx, l, u, next)
	if err != nil {
		err = fmt.Errorf("%s: %w", s.Name, err)
	}
	return released, err
}

// current is what fn is called with.
func (s *Store) current(l lookup, u *update, r Record) (session *walletauth.Session, lost bool, err error) {
	if u.blindly {
		s.cache.drop(l)
		return nil, false, nil
	}
	return s.take(l, u.key, r)
}

// save stores next, nil to delete, and keeps a copy. It reports false if another
// process has stored something that next does not supersede.
func (s *Store) save(ctx context.Context, l *lease, u *update, next *walletauth.Session) (saved bool, err error) {
	c, err := s.change(u.key, next)
	if err != nil {
		return false, err
	}
	lookup := s.cache.begin(l.id)
	defer func() {
		if !saved {
			s.cache.doubt(l.id)
			s.cache.drop(lookup)
		}
	}()
	for c.Seen = l.grant.Stamp; ; {
		fence, saved, err := l.save(ctx, c)
		if err != nil {
			return false, err
		}
		if saved {
			s.cache.storeSaved(lookup, next, Record{Stamp: l.owner, Fence: fence}, s.client.shard(l.id))
			return true, nil
		}
		stored, err := l.stored(ctx)
		if err != nil {
			return false, fmt.Errorf("store the session: %w", err)
		}
		if !s.replaces(u, next, stored) {
			return false, nil
		}
		c.Seen = stored.Stamp
	}
}

// replaces reports whether next is to replace what another process has stored.
// What the server has forgotten altogether is no logout.
func (s *Store) replaces(u *update, next *walletauth.Session, stored Record) bool {
	if next == nil || stored.Data == nil {
		return next != nil && stored.Stamp == Stamp{}
	}
	other, err := s.Codec.Decode(u.key, stored.Data)
	return err == nil && supersedes(next, u.fence, other, stored.Fence)
}

func (s *Store) change(key string, next *walletauth.Session) (c Change, err error) {
	if next == nil {
		return c, nil
	}
	c.Expires = next.RefreshTokenExpiresAt
	c.Data, err = s.Codec.Encode(key, next)
	if err == nil && len(c.Data) == 0 {
		err = errors.New("the Codec returned neither data nor an error")
	}
	return c, err
}
