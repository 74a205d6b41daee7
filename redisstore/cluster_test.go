//go:build linux

package redisstore_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/internal/remote/remotetest"
	"github.com/walletauth/walletauth/redisstore"
	"github.com/walletauth/walletauth/walletauthtest"
)

// TestCluster: whatever a key holds, the client of a cluster finds its slot.
func TestCluster(t *testing.T) {
	client := clusterClient(t, startCluster(t, 1))
	n := 0
	walletauthtest.TestStore(t, func(t *testing.T) walletauth.TokenStore {
		n++
		s := &redisstore.Store{Client: client, Prefix: strconv.Itoa(n) + ":"}
		t.Cleanup(func() { _ = s.Close() })
		return corruptible{s}
	})
	here, there := &redisstore.Store{Client: client}, &redisstore.Store{Client: client}
	defer here.Close()
	defer there.Close()
	for i := range 20 {
		save(t, here, "user", remotetest.Session(strconv.Itoa(i)))
		remotetest.AwaitID(t, there, "user", strconv.Itoa(i))
	}
}

// TestClusterShardDown: when one shard of three is down, its keys are served from
// their copies, and changes of all others are seen.
func TestClusterShardDown(t *testing.T) {
	nodes := startCluster(t, 3)
	client := clusterClient(t, nodes)
	here, there := &redisstore.Store{Client: client}, &redisstore.Store{Client: client}
	defer here.Close()
	defer there.Close()
	keys := make([]string, 30) // some of which lie in each shard
	for i := range keys {
		keys[i] = fmt.Sprint("user-", i)
		save(t, there, keys[i], remotetest.Session("first"))
		remotetest.AwaitID(t, here, keys[i], "first")
	}
	inShard := shardOf(t, client, there, keys)
	nodes[1].Stop(syscall.SIGKILL)
	up := 0
	for _, key := range keys {
		if inShard[key] != nodes[1].Address {
			up++
			save(t, there, key, remotetest.Session("second"))
			remotetest.AwaitID(t, here, key, "second")
		} else if s, err := here.Load(t.Context(), key); err != nil || s.ID != "first" {
			t.Errorf("Load of a key whose shard is down: %v, %v", s, err)
		}
	}
	if up == 0 || up == len(keys) {
		t.Errorf("%d of %d keys are in shards that are up", up, len(keys))
	}
}

// shardOf is the address of the master that has each key of s.
func shardOf(t *testing.T, client *redis.ClusterClient, s *redisstore.Store, keys []string) map[string]string {
	t.Helper()
	addresses := make(map[string]string)
	for _, key := range keys {
		master, err := client.MasterForKey(t.Context(), s.KeyName(key))
		if err != nil {
			t.Fatal(err)
		}
		addresses[key] = master.Options().Addr
	}
	return addresses
}

// TestFailOverThatLosesASave: a process that holds the later state of a session than
// the new master keeps it and stores it again. Its used token is not sent: the API
// would end the session.
func TestFailOverThatLosesASave(t *testing.T) {
	for name, afterwards := range map[string]func(*testing.T, *failOver){
		"requests go on, and store it": func(t *testing.T, f *failOver) {
			f.awaitStored(t, f.refreshed)
			f.refresh(t)
		},
		"a refresh goes on from it": func(t *testing.T, f *failOver) { f.refresh(t) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFailOver(t)
			afterwards(t, f)
			f.awaitStored(t, f.refreshed)
			if seen := f.api.Stats(); seen.Refreshes != 2 || seen.Reuses != 0 {
				t.Errorf("%d refreshes, want one before the fail-over and one after it, and %d used tokens", seen.Refreshes, seen.Reuses)
			}
		})
	}
}

// failOver is a session whose last refresh the new master has never heard of, and the
// process that has it.
type failOver struct {
	api       *walletauthtest.Server
	transport *walletauth.Transport
	here      *redisstore.Store
	another   *redisstore.Store // without copies
	refreshed *walletauth.Session
}

func newFailOver(t *testing.T) *failOver {
	t.Helper()
	master := startCluster(t, 1)[0]
	replica := startReplica(t, master)
	nodes := []*node{master, replica}
	f := &failOver{
		api:     walletauthtest.NewServer(walletauthtest.Config{TB: t}),
		here:    &redisstore.Store{Client: clusterClient(t, nodes)},
		another: &redisstore.Store{Client: clusterClient(t, nodes), CacheFor: -1},
	}
	t.Cleanup(func() { _ = f.here.Close() })
	f.transport = &walletauth.Transport{Store: f.here, BaseURL: f.api.URL}
	f.refreshed = f.api.Login("user")
	save(t, f.here, "user", f.refreshed)
	name := f.here.KeyName("user")
	login, err := fenceAt(t.Context(), master, name)
	if err != nil {
		t.Fatal(err)
	}
	replica.await(t, "told of the login", func(ctx context.Context) (string, bool) {
		fence, err := fenceAt(ctx, replica, name)
		return fmt.Sprint(fence, err), fence == login
	})
	replica.Signal(syscall.SIGSTOP) // so that it cannot come back for what it misses
	if err := master.client.Do(t.Context(), "CLIENT", "KILL", "TYPE", "replica").Err(); err != nil {
		t.Fatal(err)
	}
	f.refresh(t)
	master.Stop(syscall.SIGKILL)
	replica.Signal(syscall.SIGCONT)
	if fence, err := fenceAt(t.Context(), replica, name); fence != login {
		t.Fatalf("the replica has fence %s, %v, want the login's, %s", fence, err, login)
	}
	if err := replica.client.Do(t.Context(), "CLUSTER", "FAILOVER", "TAKEOVER").Err(); err != nil {
		t.Fatal(err)
	}
	return f
}

