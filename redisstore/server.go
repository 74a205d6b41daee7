package redisstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/walletauth/walletauth/internal/remote"
)

// server is Redis, as the part that the stores share wants it.
//
// All that is known of a session is one hash, so that it lies in one slot of a
// cluster whatever braces its key holds, and lives and dies as one:
//
//	d  the session as the Codec wrote it; absent if there is none
//	s  the stamp of the Update that stored it
//	w  the fence of that Update
//	f  the fence that was given last
//	o  who holds the lease, and
//	u  until when, in milliseconds by the clock of Redis
type server struct {
	client redis.UniversalClient
	prefix string
}

var _ remote.Server = (*server)(nil)

// Every script may run twice, as go-redis repeats a command whose reply was
// lost.
var (
	// A script and not HMGET: that may be answered by a replica or from the
	// cache of a client, and an outdated answer would be kept.
	readScript = redis.NewScript(`
return redis.call('HMGET', KEYS[1], 's', 'd')`)

	// What is left of a key without a session is the fence, kept for a day, as
	// a refresh that was under way at the logout may come to an end until then.
	acquireScript = redis.NewScript(clock + `
local o, u, f, s, d = unpack(redis.call('HMGET', KEYS[1], 'o', 'u', 'f', 's', 'd'))
if o and o ~= ARGV[1] and tonumber(u) > now then return {0} end
if o ~= ARGV[1] then f = redis.call('HINCRBY', KEYS[1], 'f', 1) end
redis.call('HSET', KEYS[1], 'o', ARGV[1], 'u', string.format('%.0f', now + ARGV[2]))
if redis.call('PTTL', KEYS[1]) < day then redis.call('PEXPIRE', KEYS[1], day) end
return {tonumber(f), s, d}`)

	renewScript = redis.NewScript(clock + `
if redis.call('HGET', KEYS[1], 'o') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'u', string.format('%.0f', now + ARGV[2]))
return 1`)

	releaseScript = redis.NewScript(`
if redis.call('HGET', KEYS[1], 'o') ~= ARGV[1] then return 0 end
return redis.call('HDEL', KEYS[1], 'o', 'u')`)

	// PUBLISH comes first: if an ACL forbids it, nothing is changed of which the
	// others would not hear. f follows w where Redis has lost what it
	// knew, since a fence must not come again.
	saveScript = redis.NewScript(clock + `
local o, w, f, s = unpack(redis.call('HMGET', KEYS[1], 'o', 'w', 'f', 's'))
local fence = tonumber(ARGV[2])
if s == ARGV[1] then return 1 end
if fence <= tonumber(w or 0) then return 0 end
redis.call('PUBLISH', ARGV[5], ARGV[6])
if o == ARGV[1] then redis.call('HDEL', KEYS[1], 'o', 'u') end
if fence > tonumber(f or 0) then redis.call('HSET', KEYS[1], 'f', ARGV[2]) end
redis.call('HSET', KEYS[1], 's', ARGV[1], 'w', ARGV[2])
if ARGV[3] == '' then redis.call('HDEL', KEYS[1], 'd') else redis.call('HSET', KEYS[1], 'd', ARGV[3]) end
redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', math.max(now, tonumber(ARGV[4])) + day))
return 1`)
)

// clock is the time of Redis, so that those of its clients do not matter.
const clock = `
local day = 86400000
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)`

func (s *server) ID(key string) string { return key }

func (s *server) run(ctx context.Context, script *redis.Script, id string, args ...any) *redis.Cmd {
	return script.Run(ctx, s.client, []string{s.prefix + id}, args...)
}

func (s *server) Read(ctx context.Context, id string) (remote.Record, error) {
	reply, err := s.run(ctx, readScript, id).Slice()
	if err != nil {
		return remote.Record{}, err
	}
	return record(reply)
}

func (s *server) Acquire(ctx context.Context, id string, owner remote.Stamp, lease time.Duration) (g remote.Grant, granted bool, err error) {
	reply, err := s.run(ctx, acquireScript, id, owner[:], lease.Milliseconds()).Slice()
	if err != nil {
		return g, false, err
	}
	return grant(reply)
}

// grant reads a fence and a record. The fence 0, alone, is a refusal.
func grant(reply []any) (g remote.Grant, granted bool, err error) {
	if len(reply) == 0 {
		return g, false, errors.New("a script answered without a fence")
	}
	fence, ok := reply[0].(int64)
	switch {
	case !ok || fence < 0:
		return g, false, errors.New("a script answered with a fence that is none")
	case fence == 0:
		return g, false, nil
	}
	r, err := record(reply[1:])
	if err != nil {
		return g, false, err
	}
	return remote.Grant{Record: r, Fence: fence}, true, nil
}

