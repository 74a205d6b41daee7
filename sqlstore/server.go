package sqlstore

import (
	"cmp"
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/walletauth/walletauth/internal/remote"
)

const defaultTable = "walletauth_sessions"

// lockedFor is how long a statement tries to get at a SQLite file that others
// write to.
const lockedFor = 5 * time.Second

// server is MySQL or SQLite, as the part that the stores share wants it.
//
// Every change is a compare-and-swap: read the row, decide, write it if its
// version is still the same, else begin again. So what is decided stands here
// once and not in two dialects, of which one computes the columns of an UPDATE
// from each other in the order in which they are written. And each statement is
// a transaction of its own: in one of several, a process that is stopped
// between two of them would keep a row locked for as long as it stands still.
type server struct {
	db      *sql.DB
	dialect dialect

	read, row, clock, make, lease, save, changes, expired, purge string

	writing sync.Mutex // held by who writes to a SQLite file: see exec

	mu            sync.Mutex // guards what follows
	subscriptions map[string]*subscription
}

var _ remote.Server = (*server)(nil)

func newServer(db *sql.DB, d dialect, table string) *server {
	s := &server{db: db, dialect: d}
	for to, text := range map[*string]string{
		&s.read: readSQL, &s.row: rowSQL, &s.clock: clockSQL, &s.make: makeSQL, &s.lease: leaseSQL, &s.save: saveSQL,
		&s.changes: changesSQL, &s.expired: expiredSQL, &s.purge: purgeSQL,
	} {
		*to = d.sql(text, table)
	}
	return s
}

// sql is a statement written for the default table, with words in capitals for
// what differs.
func (d dialect) sql(text, table string) string {
	return strings.NewReplacer(
		"NOW", d.now, "MAKE", d.insert, "WINDOW", strconv.FormatInt(window.Microseconds(), 10),
		defaultTable, d.quoted(cmp.Or(table, defaultTable)),
	).Replace(text)
}

const (
	readSQL = `SELECT stamp, data_fence, data FROM walletauth_sessions WHERE key_hash = ?`

	rowSQL = `SELECT stamp, data_fence, data, fence, lease_owner, lease_until, version, NOW FROM walletauth_sessions WHERE key_hash = ?`

	clockSQL = `SELECT NOW` // where there is no row

	// The version counts on from the clock, so that it is none that the row had
	// before it was deleted.
	makeSQL = `
MAKE INTO walletauth_sessions (data, stamp, data_fence, fence, lease_owner, lease_until, expires_at, key_hash, updated_at, version)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, NOW, NOW)`

	// The version always changes, so that MySQL, which may count only rows that
	// do, counts this one.
	leaseSQL = `UPDATE walletauth_sessions SET fence = ?, lease_owner = ?, lease_until = ?, version = version + 1 WHERE key_hash = ? AND version = ?`

	saveSQL = `
UPDATE walletauth_sessions SET data = ?, stamp = ?, data_fence = ?, fence = ?, lease_owner = ?, lease_until = ?, expires_at = ?,
	updated_at = NOW, version = version + 1
WHERE key_hash = ? AND version = ?`

	// A row that was leased lately stays: its fence must not begin anew. To delete
	// by what makes them old would lock the rows that are looked at, which are all
	// that are idle: so they are found first, without a lock.
	isOldSQL   = `updated_at < NOW - 86400000000 AND coalesce(expires_at, updated_at) < NOW - 86400000000 AND coalesce(lease_until, updated_at) < NOW - 86400000000`
	expiredSQL = `SELECT key_hash FROM walletauth_sessions WHERE ` + isOldSQL + ` LIMIT 100`
	purgeSQL   = `DELETE FROM walletauth_sessions WHERE ` + isOldSQL + ` AND key_hash IN `
)

// ID is a hash of the key. A key may be any string, and a backup need not tell who
// the users are.
func (s *server) ID(key string) string {
	hash := sha256.Sum256([]byte(key))
	return string(hash[:])
}

