// Package remote is the part that two stores share: sessions live on a server
// that many processes use, an Update holds a lease there, and a Load is
// answered from a local copy. What differs from server to server is behind
// [Server]; redisstore and pgxstore implement it.
package remote

import (
	"context"
	"crypto/rand"
	"time"
)

// Stamp names one Update among all that ever were. It is the owner of a lease
// and then the mark of what that owner stored, so that a copy is known to be
// current without comparing the data. A version number would do the same
// until the server forgets the key and begins to count anew.
type Stamp [16]byte

func newStamp() (s Stamp) {
	_, _ = rand.Read(s[:]) // never fails
	return s
}

// Record is what the server holds of a key. Data is nil if that is no session.
type Record struct {
	Stamp Stamp
	Data  []byte
}

// Grant is a lease that was acquired, with what the server holds meanwhile.
// The fence is larger than that of every grant of the key before.
type Grant struct {
	Record
	Fence int64
}

// Change is what the holder of a lease wants stored.
type Change struct {
	Record
	Fence int64
	// Expires is when the server may forget the key, sooner by no means.
	Expires time.Time
}

// Message is what a [Subscription] delivers: that a key has changed, or the
// echo of a probe.
type Message struct {
	ID      string
	Stamp   Stamp
	Deleted bool
	Echo    string // the payload of a probe; the rest is empty then
}

// Server holds sessions. All methods are called concurrently. The id is what
// ID made of the key. Every call may be repeated after its reply was lost, and
// does no harm then.
type Server interface {
	ID(key string) string
	// Read returns what is stored now. Neither a replica nor a cache that may
	// lag will do, since the answer is kept until a message says otherwise.
	Read(ctx context.Context, id string) (Record, error)
	// Acquire grants a lease unless another owner holds one that lasts.
	Acquire(ctx context.Context, id string, owner Stamp, lease time.Duration) (Grant, bool, error)
	// Renew prolongs the owner's lease. It reports false if it was lost.
	Renew(ctx context.Context, id string, owner Stamp, lease time.Duration) (bool, error)
	// Release ends the owner's lease, if it has one.
	Release(ctx context.Context, id string, owner Stamp) error
	// Save stores c, tells the subscribers, and ends the lease of c.Stamp,
	// all in one step. It reports false if a later holder has saved. The fence
	// stays behind when c deletes.
	Save(ctx context.Context, id string, c Change) (bool, error)
	// Subscribe returns once every change from now on will be delivered, and
	// the echoes of the probes that carry this name.
	Subscribe(ctx context.Context, echo string) (Subscription, error)
	// Probe sends payload to the subscription named echo, by the way that
	// changes take.
	Probe(ctx context.Context, echo, payload string) error
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
