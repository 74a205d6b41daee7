package redisstore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/internal/remote"
)

// server is Redis, as the part that the stores share wants it.
//
// All that is known of a session is one hash, so that it lies in one slot of a
// cluster and lives and dies as one:
//
//	d  the session as the Codec wrote it; absent if there is none
//	s  the stamp of the Update that stored it
//	w  the fence of that
//	f  the fence that was given last
//	o  who holds the lease, or held it last
//	u  until when, in milliseconds by the clock of Redis; absent: it was given back
type server struct {
	client redis.UniversalClient
	prefix string

	masters sync.Map               // of a cluster: address to *redis.Client
	near    atomic.Pointer[string] // the id of the node that delivers messages; nil: it is not known
	links   sync.Map               // address of a master to the link that carries its messages there
}

var _ remote.Server = (*server)(nil)

// Every script may run twice, as go-redis repeats a command whose reply was
// lost, and the second time may be late: whoever has released or saved is
// refused, since nobody would give such a lease back.
var (
	// A script and not HMGET: that may be answered by a replica or from the
	// cache of a client, and an outdated answer would be kept.
	readScript = redis.NewScript(`
return redis.call('HMGET', KEYS[1], 's', 'w', 'd')`)

	// What is left of a key without a session is the fence, kept for a day, as
	// a refresh that was under way at the logout may come to an end until then.
	//
	// Fences count on from the clock, in microseconds, so that they grow although
	// Redis has forgotten the key. A lease lasts until now + ARGV[2] at most:
	// if it lasts longer, the clock was set back since.
	acquireScript = redis.NewScript(clock + `
if ARGV[3] == '1' then
	local kind = redis.call('TYPE', KEYS[1]).ok
	if kind ~= 'hash' and kind ~= 'none' then redis.call('DEL', KEYS[1]) end
end
local o, u, f, s, w, d = unpack(redis.call('HMGET', KEYS[1], 'o', 'u', 'f', 's', 'w', 'd'))
if s == ARGV[1] or o == ARGV[1] and not u then return {0} end
local ends = now + ARGV[2]
local held = tonumber(u or 0) or 0
if o ~= ARGV[1] and held > now then
	if held > ends then redis.call('HSET', KEYS[1], 'u', string.format('%.0f', ends)) end
	return {0}
end
f = tonumber(f or 0) or 0
if o ~= ARGV[1] then f = math.max(f + 1, micros) end
redis.call('HSET', KEYS[1], 'o', ARGV[1], 'u', string.format('%.0f', ends), 'f', string.format('%.0f', f))
if redis.call('PTTL', KEYS[1]) < day then redis.call('PEXPIRE', KEYS[1], day) end
return {f, s, w, d}`)

	renewScript = redis.NewScript(clock + `
local o, u = unpack(redis.call('HMGET', KEYS[1], 'o', 'u'))
if o ~= ARGV[1] or not u then return 0 end
redis.call('HSET', KEYS[1], 'u', string.format('%.0f', now + ARGV[2]))
return 1`)

	releaseScript = redis.NewScript(`
if redis.call('HGET', KEYS[1], 'o') ~= ARGV[1] then return 0 end
return redis.call('HDEL', KEYS[1], 'u')`)

	// It stores if the stamp is the one that the holder saw, or if Redis knows of
	// none and has no data: then it has lost what it knew. PUBLISH comes first: if an
	// ACL forbids it, nothing is changed of which the others would not hear.
	saveScript = redis.NewScript(clock + `
local o, w, f, s, d = unpack(redis.call('HMGET', KEYS[1], 'o', 'w', 'f', 's', 'd'))
w, f = tonumber(w or 0) or 0, tonumber(f or 0) or 0
if s == ARGV[1] then return {1, w} end
if not s or #s ~= 16 then s = string.rep('\0', 16) end
if s ~= ARGV[3] and (d or s ~= string.rep('\0', 16)) then return {0, 0} end
local fence = tonumber(ARGV[2])
if fence <= w then fence = math.max(f, w) + 1 end
local text = string.format('%.0f', fence)
redis.call('PUBLISH', ARGV[6], ARGV[7] .. text)
if o == ARGV[1] then redis.call('HDEL', KEYS[1], 'u') end
if fence > f then redis.call('HSET', KEYS[1], 'f', text) end
redis.call('HSET', KEYS[1], 's', ARGV[1], 'w', text)
if ARGV[4] == '' then redis.call('HDEL', KEYS[1], 'd') else redis.call('HSET', KEYS[1], 'd', ARGV[4]) end
redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', math.max(now, tonumber(ARGV[5])) + day))
return {1, fence}`)
)

