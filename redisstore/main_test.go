//go:build linux

package redisstore_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/internal/remote/remotetest"
	"github.com/walletauth/walletauth/redisstore"
)

// A place is a Redis and a prefix, as "url prefix".
func open(place string, lease time.Duration) (walletauth.TokenStore, error) {
	url, prefix, _ := strings.Cut(place, " ")
	options, err := redis.ParseURL(url)
	if err != nil {
		return nil, err
	}
	return &redisstore.Store{Client: redis.NewClient(options), Prefix: prefix, Lease: lease}, nil
}

const urlEnv = "WALLETAUTH_REDIS_URL"

func TestMain(m *testing.M) {
	redis.SetLogger(silence{}) // it tells of each attempt to reach a server that is stopped
	remotetest.ExamplesNeed("redis-server")
	remotetest.Main(m, open)
}

type silence struct{}

func (silence) Printf(context.Context, string, ...any) {}

// redisURL is the Redis of all tests that do not need one of their own: the
// one that the environment names, or one that is started for them.
func redisURL(t testing.TB) string {
	t.Helper()
	url, err := sharedURL()
	remotetest.Require(t, err)
	return url
}

var sharedURL = sync.OnceValues(func() (string, error) {
	if url := os.Getenv(urlEnv); url != "" {
		return url, nil
	}
	r, err := remotetest.NewRedis()
	if err != nil {
		return "", err
	}
	return r.URL(), r.Start("everysec")
})

// ownServer is a Redis for one test, which may stop it.
func ownServer(t *testing.T) *remotetest.Redis {
	t.Helper()
	r, err := remotetest.NewRedis()
	if err == nil {
		err = r.Start("always")
	}
	remotetest.Require(t, err)
	t.Cleanup(func() { r.Stop(syscall.SIGKILL) })
	return r
}

// place is a prefix that no other test uses.
func place(t testing.TB) string {
	return fmt.Sprintf("%s %s:%d:", redisURL(t), strings.ReplaceAll(t.Name(), " ", "_"), time.Now().UnixNano())
}

// newClient is a client of the shared Redis with a pool of this size.
func newClient(t testing.TB, pool int) *redis.Client {
	t.Helper()
	options, err := redis.ParseURL(redisURL(t))
	if err != nil {
		t.Fatal(err)
	}
	options.PoolSize = pool
	client := redis.NewClient(options)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func openStore(t *testing.T, place string) *redisstore.Store {
	t.Helper()
	s, err := open(place, 0)
	if err != nil {
		t.Fatal(err)
	}
	opened := s.(*redisstore.Store)
	t.Cleanup(func() { _ = opened.Close() })
	return opened
}

func newStore(t testing.TB) *redisstore.Store {
	t.Helper()
	_, prefix, _ := strings.Cut(place(t), " ")
	s := &redisstore.Store{Client: newClient(t, 10), Prefix: prefix}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func save(t testing.TB, s walletauth.TokenStore, key string, session *walletauth.Session) {
	t.Helper()
	if err := walletauth.Save(context.Background(), s, key, session); err != nil {
		t.Fatal(err)
	}
}

// corruptible is a store that the suite can have unreadable sessions in.
type corruptible struct{ *redisstore.Store }

func (c corruptible) Corrupt(t testing.TB, key string) {
	t.Helper()
	other := &redisstore.Store{Client: c.Client, Prefix: c.Prefix, Codec: remotetest.Garbage{}, CacheFor: -1}
	defer other.Close()
	remotetest.Corrupt(t, c, other, key)
}
