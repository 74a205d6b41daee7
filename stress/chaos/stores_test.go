//go:build linux

package chaos_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/internal/remote/remotetest"
	"github.com/walletauth/walletauth/pgxstore"
)

func TestFiles(t *testing.T) { haveAllFaults(t, newFiles(t)) }

func TestRedis(t *testing.T) { haveAllFaults(t, newRedis(t)) }

func TestPostgres(t *testing.T) { haveAllFaults(t, newPostgres(t)) }

// TestAKillWithinTheGraceLosesNoSession has an API that answers a used refresh
// token as the first time, for 30 seconds. Whoever takes over from a process that
// was killed between the API's commit and its save then gets what that one got.
func TestAKillWithinTheGraceLosesNoSession(t *testing.T) {
	lease, grace := 15*time.Second, 30*time.Second
	if testing.Short() {
		lease, grace = shortLease(), time.Minute
	}
	workers := shortOr(2, 4)
	kills := shortOr(1, 10) // instead of a reply; as many again follow one
	backends := []*backend{newFiles(t), newRedis(t), newPostgres(t)}
	parallelIfShort(t)
	for _, b := range backends {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel() // most of it is waiting for leases to end
			c := begin(t, b, shortOr(10, 20), workers, order{Lease: lease}, grace)
			c.enough = append(c.enough, func() bool { return c.faults.of(killedInstead) >= kills })
			volley := workers
			if b.server == nil {
				volley = 1 // the lock of a file ends with its holder
			}
			c.run([]fault{c.volley(volley)})
		})
	}
}

// haveAllFaults has all faults that a store can meet.
func haveAllFaults(t *testing.T, b *backend) {
	parallelIfShort(t)
	c := begin(t, b, shortOr(16, 60), shortOr(3, 4), order{Lease: shortLease()}, 0)
	if b.server != nil {
		c.enough = append(c.enough, b.server.metFullDisk)
	}
	c.run(c.processFaults(), c.aimedFaults(), c.apiFaults(), b.faults(c))
	if b.server != nil {
		b.server.report(t)
	}
}

// parallelIfShort is called once what is missing has been installed, which two
// cannot do at once.
func parallelIfShort(t *testing.T) {
	if testing.Short() {
		t.Parallel()
	}
}

// backend is a store, where workers reach it, and what can befall it.
type backend struct {
	name, place string
	store       walletauth.TokenStore // the same sessions, by a way without faults
	server      *server               // nil if there is none
	faults      func(*chaos) []fault
}

func newFiles(t *testing.T) *backend {
	d := newDisk(t, "1m")
	full := fault{"disk full", func(r *rand.Rand) error { return d.full(someTime(r), func() {}) }}
	return newBackend(t, &backend{name: "files", place: d.path + "/sessions", faults: func(*chaos) []fault { return []fault{full} }},
		d.path+"/sessions")
}

func newRedis(t *testing.T) *backend {
	d := newDisk(t, "16m")
	r, err := remotetest.NewRedisIn(d.path)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{
		start:   func() error { return r.Start("always", "--auto-aof-rewrite-min-size", "1mb") },
		service: func() *remotetest.Service { return r.Service },
		disk:    d, proxy: newProxy(t, r.Socket), write: func() { setMuch(r.URL()) },
	}
	s.keepUp(t)
	return newBackend(t, &backend{name: "redis", place: "redis://" + s.proxy.listener.Addr().String(), server: s, faults: s.faults}, r.URL())
}

func newPostgres(t *testing.T) *backend {
	d := newDisk(t, "128m")
	p, err := remotetest.NewPostgresIn(d.path, "--wal-segsize=1")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{
		start: func() error {
			return p.Start("-c", "min_wal_size=2MB", "-c", "max_wal_size=16MB", "-c", "wal_recycle=off", "-c", "shared_buffers=16MB",
				"-c", "restart_after_crash=off") // that is the test's to do
		},
		service: func() *remotetest.Service { return p.Service },
		disk:    d, proxy: newProxy(t, p.Socket()), write: func() { switchLog(p.URL()) },
	}
	s.keepUp(t)
	host, port, _ := strings.Cut(s.proxy.listener.Addr().String(), ":")
	place := fmt.Sprintf("host=%s port=%s user=postgres dbname=postgres sslmode=disable", host, port)
	b := newBackend(t, &backend{name: "postgres", place: place, server: s, faults: s.faults}, p.URL())
	if err := b.store.(*pgxstore.Store).Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return b
}

func newBackend(t *testing.T, b *backend, direct string) *backend {
	var err error
	if b.store, err = stores[b.name](direct, shortLease()); err != nil {
		t.Fatal(err)
	}
	return b
}

func (s *server) report(t *testing.T) {
	if !s.metFullDisk() && !t.Failed() {
		t.Error("the server never noticed that its disk was full: this proves nothing of it")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t.Logf("%d times the server ended because its disk was full; it was away for %v at most", s.ended, s.longest.Round(time.Millisecond))
}

// keepUp starts the server and supervises it until the test ends.
func (s *server) keepUp(t *testing.T) {
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.kill)
	ctx, cancel := context.WithCancel(t.Context())
	var supervisor sync.WaitGroup
	supervisor.Go(func() {
		if err := s.supervise(ctx); err != nil {
			t.Error("start the server again: ", err)
		}
	})
	t.Cleanup(func() { cancel(); supervisor.Wait() })
}

// setMuch has Redis write more than fits into what is left of a block.
func setMuch(url string) {
	options, err := redis.ParseURL(url)
	if err != nil {
		panic(err) // it is the test's
	}
	options.MaxRetries = -1
	client := redis.NewClient(options)
	defer client.Close()
	for err == nil { // and when it has ended, there is an error
		err = client.Set(context.Background(), "much", strings.Repeat("x", 64<<10), time.Second).Err()
	}
}

// switchLog has PostgreSQL begin a new file for its log, which it would else do
// after a while only. Without room for it PostgreSQL ends.
func switchLog(url string) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return // it has ended already
	}
	defer conn.Close(ctx)
	for err == nil {
		_, err = conn.Exec(ctx, "SELECT pg_switch_wal(), txid_current()")
	}
}
