//go:build linux

package redisstore_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/internal/remote/remotetest"
	"github.com/walletauth/walletauth/redisstore"
	"github.com/walletauth/walletauth/walletauthtest"
)

func TestStore(t *testing.T) {
	walletauthtest.TestStore(t, func(t *testing.T) walletauth.TokenStore { return corruptible{newStore(t)} })
}

func TestStoreSealed(t *testing.T) {
	codec, err := walletauth.NewSealedCodec(bytes.Repeat([]byte("k"), 32))
	if err != nil {
		t.Fatal(err)
	}
	s := newStore(t)
	s.Codec = codec
	want := remotetest.Session("sealed")
	save(t, s, "user", want)
	other := &redisstore.Store{Client: s.Client, Prefix: s.Prefix, Codec: codec}
	defer other.Close()
	if got, err := other.Load(t.Context(), "user"); err != nil || got.AccessToken != want.AccessToken {
		t.Errorf("Load: %v, %v", got, err)
	}
	plain := &redisstore.Store{Client: s.Client, Prefix: s.Prefix}
	defer plain.Close()
	if _, err := plain.Load(t.Context(), "user"); err == nil || errors.Is(err, walletauth.ErrNoSession) {
		t.Errorf("Load with another Codec: %v, want an error that is not ErrNoSession", err)
	}
}

// TestStoreInEightProcesses runs TestStore in 8 processes at once, over one
// Redis.
func TestStoreInEightProcesses(t *testing.T) {
	remotetest.InEightProcesses(t, "TestStore", urlEnv+"="+redisURL(t))
}

func TestProcesses(t *testing.T) {
	walletauthtest.TestProcesses(t,
		func(t *testing.T) string { return place(t) },
		func(t *testing.T, place string) walletauth.TokenStore {
			s, err := open(place, 2*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			return s
		})
}

func TestHistories(t *testing.T) { remotetest.Histories(t, open, place(t)) }

func TestLosses(t *testing.T) {
	s := newStore(t)
	remotetest.Losses(t, s, hand(t, s, func(key string) error {
		return s.Client.HSet(t.Context(), s.KeyName(key), "d", "{}", "s", "another").Err()
	}))
}

// TestWrongType: a key that is not a hash is a session that cannot be read.
func TestWrongType(t *testing.T) {
	s := newStore(t)
	remotetest.Losses(t, s, hand(t, s, func(key string) error {
		return s.Client.Set(t.Context(), s.KeyName(key), "a string", 0).Err()
	}))
}

// TestOtherKeysOfAWrongType: a key that cannot be read, and is asked for all the
// time, keeps nobody from the changes of the others.
func TestOtherKeysOfAWrongType(t *testing.T) {
	here := newStore(t)
	there := &redisstore.Store{Client: here.Client, Prefix: here.Prefix}
	defer there.Close()
	if err := here.Client.Set(t.Context(), here.KeyName("bad"), "a string", 0).Err(); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		if _, err := here.Load(t.Context(), "bad"); !errors.Is(err, walletauth.ErrUnreadable) {
			t.Fatalf("Load of a key of a wrong type: %v", err)
		}
		save(t, there, "user", remotetest.Session(strconv.Itoa(i)))
		remotetest.AwaitID(t, here, "user", strconv.Itoa(i))
	}
}

// TestRing: its shards do not tell each other of changes, so every Load asks. When
// all of them are down, which panics in go-redis, copies serve.
func TestRing(t *testing.T) {
	a, b := ownServer(t), ownServer(t)
	newRing := func() *redis.Ring {
		ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": a.Socket, "b": b.Socket},
			NewClient: func(o *redis.Options) *redis.Client { o.Network = "unix"; return redis.NewClient(o) }})
		t.Cleanup(func() { _ = ring.Close() })
		return ring
	}
	here, there := &redisstore.Store{Client: newRing()}, &redisstore.Store{Client: newRing()}
	defer here.Close()
	defer there.Close()
	for i := range 10 {
		for _, key := range []string{"user-1", "user-2", "user-3"} {
			id := key + strconv.Itoa(i)
			save(t, there, key, remotetest.Session(id))
			if s, err := here.Load(t.Context(), key); err != nil || s.ID != id {
				t.Fatalf("Load after a save in another process: %v, %v, want %s", s, err, id)
			}
		}
	}
	a.Stop(syscall.SIGKILL)
	b.Stop(syscall.SIGKILL)
	for range 10 {
		if _, err := here.Load(t.Context(), "user-1"); err != nil {
			t.Errorf("Load while all shards are down: %v", err)
		}
	}
}