// record reads a stamp and the data, both nil if there is none. A reply of
// another shape is an error: to take it for no session would log the user out.
func record(reply []any) (r remote.Record, err error) {
	if len(reply) != 2 {
		return r, fmt.Errorf("a script answered with %d values", len(reply))
	}
	stamp, isStamp := reply[0].(string)
	data, isData := reply[1].(string)
	if !isStamp && reply[0] != nil || !isData && reply[1] != nil {
		return r, errors.New("a script answered with values that are no strings")
	}
	if len(stamp) == len(r.Stamp) {
		copy(r.Stamp[:], stamp)
	}
	if isData {
		r.Data = []byte(data)
	}
	return r, nil
}

func (s *server) Renew(ctx context.Context, id string, owner remote.Stamp, lease time.Duration) (bool, error) {
	n, err := s.run(ctx, renewScript, id, owner[:], lease.Milliseconds()).Int()
	return n == 1, err
}

func (s *server) Release(ctx context.Context, id string, owner remote.Stamp) error {
	return s.run(ctx, releaseScript, id, owner[:]).Err()
}

func (s *server) Save(ctx context.Context, id string, c remote.Change) (bool, error) {
	n, err := s.run(ctx, saveScript, id, c.Stamp[:], c.Fence, c.Data, c.Expires.UnixMilli(),
		s.changes(), announcement(id, c)).Int()
	return n == 1, err
}

// Transient reports whether err is a failure of the network, or a server that
// is starting, changing its role or out of memory for the moment.
func (s *server) Transient(err error) bool {
	if errors.Is(err, redis.ErrClosed) {
		return false
	}
	var reply redis.Error
	if !errors.As(err, &reply) {
		return true
	}
	switch name, _, _ := strings.Cut(reply.Error(), " "); name {
	case "LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "MISCONF", "NOREPLICAS", "OOM", "BUSY", "UNBLOCKED":
		return true
	default:
		return strings.Contains(reply.Error(), "max number of clients reached")
	}
}

// changes is the Pub/Sub channel. Channels are of a whole Redis, not of one of
// its logical databases; a message from another one makes a copy be read
// again, no more.
func (s *server) changes() string { return s.prefix + "changes" }

func (s *server) echoes(name string) string { return s.prefix + "echo:" + name }

func (s *server) Probe(ctx context.Context, echo, payload string) error {
	return s.client.Publish(ctx, s.echoes(echo), payload).Err()
}

const (
	replaced = "r"
	deleted  = "d"
)

// announcement is the message that tells of a change: what it did, its stamp,
// and the key.
func announcement(id string, c remote.Change) string {
	if c.Data == nil {
		return deleted + string(c.Stamp[:]) + id
	}
	return replaced + string(c.Stamp[:]) + id
}

func readAnnouncement(text string) (m remote.Message, ok bool) {
	const head = 1 + len(m.Stamp)
	if len(text) < head {
		return m, false
	}
	copy(m.Stamp[:], text[1:head])
	m.Deleted, m.ID = text[:1] == deleted, text[head:]
	return m, true
}

// confirmWithin bounds the wait for an answer to SUBSCRIBE.
const confirmWithin = 5 * time.Second

func (s *server) Subscribe(ctx context.Context, echo string) (remote.Subscription, error) {
	pubsub := s.client.Subscribe(ctx, s.changes(), s.echoes(echo))
	sub := &subscription{pubsub: pubsub, echoes: s.echoes(echo)}
	sub.stop = context.AfterFunc(ctx, func() { _ = pubsub.Close() }) // go-redis heeds no ctx while it reads
	for range 2 {
		if _, err := pubsub.ReceiveTimeout(ctx, confirmWithin); err != nil {
			sub.Close()
			return nil, err
		}
	}
	return sub, nil
}

type subscription struct {
	pubsub *redis.PubSub
	echoes string
	stop   func() bool
}

// errReconnected is go-redis having replaced the connection, by itself.
var errReconnected = errors.New("the Pub/Sub connection was replaced")

func (s *subscription) Next(ctx context.Context) (remote.Message, error) {
	for {
		received, err := s.pubsub.Receive(ctx)
		if err != nil {
			return remote.Message{}, err
		}
		switch received := received.(type) {
		case *redis.Subscription:
			return remote.Message{}, errReconnected
		case *redis.Message:
			if received.Channel == s.echoes {
				return remote.Message{Echo: received.Payload}, nil
			}
			if m, ok := readAnnouncement(received.Payload); ok {
				return m, nil
			}
		}
	}
}

func (s *subscription) Close() {
	s.stop()
	_ = s.pubsub.Close() // it is given up either way
}