// fenceAt is the fence of a session as one node has it.
func fenceAt(ctx context.Context, n *node, name string) (string, error) {
	conn := n.client.Conn()
	defer conn.Close()
	if err := conn.Do(ctx, "READONLY").Err(); err != nil { // so that a replica answers
		return "", err
	}
	return conn.HGet(ctx, name, "w").Result()
}

// refresh refreshes the session, as soon as the store can be reached.
func (f *failOver) refresh(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(walletauth.WithKey(t.Context(), "user"), time.Minute)
	defer cancel()
	for {
		next, err := f.transport.Renew(ctx, f.refreshed)
		if err == nil {
			f.refreshed = next
			return
		}
		if errors.Is(err, walletauth.ErrSessionExpired) || ctx.Err() != nil {
			t.Fatalf("Renew: %v", err)
		}
		<-time.After(10 * time.Millisecond)
	}
}

// awaitStored returns when the server holds a session. Meanwhile it is what requests
// get.
func (f *failOver) awaitStored(t *testing.T, want *walletauth.Session) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; <-time.After(10 * time.Millisecond) {
		if got, err := f.here.Load(t.Context(), "user"); err != nil || got.AccessToken != want.AccessToken {
			t.Fatalf("Load after a fail-over: %v, %v, want %v", got, err, want)
		}
		got, err := f.another.Load(t.Context(), "user")
		switch {
		case err == nil && got.AccessToken == want.AccessToken:
			return
		case time.Now().After(deadline):
			t.Fatalf("the server holds %v, %v, want %v", got, err, want)
		}
	}
}

// TestClusterBusCut: while two masters do not hear each other, no copy of a key whose
// changes do not come through is trusted for longer than CacheFor. What was missed is
// found out after they hear each other again.
func TestClusterBusCut(t *testing.T) {
	t.Parallel()
	nodes := startCluster(t, 3)
	here, asked := newClusterReader(t, nodes)
	there := &redisstore.Store{Client: clusterClient(t, nodes), CacheFor: -1}
	keys := make([]string, 30) // some of which lie in each shard
	for i := range keys {
		keys[i] = fmt.Sprint("user-", i)
		save(t, there, keys[i], remotetest.Session("first"))
	}
	awaitTrust(t, here, keys, asked)
	near, far := subscribedTo(t, nodes)
	missed := keyOf(t, far, there, keys)
	cutBus(near, far, true)
	saved := make(map[string]moment)
	for _, key := range keys {
		save(t, there, key, remotetest.Session("second"))
		saved[key] = moment{time.Now(), asked.of(here.KeyName(key))}
	}
	for _, key := range keys {
		if key != missed { // which nobody wants to know now
			wantSeen(t, here, key, "second", saved[key], asked)
		}
	}
	asked.awaitProbes(t, far, 2) // by the time of the second, the first is lost
	cutBus(near, far, false)
	awaitHeard(t, far, near)
	asked.awaitProbes(t, far, 2)
	wantSeen(t, here, missed, "second", saved[missed], asked)
}

// TestClusterBusReset: a link between two masters that is cut and mended between two
// probes loses a message and no echo. The key whose message it was is asked for all
// the same.
func TestClusterBusReset(t *testing.T) {
	t.Parallel()
	nodes := startCluster(t, 3)
	here, asked := newClusterReader(t, nodes)
	here.CacheFor = 3 * time.Second // so that it is long from one probe to the next
	there := &redisstore.Store{Client: clusterClient(t, nodes), CacheFor: -1}
	keys := []string{"user-1", "user-2", "user-3", "user-4", "user-5", "user-6", "user-7", "user-8"}
	for _, key := range keys {
		save(t, there, key, remotetest.Session("first"))
	}
	awaitTrust(t, here, keys, asked)
	near, far := subscribedTo(t, nodes)
	missed := keyOf(t, far, there, keys)
	asked.awaitProbes(t, far, 1)
	awaitHeard(t, far, near) // and so is the probe
	cutBus(near, far, true)
	save(t, there, missed, remotetest.Session("second"))
	saved := moment{time.Now(), asked.of(here.KeyName(missed))}
	cutBus(near, far, false)
	awaitHeard(t, far, near)
	asked.awaitProbes(t, far, 2)
	wantSeen(t, here, missed, "second", saved, asked)
}

// moment is when a key was saved, and how often it had been asked for then.
type moment struct {
	at    time.Time
	asked int
}