// clock is the time of Redis, so that those of its clients do not matter.
const clock = `
local day = 86400000
local t = redis.call('TIME')
local micros = t[1] * 1000000 + t[2]
local now = math.floor(micros / 1000)`

// ID is a hash of the key, which may be the value of a cookie: no listing of keys
// and no backup shows it.
func (s *server) ID(key string) string {
	hash := sha256.Sum256([]byte(key))
	return hex.EncodeToString(hash[:])
}

// run carries a script out. What is no hash can never be read.
func (s *server) run(ctx context.Context, script *redis.Script, id string, args ...any) *redis.Cmd {
	cmd := script.Run(ctx, s.client, []string{s.prefix + id}, args...)
	if err := cmd.Err(); err != nil && hasCode(err, "WRONGTYPE") {
		cmd.SetErr(fmt.Errorf("%w: the Redis key is not a hash: %w", walletauth.ErrUnreadable, err))
	}
	return cmd
}

func (s *server) Read(ctx context.Context, id string) (remote.Record, error) {
	reply, err := s.run(ctx, readScript, id).Slice()
	if err != nil {
		return remote.Record{}, err
	}
	return record(reply)
}

func (s *server) Acquire(ctx context.Context, id string, owner remote.Stamp, lease time.Duration, force bool) (g remote.Grant, granted bool, err error) {
	forced := 0
	if force {
		forced = 1
	}
	reply, err := s.run(ctx, acquireScript, id, owner[:], lease.Milliseconds(), forced).Slice()
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
	return remote.Grant{Record: r, LeaseFence: fence}, true, nil
}

