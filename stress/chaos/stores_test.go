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
	"github.com/walletauth/walletauth/internal/remote/remotetest"
	"github.com/walletauth/walletauth/pgxstore"
)

func TestFiles(t *testing.T) {
	d := newDisk(t, "1m")
	dir := d.path + "/sessions"
	store, _ := stores["files"](dir)
	c := begin(t, "files", dir, "", store)
	c.run(c.processFaults(), c.aimedFaults(), c.apiFaults(), []fault{{"disk full", func(r *rand.Rand) error {
		return d.full(someTime(r), func() {})
	}}})
}

func TestRedis(t *testing.T) {
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
	s.test(t, "redis", "redis://"+s.proxy.listener.Addr().String(), r.URL())
}

func TestPostgres(t *testing.T) {
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
	host, port, _ := strings.Cut(s.proxy.listener.Addr().String(), ":")
	s.test(t, "postgres", fmt.Sprintf("host=%s port=%s user=postgres dbname=postgres sslmode=disable", host, port), p.URL())
}

// test has all faults that a store with a server can meet. The workers reach
// the server at place.
func (s *server) test(t *testing.T, name, place, direct string) {
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.kill)
	s.keepUp(t)
	store, err := stores[name](direct)
	if err != nil {
		t.Fatal(err)
	}
	if p, ok := store.(*pgxstore.Store); ok {
		if err := p.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	c := begin(t, name, place, "", store)
	c.enough = append(c.enough, s.endedOnce)
	c.run(c.processFaults(), c.aimedFaults(), c.apiFaults(), s.faults(c))
	s.mu.Lock()
	defer s.mu.Unlock()
	t.Logf("%d times the server ended because its disk was full; it was away for %v at most", s.ended, s.longest.Round(time.Millisecond))
	if s.ended == 0 && !t.Failed() {
		t.Error("the server never ended because its disk was full: this proves nothing of it")
	}
}

// keepUp supervises the server until the test ends.
func (s *server) keepUp(t *testing.T) {
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
