// Package redisstore keeps WalletKit sessions in Redis, for services with many
// processes and many users: a session is refreshed once in all of them.
//
//	transport := &walletauth.Transport{Store: &redisstore.Store{Client: client}}
//
// # What it promises
//
// A request costs no round trip to Redis: Load answers from a local copy, and
// what one process stores the others hear of by Pub/Sub. While that cannot be
// relied on, a copy serves for 5 seconds before Redis is asked again, and
// while Redis cannot be reached, copies serve on.
//
// An Update holds a lease with a fence. When its process dies, others wait for
// the rest of the lease. When it was only stopped, what it stores late is taken
// unless somebody else has stored something: then the newer stays, and fn is
// called again with it. Of two states of one login the later expiry stays.
//
// # What Redis has to promise
//
// The newest refresh token may exist nowhere else. Let Redis write an
// append-only file, evict nothing (maxmemory-policy noeviction), and read in
// the README what a fail-over can lose.
package redisstore

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/internal/remote"
)

// Store is a [walletauth.TokenStore] in Redis 5 or newer, or what speaks its
// protocol and runs its scripts, for any number of processes. Set Client, and
// nothing else is needed.
//
// It is safe for concurrent use. Fields must not be changed after first use,
// and a Store must not be copied. Share one in a process, as each keeps copies
// of its own.
//
// From its first use on it has two goroutines and one connection, for Pub/Sub.
// They end with Close, or by themselves once no session was asked for in 10 to 20
// minutes.
type Store struct {
	// Client reaches Redis: a *redis.Client, also one with Sentinel, or a
	// *redis.ClusterClient. Required. The caller closes it, after Close. With a
	// *redis.Ring, whose shards do not tell each other of changes, every Load asks
	// Redis, and copies serve only while it cannot be reached. A type of another
	// package counts as a single node.
	Client redis.UniversalClient

	// Prefix begins the name of every Redis key and of the Pub/Sub channel; a hash
	// of the session's key follows, see KeyName. If empty, "walletauth:".
	// Stores share their sessions if they have the same Prefix, Redis and
	// logical database.
	Prefix string

	// Lease is for how long the process that runs an Update may be silent
	// before another may begin one of the same key. It is renewed at every
	// third of it. If zero or negative, 15 seconds. It is what others wait
	// after a crash; it does not bound an Update. Processes that share sessions
	// should have the same.
	Lease time.Duration

	// CacheFor is for how long a local copy is used while nothing vouches for it,
	// as the Pub/Sub connection is down. If zero, 5 seconds, and more
	// counts as 5 seconds. If negative, there are no copies: every Load asks
	// Redis, and none is answered while Redis cannot be reached.
	//
	// It does not affect copies while Pub/Sub works: those are used until they
	// change.
	CacheFor time.Duration

	// MaxCopies bounds the local copies. If zero, 100,000; less than 2 counts as
	// 2. When there are as many, up to half of them make room, those used
	// longest ago. Those unused for 10 to 20 minutes are dropped. A copy takes
	// about 500 bytes and its tokens.
	MaxCopies int

	// Codec is how a session is written down. If nil, walletauth.JSONCodec,
	// which leaves the tokens readable to all who can read from Redis.
	// walletauth.NewSealedCodec encrypts them.
	Codec walletauth.Codec

	once sync.Once // sets core
	core *remote.Store
}

var (
	_ walletauth.TokenStore = (*Store)(nil)
	_ walletauth.Replacer   = (*Store)(nil)
)

var errNoClient = errors.New("redisstore: Store.Client is nil")

// Load returns the session of key, from a local copy if that is known to be
// current. The Session is shared. Load does not wait for an Update.
//
// It returns an error that wraps [walletauth.ErrNoSession], or
// [walletauth.ErrUnreadable] if what is stored cannot be read; ctx's error; an
// error if Client is nil; or Redis's error, once it has lasted for 5 seconds
// and there is no copy to answer with.
func (s *Store) Load(ctx context.Context, key string) (*walletauth.Session, error) {
	if s.Client == nil {
		return nil, errNoClient
	}
	return s.ready().Load(ctx, key)
}

// Update is [walletauth.TokenStore.Update]. The exclusion is a lease in Redis:
// see [Store.Lease]. While fn runs no connection is held. What fn returns is
// stored though ctx has ended meanwhile, and tried again for 15 seconds if
// Redis cannot be reached. fn is called again if another process has stored
// something else meanwhile, because the lease was lost or its last holder was
// late.
//
// It returns fn's error as it is; ctx's error, if ctx ended before fn was
// called; an error that wraps [walletauth.ErrUnreadable]; an error if Client
// is nil; the Codec's error, if it cannot encode; or Redis's error, once it
// has lasted for 5 seconds. In all these cases the stored session stays,
// except that after an error of Redis while storing either may be stored.
func (s *Store) Update(ctx context.Context, key string, fn func(ctx context.Context, current *walletauth.Session) (*walletauth.Session, error)) error {
	if s.Client == nil {
		return errNoClient
	}
	return s.ready().Update(ctx, key, fn)
}

// Replace is [walletauth.Replacer.Replace]: [walletauth.Save] and
// [walletauth.Delete] use it where the stored session cannot be read. A Redis key
// of another type is deleted.
//
// It returns an error if Client is nil; ctx's error, if ctx ended while
// waiting for the lease; the Codec's error, if it cannot encode s; or Redis's
// error, once it has lasted for 5 seconds, or 15 while storing.
func (s *Store) Replace(ctx context.Context, key string, session *walletauth.Session) error {
	if s.Client == nil {
		return errNoClient
	}
	return s.ready().Replace(ctx, key, session)
}

// KeyName returns the name of the Redis key that holds the session of key: Prefix
// and the SHA-256 of key in hexadecimal, so that neither a listing nor a backup
// shows a key. Support staff find a user's session by it:
//
//	redis-cli HMGET "$name" w u
func (s *Store) KeyName(key string) string {
	return s.server().prefix + s.server().ID(key)
}

// Close ends the goroutines and the Pub/Sub connection, and waits for them. It
// leaves Client open. It always returns nil, and may be called twice. The store
// can be used on, as if Pub/Sub were down. Without Close they end by themselves:
// see [Store].
func (s *Store) Close() error {
	if s.Client != nil {
		s.ready().Close()
	}
	return nil
}

// ready returns the part that does the work.
func (s *Store) ready() *remote.Store {
	s.once.Do(func() {
		s.core = remote.New(remote.Config{
			Name:   "redisstore",
			Server: s.server(),
			Codec:  s.Codec,
			Lease:  s.Lease,

			MaxStaleness: s.CacheFor,
			OnlyInOutage: isRing(s.Client),
			MaxCopies:    s.MaxCopies,
			MaxInFlight:  maxInFlight(s.Client),
		})
	})
	return s.core
}

func (s *Store) server() *server {
	return &server{client: s.Client, prefix: cmp.Or(s.Prefix, "walletauth:")}
}

func isRing(client redis.UniversalClient) bool {
	_, ok := client.(*redis.Ring)
	return ok
}

// maxInFlight leaves a quarter of the client's pool to others. Where the size is
// not known it is go-redis's default on one core.
func maxInFlight(client redis.UniversalClient) int {
	size := 10
	switch client := client.(type) {
	case *redis.Client:
		size = client.Options().PoolSize
	case *redis.ClusterClient:
		size = client.Options().PoolSize // of each node, and so is what is in flight
	case *redis.Ring:
		size = client.Options().PoolSize
	}
	return size * 3 / 4
}