// record reads a stamp, its fence and the data, all nil if there are none. A
// reply of another shape is an error: to take it for no session would log the
// user out.
func record(reply []any) (r remote.Record, err error) {
	if len(reply) != 3 {
		return r, fmt.Errorf("a script answered with %d values", len(reply))
	}
	var texts [3]string
	for i, value := range reply {
		text, ok := value.(string)
		if !ok && value != nil {
			return r, errors.New("a script answered with values that are not strings")
		}
		texts[i] = text
	}
	if len(texts[0]) == len(r.Stamp) {
		copy(r.Stamp[:], texts[0])
	}
	if r.Fence, err = strconv.ParseInt(texts[1], 10, 64); err != nil {
		r.Fence = 0 // as of a session that was restored by hand
	}
	if reply[2] != nil {
		r.Data = []byte(texts[2])
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

func (s *server) Save(ctx context.Context, id string, c remote.Change) (fence int64, saved bool, err error) {
	reply, err := s.run(ctx, saveScript, id, c.Stamp[:], c.LeaseFence, c.Seen[:], c.Data, c.Expires.UnixMilli(),
		s.changes(), announcement(id, c.Data == nil)).Int64Slice()
	if err != nil {
		return 0, false, err
	}
	if len(reply) != 2 {
		return 0, false, fmt.Errorf("a script answered with %d values", len(reply))
	}
	return reply[1], reply[0] == 1, nil
}

// Transient reports whether err is a failure of the network, or a server that
// is starting, changing its role or out of memory for the moment.
func (s *server) Transient(err error) bool {
	if errors.Is(err, redis.ErrClosed) || errors.Is(err, walletauth.ErrUnreadable) {
		return false
	}
	var reply redis.Error
	return !errors.As(err, &reply) || hasCode(reply, transient...)
}

var transient = []string{"LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "MISCONF", "NOREPLICAS", "OOM",
	"BUSY", "UNBLOCKED", "max number of clients reached"}

// hasCode looks for the codes as words anywhere in the text of err: Redis 6.2 and
// older wrap the errors of commands in scripts, as in "ERR Error running script
// (call to f_...): @user_script:1: -READONLY You can't write ...".
func hasCode(err error, codes ...string) bool {
	words := " " + strings.NewReplacer("-", " ", ":", " ").Replace(err.Error()) + " "
	return slices.ContainsFunc(codes, func(code string) bool { return strings.Contains(words, " "+code+" ") })
}

// changes is the Pub/Sub channel. Channels are of a whole Redis, not of one of
// its logical databases; a message from another one makes a copy be read
// again, no more.
func (s *server) changes() string { return s.prefix + "changes" }

func (s *server) echoes(name string) string { return s.prefix + "echo:" + name }

// Shard names the master that has the slot of id: it publishes the changes of id,
// and it may be the only one that is down.
func (s *server) Shard(id string) string {
	cluster, ok := s.client.(*redis.ClusterClient)
	if !ok {
		return ""
	}
	ctx, cancel := context.WithTimeout(context.Background(), confirmWithin)
	defer cancel()
	master, err := cluster.MasterForKey(ctx, s.prefix+id)
	if err != nil {
		return ""
	}
	return master.Options().Addr
}

func (s *server) Shards(ctx context.Context) ([]string, error) {
	cluster, ok := s.client.(*redis.ClusterClient)
	if !ok {
		return []string{""}, nil
	}
	var mu sync.Mutex // guards names
	var names []string
	err := cluster.ForEachMaster(ctx, func(_ context.Context, master *redis.Client) error {
		mu.Lock()
		defer mu.Unlock()
		name := master.Options().Addr
		s.masters.Store(name, master)
		names = append(names, name)
		return nil
	})
	return names, err
}

// Probe publishes where changes of the shard are published. That another node of
// the cluster hears of them is what the echo is to show. After a new link has taken
// the place of another it publishes nothing, for once: what was under way may be lost,
// and an echo that is missing says so.
func (s *server) Probe(ctx context.Context, shard, echo, payload string) error {
	if shard == "" {
		return s.client.Publish(ctx, s.echoes(echo), payload).Err()
	}
	found, ok := s.masters.Load(shard)
	if !ok {
		return fmt.Errorf("there is no node %s", shard)
	}
	master := found.(*redis.Client)
	if s.isRelinked(ctx, shard, master) {
		return errors.New("the node has a new link to the one that delivers its messages")
	}
	return master.Publish(ctx, s.echoes(echo), payload).Err()
}

// link is a connection of the bus of a cluster.
type link struct {
	to      string // the id of a node
	created int64
}

// isRelinked reports whether the master has another link to the node that delivers
// its messages than when it was asked last. Redis tells since version 7, whoever may
// ask. Without that, only an interruption is noticed that a probe falls into.
func (s *server) isRelinked(ctx context.Context, shard string, master *redis.Client) bool {
	near := s.near.Load()
	if near == nil {
		return false
	}
	links, err := master.ClusterLinks(ctx).Result()
	if err != nil {
		return false
	}
	now := link{to: *near}
	for _, l := range links {
		if l.Direction == "to" && l.Node == now.to {
			now.created = l.CreateTime
		}
	}
	last, known := s.links.Swap(shard, now)
	return known && last.(link).to == now.to && last != any(now)
}

const (
	replaced = "r"
	deleted  = "d"
)

// announcement is the message that tells of a change: what it did, the key, and
// its fence, which the script appends.
func announcement(id string, isDelete bool) string {
	if isDelete {
		return deleted + id + ":"
	}
	return replaced + id + ":"
}

func readAnnouncement(text string) (m remote.Message, ok bool) {
	head, fence, found := strings.Cut(text, ":")
	if !found || len(head) < 2 {
		return m, false
	}
	var err error
	m.Fence, err = strconv.ParseInt(fence, 10, 64)
	m.Deleted, m.ID = head[:1] == deleted, head[1:]
	return m, err == nil
}

// confirmWithin bounds the wait for an answer to SUBSCRIBE.
const confirmWithin = 5 * time.Second

// Subscribe takes any node of a cluster that answers, since each hears of all
// changes. go-redis alone would always take the one that has the slot of the
// channel's name, which may be down.
func (s *server) Subscribe(ctx context.Context, echo string) (remote.Subscription, error) {
	switch s.client.(type) {
	case *redis.Ring:
		return nil, fmt.Errorf("the shards of a redis.Ring do not tell each other of changes: %w", errors.ErrUnsupported)
	case *redis.ClusterClient:
	default:
		return s.subscribe(ctx, s.client, echo)
	}
	names, err := s.Shards(ctx)
	if err != nil {
		return nil, err
	}
	rand.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	err = errors.New("the cluster has no master")
	for _, name := range names {
		found, _ := s.masters.Load(name)
		master := found.(*redis.Client)
		sub, failed := s.subscribe(ctx, master, echo)
		if failed == nil {
			s.near.Store(nodeID(ctx, master))
			return sub, nil
		}
		err = failed
	}
	return nil, err
}

// nodeID is nil if the node does not say who it is.
func nodeID(ctx context.Context, node *redis.Client) *string {
	id, err := node.ClusterMyID(ctx).Result()
	if err != nil {
		return nil
	}
	return &id
}

func (s *server) subscribe(ctx context.Context, client redis.UniversalClient, echo string) (remote.Subscription, error) {
	pubsub := client.Subscribe(ctx, s.changes(), s.echoes(echo))
	sub := &subscription{pubsub: pubsub, echoes: s.echoes(echo)}
	sub.stop = context.AfterFunc(ctx, func() { _ = pubsub.Close() }) // go-redis ignores ctx while it reads
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