func (s *server) Read(ctx context.Context, id string) (r remote.Record, err error) {
	var stamp []byte
	err = s.scan(ctx, s.read, []any{[]byte(id)}, &stamp, &r.Fence, &r.Data)
	r.Stamp = asStamp(stamp)
	return r, err
}

// scan reads a row. A missing row is not an error, and sets nothing.
func (s *server) scan(ctx context.Context, query string, args []any, to ...any) error {
	err := patiently(ctx, func() error { return s.db.QueryRowContext(ctx, query, args...).Scan(to...) })
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	return err
}

// exec writes. SQLite has one writer at a time, and whoever finds the file locked
// looks again after a pause: so within a process they queue before it.
func (s *server) exec(ctx context.Context, query string, args ...any) (changed int64, err error) {
	if s.dialect.oneWriter {
		s.writing.Lock()
		defer s.writing.Unlock()
	}
	err = patiently(ctx, func() error {
		result, err := s.db.ExecContext(ctx, query, args...)
		if err == nil {
			changed, err = result.RowsAffected()
		}
		return err
	})
	return changed, err
}

// patiently tries again while another process writes to the same SQLite file.
// It does what the pragma busy_timeout is for, in case the program has not set it,
// and goes on for as long as ctx lets it, 5 seconds at most.
func patiently(ctx context.Context, do func() error) error {
	for began := time.Now(); ; {
		err := do()
		if err == nil || !strings.Contains(err.Error(), "is locked") || time.Since(began) > lockedFor {
			return err
		}
		select {
		case <-time.After(rand.N(10 * time.Millisecond)):
		case <-ctx.Done():
			return err
		}
	}
}

// row is what is known of a session. Times are those of the server, 0 for none.
type row struct {
	remote.Record
	fence   int64        // given last
	owner   remote.Stamp // of the lease, or of the last one
	until   int64        // when the lease ends; 0: it was given back
	expires int64        // what is to be stored: it is not read
	version int64        // 0: there is no row
	now     int64
}

func (s *server) readRow(ctx context.Context, id string) (r row, err error) {
	var stamp, owner []byte
	var until sql.NullInt64
	err = s.scan(ctx, s.row, []any{[]byte(id)}, &stamp, &r.Fence, &r.Data, &r.fence, &owner, &until, &r.version, &r.now)
	if err == nil && r.version == 0 {
		err = s.scan(ctx, s.clock, nil, &r.now)
	}
	r.Stamp, r.owner, r.until = asStamp(stamp), asStamp(owner), until.Int64
	return r, err
}

// all are the columns in the order of makeSQL and saveSQL.
func (r row) all(id string) []any {
	var data any // not a nil []byte, which a driver may take for an empty one
	if r.Data != nil {
		data = r.Data
	}
	return []any{data, r.Stamp[:], r.Fence, r.fence, r.owner[:], orNull(r.until), orNull(r.expires), []byte(id)}
}

func orNull(n int64) sql.NullInt64 { return sql.NullInt64{Int64: n, Valid: n != 0} }

// asStamp takes one of another length for none.
func asStamp(b []byte) (s remote.Stamp) {
	if len(b) == len(s) {
		copy(s[:], b)
	}
	return s
}

// swap has decide change the row, and then update write it, unless decide reports
// false. If another process has changed it meanwhile, decide is called again with
// what it is now.
func (s *server) swap(ctx context.Context, id string, decide func(*row) bool, update func(row) (changed int64, err error)) error {
	for {
		r, err := s.readRow(ctx, id)
		if err != nil || !decide(&r) {
			return err
		}
		write := update
		if r.version == 0 {
			write = func(r row) (int64, error) { return s.exec(ctx, s.make, r.all(id)...) }
		}
		if n, err := write(r); n == 1 || err != nil {
			return err
		}
	}
}

func (s *server) swapLease(ctx context.Context, id string, decide func(*row) bool) error {
	return s.swap(ctx, id, decide, func(r row) (int64, error) {
		return s.exec(ctx, s.lease, r.fence, r.owner[:], orNull(r.until), []byte(id), r.version)
	})
}

