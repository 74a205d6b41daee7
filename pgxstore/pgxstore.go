// Package pgxstore keeps WalletKit sessions in PostgreSQL, for services with
// many processes and many users: a session is refreshed once in all of them.
//
//	store := &pgxstore.Store{Pool: pool}
//	if err := store.Migrate(ctx); err != nil { // makes the table
//		return err
//	}
//	transport := &walletauth.Transport{Store: store}
//
// # What it promises
//
// A request costs no query: Load answers from a local copy, and what one
// process stores the others hear of by LISTEN and NOTIFY. Where that does not
// work, behind PgBouncer in transaction mode for example, a copy serves for 5
// seconds before PostgreSQL is asked again. While PostgreSQL cannot be reached,
// copies serve on.
//
// An Update holds a lease with a fence, in columns of its row. No connection
// and no transaction is held meanwhile. When its process dies, others wait for
// the rest of the lease. When it was only stopped, what it stores late is taken
// unless somebody else has stored something: then the newer stays, and fn is
// called again with it. Of two states of one login the later expiry stays.
package pgxstore

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/internal/remote"
)

// Store is a [walletauth.TokenStore] in PostgreSQL 12 or newer, for any number
// of processes. Set Pool, make the table once with Migrate, and nothing else is
// needed.
//
// It is safe for concurrent use. Fields must not be changed after first use,
// and a Store must not be copied. Share one in a process, as each keeps copies
// of its own.
//
// From its first use on it has two goroutines and one connection beside the
// pool, for LISTEN. They end with Close, or by themselves once no session was
// asked for in 10 to 20 minutes.
type Store struct {
	// Pool reaches PostgreSQL, the primary if there are replicas. Required. The
	// caller closes it, after Close. It may lead through PgBouncer in any
	// mode.
	Pool *pgxpool.Pool

	// Table is the table of the sessions, with a schema and a dot before it if
	// that is not in the search_path. If empty, "walletauth_sessions". It is
	// quoted, so that letters keep their case.
	Table string

	// Lease is for how long the process that runs an Update may be silent
	// before another may begin one of the same key. It is renewed at every
	// third of it. If zero or negative, 15 seconds. It is what others wait
	// after a crash; it does not bound an Update. Processes that share sessions
	// should have the same.
	Lease time.Duration

	// CacheFor is for how long a local copy is used while nothing vouches for
	// it, as there is no connection that can LISTEN. If zero, 5 seconds, and
	// more counts as 5 seconds. If negative, there are no copies: every Load
	// asks PostgreSQL, and none is answered while PostgreSQL cannot be
	// reached.
	//
	// It does not affect copies while LISTEN works: those are used until they
	// change.
	CacheFor time.Duration

	// MaxCopies bounds the local copies. If zero, 100,000; less than 2 counts as
	// 2. When there are as many, up to half of them make room, those used
	// longest ago. Those unused for 10 to 20 minutes are dropped. A copy takes
	// about 500 bytes and its tokens.
	MaxCopies int

	// Codec is how a session is written down. If nil, walletauth.JSONCodec,
	// which leaves the tokens readable to all who can read the table or a
	// backup of it. walletauth.NewSealedCodec encrypts them.
	Codec walletauth.Codec

	once   sync.Once // sets what follows
	server *server
	core   *remote.Store
}

var (
	_ walletauth.TokenStore = (*Store)(nil)
	_ walletauth.Replacer   = (*Store)(nil)
)

var errNoPool = errors.New("pgxstore: Store.Pool is nil")

// Load returns the session of key, from a local copy if that is known to be
// current. The Session is shared. Load does not wait for an Update.
//
// It returns an error that wraps [walletauth.ErrNoSession], or
// [walletauth.ErrUnreadable] if what is stored cannot be read; ctx's error; an
// error if Pool is nil; or PostgreSQL's error, once it has lasted for 5
// seconds and there is no copy to answer with.
func (s *Store) Load(ctx context.Context, key string) (*walletauth.Session, error) {
	if s.Pool == nil {
		return nil, errNoPool
	}
	s.once.Do(s.begin)
	return s.core.Load(ctx, key)
}

// Update is [walletauth.TokenStore.Update]. The exclusion is a lease: see
// [Store.Lease]. While fn runs no connection is held. What fn returns is stored
// though ctx has ended meanwhile, and tried again for 15 seconds if PostgreSQL
// cannot be reached. fn is called again if another process has stored something
// else meanwhile, because the lease was lost or its last holder was late.
//
// It returns fn's error as it is; ctx's error, if ctx ended before fn was
// called; an error that wraps [walletauth.ErrUnreadable]; an error if Pool is
// nil; the Codec's error, if it cannot encode; or PostgreSQL's error, once it
// has lasted for 5 seconds. In all these cases the stored session stays,
// except that after an error of PostgreSQL while storing either may be stored.
func (s *Store) Update(ctx context.Context, key string, fn func(ctx context.Context, current *walletauth.Session) (*walletauth.Session, error)) error {
	if s.Pool == nil {
		return errNoPool
	}
	s.once.Do(s.begin)
	return s.core.Update(ctx, key, fn)
}

// Replace is [walletauth.Replacer.Replace]: [walletauth.Save] and
// [walletauth.Delete] use it where the stored session cannot be read.
//
// It returns an error if Pool is nil; ctx's error, if ctx ended while waiting
// for the lease; the Codec's error, if it cannot encode s; or PostgreSQL's
// error, once it has lasted for 5 seconds, or 15 while storing.
func (s *Store) Replace(ctx context.Context, key string, session *walletauth.Session) error {
	if s.Pool == nil {
		return errNoPool
	}
	s.once.Do(s.begin)
	return s.core.Replace(ctx, key, session)
}

// Close ends the goroutines and the connection that listens, and waits for
// them. It leaves Pool open. It always returns nil, and may be called twice. The
// store can be used on, as if LISTEN did not work. Without Close they end by
// themselves: see [Store].
func (s *Store) Close() error {
	if s.Pool != nil {
		s.once.Do(s.begin)
		s.core.Close()
	}
	return nil
}

// begin sets what the methods work with.
func (s *Store) begin() {
	s.server = newServer(s.Pool, s.Table)
	s.core = remote.New(remote.Config{
		Name:   "pgxstore",
		Server: s.server,
		Codec:  s.Codec,
		Lease:  s.Lease,

		MaxStaleness: s.CacheFor,
		MaxCopies:    s.MaxCopies,
		MaxInFlight:  int(s.Pool.Config().MaxConns) * 3 / 4, // the rest is left to others
	})
}