// wantSeen loads until the session of key is want. A copy from before the save may be
// returned without a question for CacheFor, and no longer.
func wantSeen(t *testing.T, s *redisstore.Store, key, want string, saved moment, asked *questions) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		began := time.Now()
		got, err := s.Load(t.Context(), key)
		switch {
		case err != nil:
			t.Fatalf("Load: %v, want session %s", err, want)
		case got.ID == want:
			return
		case began.After(saved.at.Add(s.CacheFor)) && asked.of(s.KeyName(key)) == saved.asked:
			t.Fatalf("%v after it was replaced, session %s of %s is returned unasked", began.Sub(saved.at), got.ID, key)
		case began.After(deadline):
			t.Fatalf("the session of %s is still %s, want %s", key, got.ID, want)
		}
		<-time.After(time.Millisecond)
	}
}

// awaitTrust returns when copies serve that are older than CacheFor: then a
// subscription vouches for them.
func awaitTrust(t *testing.T, s *redisstore.Store, keys []string, asked *questions) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		before := asked.all()
		for end := time.Now().Add(s.CacheFor * 5 / 4); time.Now().Before(end); <-time.After(10 * time.Millisecond) {
			for _, key := range keys {
				if _, err := s.Load(t.Context(), key); err != nil {
					t.Fatal(err)
				}
			}
		}
		switch {
		case asked.all() == before:
			return
		case time.Now().After(deadline):
			t.Fatal("copies are not trusted although nothing is wrong")
		}
	}
}

// subscribedTo is the node that delivers changes to the only store that has copies,
// and another one.
func subscribedTo(t *testing.T, nodes []*node) (near, far *node) {
	t.Helper()
	for i, n := range nodes {
		const channel = "walletauth:changes"
		subscribers, err := n.client.PubSubNumSub(t.Context(), channel).Result()
		if err != nil {
			t.Fatal(err)
		}
		if subscribers[channel] > 0 {
			return n, nodes[(i+1)%len(nodes)]
		}
	}
	t.Fatal("the store is subscribed to no node")
	return nil, nil
}

// keyOf is the first of the keys that lies with a master.
func keyOf(t *testing.T, n *node, s *redisstore.Store, keys []string) string {
	t.Helper()
	inShard := shardOf(t, s.Client.(*redis.ClusterClient), s, keys)
	for _, key := range keys {
		if inShard[key] == n.Address {
			return key
		}
	}
	t.Fatalf("none of %d keys lies with %s", len(keys), n.Address)
	return ""
}

// awaitHeard returns when what one node publishes comes to the subscribers of
// another.
func awaitHeard(t *testing.T, from, to *node) {
	t.Helper()
	sub := to.client.Subscribe(t.Context(), "marker")
	defer sub.Close()
	heard := sub.Channel()
	to.await(t, "heard from "+from.Address, func(ctx context.Context) (string, bool) {
		if err := from.client.Publish(ctx, "marker", "").Err(); err != nil {
			return err.Error(), false
		}
		select {
		case <-heard:
			return "", true
		default:
			return "nothing yet", false
		}
	})
}

// newClusterReader is a store of which is counted what it asks.
func newClusterReader(t *testing.T, nodes []*node) (*redisstore.Store, *questions) {
	client, q := clusterClient(t, nodes), &questions{reads: make(map[string]int), probes: make(map[string]int)}
	client.AddHook(hook(func(cmd redis.Cmder) {
		if args := cmd.Args(); cmd.Name() == "evalsha" && len(args) > 3 {
			q.count(q.reads, fmt.Sprint(args[3]))
		}
	}))
	client.OnNewNode(func(node *redis.Client) {
		node.AddHook(hook(func(cmd redis.Cmder) {
			if cmd.Name() == "publish" {
				q.count(q.probes, node.Options().Addr)
			}
		}))
	})
	s := &redisstore.Store{Client: client, CacheFor: time.Second}
	t.Cleanup(func() { _ = s.Close() })
	return s, q
}

// questions counts reads by the name of the Redis key, and probes by the address of
// the master.
type questions struct {
	mu            sync.Mutex // guards what follows
	reads, probes map[string]int
}

func (q *questions) count(what map[string]int, name string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	what[name]++
}

func (q *questions) of(name string) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.reads[name]
}

func (q *questions) all() (n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, reads := range q.reads {
		n += reads
	}
	return n
}

// awaitProbes returns when so many more probes were sent from a master.
func (q *questions) awaitProbes(t *testing.T, n *node, more int) {
	t.Helper()
	sent := func() int {
		q.mu.Lock()
		defer q.mu.Unlock()
		return q.probes[n.Address]
	}
	before := sent()
	n.await(t, "probed", func(context.Context) (string, bool) { return "", sent() >= before+more })
}

// hook is called with every command before it is sent.
type hook func(redis.Cmder)

func (hook) DialHook(next redis.DialHook) redis.DialHook { return next }
func (hook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
func (h hook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		h(cmd)
		return next(ctx, cmd)
	}
}