// Acquire needs no force: every row can be read.
func (s *server) Acquire(ctx context.Context, id string, owner remote.Stamp, lease time.Duration, _ bool) (g remote.Grant, granted bool, err error) {
	err = s.swapLease(ctx, id, func(r *row) (changed bool) {
		granted, changed = r.acquire(owner, lease)
		g = remote.Grant{Record: r.Record, LeaseFence: r.fence}
		return changed
	})
	return g, granted && err == nil, err
}

// acquire gives owner the lease if nobody else has it. An owner who has saved or
// released is refused: it does not ask any more, and this is a repetition that
// was late. Fences count on from the clock, so that they grow although the row
// was deleted. A lease that lasts for longer than one from now on began before the
// clock was set back.
func (r *row) acquire(owner remote.Stamp, lease time.Duration) (granted, changed bool) {
	until := r.now + lease.Microseconds()
	switch {
	case r.Stamp == owner, r.owner == owner && r.until == 0:
		return false, false
	case r.owner != owner && r.until > r.now:
		changed = r.until > until
		r.until = min(r.until, until)
		return false, changed
	case r.owner != owner:
		r.fence = max(r.fence+1, r.now)
	}
	r.owner, r.until = owner, until
	return true, true
}

func (s *server) Renew(ctx context.Context, id string, owner remote.Stamp, lease time.Duration) (kept bool, err error) {
	err = s.swapLease(ctx, id, func(r *row) bool {
		kept = r.holds(owner)
		r.until = r.now + lease.Microseconds()
		return kept
	})
	return kept && err == nil, err
}

// Release leaves the owner, so that it is known who has released.
func (s *server) Release(ctx context.Context, id string, owner remote.Stamp) error {
	return s.swapLease(ctx, id, func(r *row) bool {
		held := r.holds(owner)
		r.until = 0
		return held
	})
}

func (r *row) holds(owner remote.Stamp) bool { return r.owner == owner && r.until != 0 }

// Save is done once it was quick: see [window]. To save again what is stored
// already announces it again.
func (s *server) Save(ctx context.Context, id string, c remote.Change) (fence int64, saved bool, err error) {
	for {
		var began time.Time
		isStored := false
		err = s.swap(ctx, id, func(r *row) bool {
			if isStored = r.save(c); isStored {
				fence = r.Fence
			}
			began = time.Now()
			return isStored
		}, func(r row) (int64, error) {
			return s.exec(ctx, s.save, append(r.all(id), r.version)...)
		})
		switch {
		case err != nil:
			return 0, false, err
		case !isStored:
			return fence, saved, nil // if it was, then somebody has saved since and told of the key
		case time.Since(began) < inTime:
			return fence, true, nil
		}
		saved = true
	}
}

// save stores c if the stamp is the one that the holder saw, or if there is
// neither a stamp nor data: then the row was deleted by hand, and the session is
// good all the same. Who stored with this stamp may do so again, as its first
// reply may have been lost.
func (r *row) save(c remote.Change) bool {
	isSeen := r.Stamp == c.Seen || r.Stamp == remote.Stamp{} && r.Data == nil
	switch {
	case r.Stamp == c.Stamp:
	case !isSeen:
		return false
	case c.LeaseFence > r.Fence:
		r.Fence = c.LeaseFence
	default:
		r.Fence = max(r.fence, r.Fence) + 1
	}
	r.fence = max(r.fence, r.Fence)
	if r.Stamp, r.Data, r.expires = c.Stamp, c.Data, 0; c.Data != nil {
		r.expires = c.Expires.UnixMicro()
	}
	if r.owner == c.Stamp {
		r.until = 0
	}
	return true
}

// Shard: these databases are in one piece.
func (s *server) Shard(string) string                      { return "" }
func (s *server) Shards(context.Context) ([]string, error) { return []string{""}, nil }