// TestKeyName: names hold a hash, and KeyName finds the one of a key.
func TestKeyName(t *testing.T) {
	s := newStore(t)
	for _, key := range []string{"", "user-42", "a:b {c}", "\x00\xff"} {
		save(t, s, key, remotetest.Session("1"))
		name := s.KeyName(key)
		if n, err := s.Client.HExists(t.Context(), name, "d").Result(); err != nil || !n {
			t.Errorf("there is no session under %q (%v)", name, err)
		}
		if key != "" && strings.Contains(name, key) {
			t.Errorf("the name %q shows the key", name)
		}
	}
}

func hand(t *testing.T, s *redisstore.Store, spoil func(key string) error) remotetest.Hand {
	return remotetest.Hand{
		Forget: func(key string) error { return s.Client.Del(t.Context(), s.KeyName(key)).Err() },
		Keep: func(key string) func() error {
			dump, err := s.Client.Dump(t.Context(), s.KeyName(key)).Result()
			if err != nil {
				t.Fatal(err)
			}
			return func() error { return s.Client.RestoreReplace(t.Context(), s.KeyName(key), 0, dump).Err() }
		},
		Spoil:  spoil,
		Deafen: func() error { return s.Client.Do(t.Context(), "CLIENT", "KILL", "TYPE", "pubsub").Err() },
		Another: func() walletauth.TokenStore {
			another := &redisstore.Store{Client: s.Client, Prefix: s.Prefix, CacheFor: -1}
			t.Cleanup(func() { _ = another.Close() })
			return another
		},
	}
}

func TestScripts(t *testing.T) { remotetest.Server(t, redisstore.ServerOf(newStore(t))) }

