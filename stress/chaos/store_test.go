//go:build linux

package chaos_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/filestore"
	"github.com/walletauth/walletauth/pgxstore"
	"github.com/walletauth/walletauth/redisstore"
)

// lifetime of an access token.
const lifetime = 5 * time.Second

// shortLease is what others wait when a holder is killed. The default, 15 s, would
// leave little time for anything else. It is much longer than any fault lasts,
// which is a second, and than a server takes to be back. On a machine that is too
// busy for that, sessions are lost by no mistake, and the ledger knows them.
func shortLease() time.Duration { return time.Duration(shortOr(5, 8)) * time.Second }

// stores open a store at a place. Files have no lease.
var stores = map[string]func(place string, lease time.Duration) (walletauth.TokenStore, error){
	"files": func(dir string, _ time.Duration) (walletauth.TokenStore, error) {
		return &filestore.Store{Dir: dir}, nil
	},
	"redis": func(url string, lease time.Duration) (walletauth.TokenStore, error) {
		redis.SetLogger(silence{}) // it tells of each attempt in vain
		options, err := redis.ParseURL(url)
		if err != nil {
			return nil, err
		}
		return &redisstore.Store{Client: redis.NewClient(options), Lease: lease}, nil
	},
	"postgres": func(url string, lease time.Duration) (walletauth.TokenStore, error) {
		pool, err := pgxpool.New(context.Background(), url)
		if err != nil {
			return nil, err
		}
		return &pgxstore.Store{Pool: pool, Lease: lease}, nil
	},
}

type silence struct{}

func (silence) Printf(context.Context, string, ...any) {}

// twists make a store wrong, to show that it is noticed.
var twists = map[string]func(walletauth.TokenStore) walletauth.TokenStore{
	"forgets":  func(s walletauth.TokenStore) walletauth.TokenStore { return forgetful{s} },
	"no locks": func(s walletauth.TokenStore) walletauth.TokenStore { return &unlocked{TokenStore: s} },
}

// forgetful says that it has saved, and has not, one time in four.
type forgetful struct{ walletauth.TokenStore }

func (f forgetful) Update(ctx context.Context, key string, fn func(context.Context, *walletauth.Session) (*walletauth.Session, error)) error {
	return f.TokenStore.Update(ctx, key, func(ctx context.Context, current *walletauth.Session) (*walletauth.Session, error) {
		next, err := fn(ctx, current)
		if err == nil && rand.N(4) == 0 {
			return current, nil
		}
		return next, err
	})
}

// unlocked excludes the Updates of a key from each other in the process alone.
type unlocked struct {
	walletauth.TokenStore
	turns walletauth.MemoryStore
}

func (u *unlocked) Update(ctx context.Context, key string, fn func(context.Context, *walletauth.Session) (*walletauth.Session, error)) error {
	return u.turns.Update(ctx, key, func(ctx context.Context, _ *walletauth.Session) (*walletauth.Session, error) {
		current, err := u.Load(ctx, key)
		if err != nil {
			return nil, err
		}
		next, err := fn(ctx, current)
		if err != nil || next == current {
			return nil, err
		}
		return nil, walletauth.Save(ctx, u.TokenStore, key, next)
	})
}

// counts counts by name.
type counts struct {
	mu sync.Mutex // guards n
	n  map[string]int
}

func (c *counts) add(name string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = make(map[string]int)
	}
	c.n[name] += n
}

func (c *counts) of(name string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n[name]
}
