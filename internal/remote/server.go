// Package remote is the part that stores with a server share: sessions live on
// a server that many processes use, an Update holds a lease there, and a Load is
// answered from a local copy. What differs from server to server is behind
// [Server]; redisstore, pgxstore and sqlstore implement it.
package remote

import (
	"context"
	"crypto/rand"
	"time"
)

// Stamp names one Update among all that ever were. It is the owner of a lease
// and then the mark of what that owner stored, so that a save knows whether
// what it replaces is what its holder saw. A number would do the same until the
// server forgets the key and begins to count anew.
type Stamp [16]byte

func newStamp() (s Stamp) {
	_, _ = rand.Read(s[:]) // never fails
	return s
}

// Record is what the server holds of a key.
type Record struct {
	// Stamp is of the Update that stored it. It is zero if there was none, as far
	// as the server knows: it may have forgotten the key.
	Stamp Stamp
	// Fence grows with every save of the key. It is 0 if there was none.
	Fence int64
	// Data is nil if that is no session.
	Data []byte
}

// Grant is a lease that was acquired, with what the server holds meanwhile.
type Grant struct {
	Record
	// LeaseFence is larger than those of all grants and records of the key
	// before. A server counts on from its clock, in microseconds, so that this
	// holds though it has forgotten the key.
	LeaseFence int64
}

// Change is what the holder of a lease wants stored.
type Change struct {
	// Stamp is the owner of the lease, LeaseFence its fence.
	Stamp      Stamp
	LeaseFence int64
	// Seen is the stamp of the record that the change is to replace.
	Seen Stamp
	// Data is nil to delete.
	Data []byte
	// Expires is when the server may forget the key, sooner by no means.
	Expires time.Time
}

// Message is what a [Subscription] delivers: that a key has changed, or the
// echo of a probe.
type Message struct {
	ID      string
	Fence   int64 // of the record that was stored
	Deleted bool
	Echo    string // the payload of a probe; the rest is empty then
}

// Server holds sessions. All methods are called concurrently. The id is what
// ID made of the key. Every call may be repeated after its reply was lost, and
// does no harm then, however late the repetition arrives. What is stored but
// can never be read makes Read and Acquire fail with an error that wraps
// [walletauth.ErrUnreadable].
type Server interface {
	ID(key string) string
	// Read returns what is stored now. Neither a replica nor a cache that may
	// lag will do, since the answer is kept until a message says otherwise.
	Read(ctx context.Context, id string) (Record, error)
	// Acquire grants a lease unless another owner holds one that lasts, which it
	// does for no longer than lease from now on, whatever the clock of the server
	// was when it began. It refuses an owner who has released or saved: such a call
	// is a repetition, and its lease would be nobody's. With force it drops what can
	// never be read.
	Acquire(ctx context.Context, id string, owner Stamp, lease time.Duration, force bool) (Grant, bool, error)
	// Renew prolongs the owner's lease. It reports false if it was lost.
	Renew(ctx context.Context, id string, owner Stamp, lease time.Duration) (bool, error)
	// Release ends the owner's lease, if it has one.
	Release(ctx context.Context, id string, owner Stamp) error
	// Save stores c if the record has the stamp c.Seen, or nothing is stored and
	// nothing has been, tells the subscribers, and ends the lease of c.Stamp. It
	// returns the fence of the new record: c.LeaseFence, or a larger one if that is
	// not above the last. If something else is stored it reports false and changes
	// nothing. A record stays behind when c deletes.
	Save(ctx context.Context, id string, c Change) (fence int64, saved bool, err error)
	// Subscribe returns once every change from now on will be delivered, and
	// the echoes of the probes that carry this name.
	Subscribe(ctx context.Context, echo string) (Subscription, error)
	// Shard names the part of the server that holds id; Shards are all there are.
	// Parts may fail one by one. A server in one piece has one, "".
	Shard(id string) string
	Shards(ctx context.Context) ([]string, error)
	// Probe sends payload from a shard to the subscription named echo, by the way
	// that changes of its keys take. Echoes come in order, and no change is lost between
	// two that follow each other: else one is left out.
	Probe(ctx context.Context, shard, echo, payload string) error
	// Transient reports whether the same call may succeed in a moment.
	Transient(err error) bool
}

// Subscription delivers messages to one reader.
type Subscription interface {
	// Next waits for the next message. After an error there is none: messages
	// may have been missed.
	Next(ctx context.Context) (Message, error)
	Close()
}