func TestClientMissing(t *testing.T) {
	s := new(redisstore.Store)
	_, err := s.Load(t.Context(), "user")
	if err == nil || !strings.Contains(err.Error(), "Client is nil") {
		t.Errorf("Load: %v", err)
	}
	if err := walletauth.Delete(t.Context(), s, "user"); err == nil || !strings.Contains(err.Error(), "Client is nil") {
		t.Errorf("Update: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

func TestLoginIsSeenAtOnce(t *testing.T) {
	here := newStore(t)
	there := &redisstore.Store{Client: here.Client, Prefix: here.Prefix}
	defer there.Close()
	remotetest.LoginIsSeenAtOnce(t, here, there)
}

func TestOutage(t *testing.T) {
	r := ownServer(t)
	s := openStore(t, r.URL()+" outage:")
	s.CacheFor = 100 * time.Millisecond
	remotetest.Outage(t, s, "redisstore: ",
		func() { r.Stop(syscall.SIGKILL) },
		func() {
			if err := r.Start("always"); err != nil {
				t.Fatal(err)
			}
		})
}

// TestACL: the rights that the README names suffice.
func TestACL(t *testing.T) {
	r := ownServer(t)
	admin := openStore(t, r.URL()+" any")
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	rights := regexp.MustCompile(`(?m)^    (~walletauth.*)$`).FindSubmatch(text)
	if rights == nil {
		t.Fatal("the README names no rights")
	}
	command := []any{"ACL", "SETUSER", "app", "on", "nopass", "resetchannels"}
	for _, right := range strings.Fields(string(rights[1])) {
		command = append(command, right)
	}
	if err := admin.Client.Do(t.Context(), command...).Err(); err != nil {
		t.Fatal(err)
	}
	options, err := redis.ParseURL(r.URL())
	if err != nil {
		t.Fatal(err)
	}
	options.Username, options.Password = "app", "any"
	here, there := &redisstore.Store{Client: redis.NewClient(options)}, &redisstore.Store{Client: redis.NewClient(options)}
	defer here.Close()
	defer there.Close()
	for i := range 5 {
		save(t, here, "user", remotetest.Session(strconv.Itoa(i)))
		remotetest.AwaitID(t, there, "user", strconv.Itoa(i))
	}
	awaitSubscribers(t, admin.Client, "walletauth:", 2)
}

// awaitSubscribers returns when n processes hear of changes.
func awaitSubscribers(t *testing.T, client redis.UniversalClient, prefix string, n int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		subscribers, err := client.PubSubNumSub(ctx, prefix+"changes").Result()
		if err != nil || ctx.Err() != nil {
			t.Fatalf("%v processes hear of changes, want %d (%v)", subscribers, n, err)
		}
		if subscribers[prefix+"changes"] == n {
			return
		}
		<-tick.C
	}
}

// TestWithoutPubSub: a process that may not subscribe sees an Update of
// another after CacheFor.
func TestWithoutPubSub(t *testing.T) {
	r := ownServer(t)
	writer := openStore(t, r.URL()+" deaf:")
	if err := writer.Client.Do(t.Context(), "ACL", "SETUSER", "deaf", "on", "nopass", "~*", "+@all", "resetchannels").Err(); err != nil {
		t.Fatal(err)
	}
	options, err := redis.ParseURL(r.URL())
	if err != nil {
		t.Fatal(err)
	}
	options.Username, options.Password = "deaf", "any"
	deaf := &redisstore.Store{Client: redis.NewClient(options), Prefix: writer.Prefix, CacheFor: 100 * time.Millisecond}
	defer deaf.Close()
	for i := range 5 {
		save(t, writer, "user", remotetest.Session(strconv.Itoa(i)))
		remotetest.AwaitID(t, deaf, "user", strconv.Itoa(i))
	}
	if err := walletauth.Save(t.Context(), deaf, "user", remotetest.Session("unheard")); err == nil {
		t.Error("an Update of which nobody could hear was stored")
	}
	if s, err := writer.Load(t.Context(), "user"); err != nil || s.ID != "4" {
		t.Errorf("after an Update that failed: %v, %v", s, err)
	}
}

// TestPubSubConnectionLost: what was missed between two subscriptions is found
// out.
func TestPubSubConnectionLost(t *testing.T) {
	s := newStore(t)
	other := &redisstore.Store{Client: s.Client, Prefix: s.Prefix}
	defer other.Close()
	save(t, other, "user", remotetest.Session("0"))
	for i := range 5 {
		if _, err := s.Load(t.Context(), "user"); err != nil {
			t.Fatal(err)
		}
		if err := s.Client.Do(t.Context(), "CLIENT", "KILL", "TYPE", "pubsub").Err(); err != nil {
			t.Fatal(err)
		}
		id := strconv.Itoa(i + 1)
		save(t, other, "user", remotetest.Session(id))
		remotetest.AwaitID(t, s, "user", id)
	}
}

// TestFlushed: Redis losing everything is a logout, and nothing that was known
// of before stands in the way of a new login.
func TestFlushed(t *testing.T) {
	s := newStore(t)
	for i := range 5 {
		save(t, s, "user", remotetest.Session(strconv.Itoa(i)))
	}
	if err := s.Client.Del(t.Context(), s.KeyName("user")).Err(); err != nil {
		t.Fatal(err)
	}
	save(t, s, "user", remotetest.Session("login"))
	err := s.Update(t.Context(), "user", func(_ context.Context, current *walletauth.Session) (*walletauth.Session, error) {
		if current == nil || current.ID != "login" {
			t.Errorf("after a login the session is %v", current)
		}
		return current, nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestLostWhileHeld: what is stored after Redis has forgotten the lease is
// stored, and the fence does not come again.
func TestLostWhileHeld(t *testing.T) {
	s := newStore(t)
	save(t, s, "user", remotetest.Session("1"))
	save(t, s, "user", remotetest.Session("2"))
	err := s.Update(t.Context(), "user", func(ctx context.Context, _ *walletauth.Session) (*walletauth.Session, error) {
		return remotetest.Session("3"), s.Client.Del(ctx, s.KeyName("user")).Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	save(t, s, "user", remotetest.Session("4"))
	if got, err := s.Load(t.Context(), "user"); err != nil || got.ID != "4" {
		t.Errorf("Load: %v, %v", got, err)
	}
}

// TestExpiry: what Redis keeps it keeps for a day longer than the refresh
// token lives, and the fence of a deleted session for a day.
func TestExpiry(t *testing.T) {
	s := newStore(t)
	session := remotetest.Session("1")
	session.RefreshTokenExpiresAt = time.Now().Add(48 * time.Hour)
	ttl := func() time.Duration {
		d, err := s.Client.PTTL(t.Context(), s.KeyName("user")).Result()
		if err != nil {
			t.Fatal(err)
		}
		return d.Round(time.Hour)
	}
	save(t, s, "user", session)
	if d := ttl(); d != 72*time.Hour {
		t.Errorf("a session is kept for %v, want 72h", d)
	}
	if err := walletauth.Delete(t.Context(), s, "user"); err != nil {
		t.Fatal(err)
	}
	if d := ttl(); d != 24*time.Hour {
		t.Errorf("a deleted session's fence is kept for %v, want 24h", d)
	}
}

func TestBackgroundEnds(t *testing.T) {
	s := newStore(t)
	remotetest.BackgroundEnds(t, s, s.Close)
}

var many = flag.Int("sessions", 2000, "the number of sessions in TestManySessions")

func TestManySessions(t *testing.T) {
	r := ownServer(t)
	s := openStore(t, r.URL()+" many:")
	s.MaxCopies = 3 * *many // so that all are kept
	remotetest.ManySessions(t, s, *many, func() int { return usedMemory(t, s.Client) })
}

func usedMemory(t *testing.T, client redis.UniversalClient) int {
	t.Helper()
	info, err := client.Info(t.Context(), "memory").Result()
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(info, "used_memory:")
	number, _, _ := strings.Cut(rest, "\r\n")
	n, err := strconv.Atoi(number)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
