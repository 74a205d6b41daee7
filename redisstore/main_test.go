//go:build linux

package redisstore_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
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

// cluster starts a cluster of as many nodes, for what a cluster refuses: scripts
// whose keys lie in several slots, for example. It serves the slots of those that
// are up.
func cluster(t *testing.T, size int) (*redis.ClusterClient, []*remotetest.Redis) {
	t.Helper()
	var nodes []*remotetest.Redis
	var addrs []string
	for i := range size {
		r, err := remotetest.NewRedis()
		remotetest.Require(t, err)
		port := freePort(t)
		if err := r.StartClusterNode(port); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Stop(syscall.SIGKILL) })
		nodes, addrs = append(nodes, r), append(addrs, "127.0.0.1:"+port)
		join(t, addrs, i*16384/size, (i+1)*16384/size-1)
	}
	awaitCluster(t, addrs)
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: addrs})
	t.Cleanup(func() { _ = client.Close() })
	return client, nodes
}

// join gives the last node its slots and has it meet the first.
func join(t *testing.T, addrs []string, from, to int) {
	t.Helper()
	node := redis.NewClient(&redis.Options{Addr: addrs[len(addrs)-1]})
	defer node.Close()
	if err := node.ClusterAddSlotsRange(t.Context(), from, to).Err(); err != nil {
		t.Fatal(err)
	}
	if err := node.ConfigSet(t.Context(), "cluster-require-full-coverage", "no").Err(); err != nil {
		t.Fatal(err)
	}
	if len(addrs) > 1 {
		host, port, _ := strings.Cut(addrs[0], ":")
		if err := node.ClusterMeet(t.Context(), host, port).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

// awaitCluster returns when every node knows who has each slot.
func awaitCluster(t *testing.T, addrs []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for _, addr := range addrs {
		node := redis.NewClient(&redis.Options{Addr: addr})
		defer node.Close()
		for {
			info, err := node.ClusterInfo(ctx).Result()
			if err == nil && strings.Contains(info, "cluster_slots_assigned:16384") && strings.Contains(info, "cluster_state:ok") {
				break
			}
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
				t.Fatalf("node %s says %q, %v", addr, info, err)
			}
		}
	}
}

var ports atomic.Int32

// freePort finds a port that leaves room for the one of the cluster bus, which
// is larger by 10,000.
func freePort(t *testing.T) string {
	t.Helper()
	for port := 20000 + os.Getpid()%10000 + int(ports.Add(1)); port < 50000; port++ {
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			_ = l.Close() // it was to see whether it is free
			return fmt.Sprint(port)
		}
	}
	t.Fatal("no port is free")
	return ""
}

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
