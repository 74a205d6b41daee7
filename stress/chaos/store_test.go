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

const (
	// lifetime of an access token. A reply that arrives after its access token
	// has expired is refused, and the session lost with it, so that no process
	// may stand still for so long between a commit and its reply: neither a stop,
	// which takes a second, nor a busy machine.
	lifetime = 5 * time.Second

	// lease is what others wait when a holder is killed. The default of 30 s
	// would leave little time for anything else. But a session is lost too, and
	// by no mistake, if after the commit the store's server cannot be reached
	// until the lease has ended, which may be two thirds of it: it is renewed
	// every third. So it is much longer than any fault lasts here, which is a
	// second, and than a server takes to be back on a busy machine.
	lease = 8 * time.Second
)

// stores open a store at a place.
var stores = map[string]func(place string) (walletauth.TokenStore, error){
	"files": func(dir string) (walletauth.TokenStore, error) { return &filestore.Store{Dir: dir}, nil },
	"redis": func(url string) (walletauth.TokenStore, error) {
		redis.SetLogger(silence{}) // it tells of each attempt in vain
		options, err := redis.ParseURL(url)
		if err != nil {
			return nil, err
		}
		return &redisstore.Store{Client: redis.NewClient(options), Lease: lease}, nil
	},
	"postgres": func(url string) (walletauth.TokenStore, error) {
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
