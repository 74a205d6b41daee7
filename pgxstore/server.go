package pgxstore

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/walletauth/walletauth/internal/remote"
)

const defaultTable = "walletauth_sessions"

// forTable puts the name of the table, quoted, into SQL written for the
// default one.
func forTable(sql, table string) string {
	return strings.ReplaceAll(sql, defaultTable, quoted(table))
}

func quoted(table string) string {
	return pgx.Identifier(strings.Split(table, ".")).Sanitize()
}

// server is PostgreSQL, as the part that the stores share wants it.
//
// Each statement is a transaction of its own, goes by the clock of the server,
// and is sent without being prepared, since PgBouncer in transaction mode may
// run the next on another connection, which does not know it.
type server struct {
	pool                                                     *pgxpool.Pool
	table                                                    string // quoted
	read, acquire, renew, release, save, announce, purgeable string
}

var _ remote.Server = (*server)(nil)

func newServer(pool *pgxpool.Pool, table string) *server {
	table = cmp.Or(table, defaultTable)
	return &server{
		pool: pool, table: quoted(table),
		read: forTable(readSQL, table), acquire: forTable(acquireSQL, table), renew: forTable(renewSQL, table),
		release: forTable(releaseSQL, table), save: forTable(saveSQL, table), announce: forTable(announceSQL, table),
		purgeable: forTable(purgeSQL, table),
	}
}

const (
	readSQL = `SELECT stamp, data_fence, data FROM walletauth_sessions WHERE key_hash = $1`

	// The UPDATE comes first, because an INSERT with ON CONFLICT DO UPDATE would
	// lock the row, and so write to the log, each time that somebody asks in
	// vain. An owner who has saved or released is refused: it does not ask any
	// more, and this is a repetition that was late. Fences count on from the clock,
	// in microseconds, so that they grow although the row was deleted. A lease that
	// lasts for longer than one from now on began before the clock was set back.
	//
	// This must reach the disk before it is answered: a lease that is granted once
	// more after a crash would have the same fence.
	acquireSQL = `
WITH taken AS (
	UPDATE walletauth_sessions
	SET fence = CASE WHEN lease_owner = $2 THEN fence
			ELSE greatest(fence + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint) END,
		lease_owner = $2, lease_until = clock_timestamp() + $3::bigint * interval '1 ms'
	WHERE key_hash = $1 AND stamp IS DISTINCT FROM $2
		AND CASE WHEN lease_owner = $2 THEN lease_until IS NOT NULL
			ELSE lease_until IS NULL OR lease_until < clock_timestamp() END
	RETURNING fence, stamp, data_fence, data
), made AS (
	INSERT INTO walletauth_sessions (key_hash, fence, lease_owner, lease_until)
	SELECT $1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, $2, clock_timestamp() + $3::bigint * interval '1 ms'
	WHERE NOT EXISTS (SELECT FROM taken)
	ON CONFLICT DO NOTHING
	RETURNING fence, stamp, data_fence, data
), shortened AS (
	UPDATE walletauth_sessions SET lease_until = clock_timestamp() + $3::bigint * interval '1 ms'
	WHERE key_hash = $1 AND lease_owner <> $2 AND lease_until > clock_timestamp() + $3::bigint * interval '1 ms'
)
SELECT fence, stamp, data_fence, data FROM taken UNION ALL SELECT fence, stamp, data_fence, data FROM made`

	renewSQL = `
UPDATE walletauth_sessions SET lease_until = clock_timestamp() + $3::bigint * interval '1 ms'
WHERE key_hash = $1 AND lease_owner = $2 AND lease_until IS NOT NULL`

	// The owner stays, so that it is known who has released. A crash may undo this,
	// and the lease then ends by itself: no need to wait for the disk.
	releaseSQL = `
WITH fast AS (SELECT set_config('synchronous_commit', 'off', true))
UPDATE walletauth_sessions SET lease_until = NULL FROM fast
WHERE key_hash = $1 AND lease_owner = $2 AND lease_until IS NOT NULL`

	// It stores if the stamp is the one that the holder saw, or if there is neither
	// a stamp nor data: then the row was deleted by hand, and the session is
	// good all the same. Who stored with this stamp may do so again, as its first
	// reply may have been lost. A stamp of another length is none.
	saveSQL = `
INSERT INTO walletauth_sessions AS s (key_hash, data, stamp, data_fence, fence, expires_at)
VALUES ($1, $4::bytea, $2, $3, $3, $5::timestamptz)
ON CONFLICT (key_hash) DO UPDATE
SET data = excluded.data, stamp = excluded.stamp, expires_at = excluded.expires_at, updated_at = now(),
	data_fence = CASE WHEN s.stamp = $2 THEN s.data_fence WHEN $3 > s.data_fence THEN $3
		ELSE greatest(s.fence, s.data_fence) + 1 END,
	fence = CASE WHEN s.stamp = $2 OR $3 <= s.data_fence THEN greatest(s.fence, s.data_fence) + (s.stamp IS DISTINCT FROM $2)::int
		ELSE greatest(s.fence, $3) END
WHERE s.stamp = $2 OR CASE WHEN octet_length(s.stamp) = 16 THEN s.stamp = $6
	ELSE $6 = '\x00000000000000000000000000000000'::bytea OR s.data IS NULL END
RETURNING data_fence`

	// Announcing is a statement of its own, which ends the lease too. NOTIFY takes
	// one lock of the whole instance until its transaction is committed: with the
	// save it would be held until that is on the disk, and no two saves could go
	// there together. What a crash can undo of it does no harm: the lease ends by
	// itself, and whoever listens has to connect anew and reads again what it has.
	announceSQL = `
WITH fast AS (SELECT set_config('synchronous_commit', 'off', true)), released AS (
	UPDATE walletauth_sessions SET lease_until = NULL FROM fast
	WHERE key_hash = $1 AND lease_owner = $2 AND lease_until IS NOT NULL
)
SELECT pg_notify('walletauth_' || to_regclass($3::text)::oid, $4::text) FROM fast`

	// A row that was leased lately stays: its fence must not begin anew.
	purgeSQL = `
DELETE FROM walletauth_sessions
WHERE coalesce(expires_at, updated_at) < now() - interval '1 day'
	AND updated_at < now() - interval '1 day'
	AND coalesce(lease_until, updated_at) < now() - interval '1 day'`
)

// ID is a hash of the key. A key may be any string, and a text column refuses
// some bytes, and an index long values; nor need a backup tell who the users
// are.
func (s *server) ID(key string) string {
	hash := sha256.Sum256([]byte(key))
	return string(hash[:])
}

func (s *server) Read(ctx context.Context, id string) (r remote.Record, err error) {
	row := s.pool.QueryRow(ctx, s.read, pgx.QueryExecModeExec, []byte(id))
	err = scan(row.Scan, &r)
	if errors.Is(err, pgx.ErrNoRows) {
		return remote.Record{}, nil
	}
	return r, err
}

// Acquire needs no force: every row can be read.
func (s *server) Acquire(ctx context.Context, id string, owner remote.Stamp, lease time.Duration, _ bool) (g remote.Grant, granted bool, err error) {
	row := s.pool.QueryRow(ctx, s.acquire, pgx.QueryExecModeExec, []byte(id), owner[:], lease.Milliseconds())
	err = scan(row.Scan, &g.Record, &g.LeaseFence)
	if errors.Is(err, pgx.ErrNoRows) {
		return g, false, nil
	}
	return g, err == nil, err
}

// scan reads a row that ends with a stamp, its fence and the data.
func scan(row func(...any) error, r *remote.Record, before ...any) error {
	var stamp []byte
	if err := row(append(before, &stamp, &r.Fence, &r.Data)...); err != nil {
		return err
	}
	if len(stamp) == len(r.Stamp) { // one of another length is none
		copy(r.Stamp[:], stamp)
	}
	return nil
}

func (s *server) Renew(ctx context.Context, id string, owner remote.Stamp, lease time.Duration) (bool, error) {
	tag, err := s.pool.Exec(ctx, s.renew, pgx.QueryExecModeExec, []byte(id), owner[:], lease.Milliseconds())
	return tag.RowsAffected() == 1, err
}

func (s *server) Release(ctx context.Context, id string, owner remote.Stamp) error {
	_, err := s.pool.Exec(ctx, s.release, pgx.QueryExecModeExec, []byte(id), owner[:])
	return err
}

func (s *server) Save(ctx context.Context, id string, c remote.Change) (fence int64, saved bool, err error) {
	var expires *time.Time
	if c.Data != nil {
		expires = &c.Expires
	}
	row := s.pool.QueryRow(ctx, s.save, pgx.QueryExecModeExec,
		[]byte(id), c.Stamp[:], c.LeaseFence, c.Data, expires, c.Seen[:])
	err = row.Scan(&fence)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	_, err = s.pool.Exec(ctx, s.announce, pgx.QueryExecModeExec, []byte(id), c.Stamp[:], s.table, announcement(id, fence, c.Data == nil))
	return fence, err == nil, err
}

func (s *server) purge(ctx context.Context) (int64, error) {
	tag, err := s.pool.Exec(ctx, s.purgeable, pgx.QueryExecModeExec)
	return tag.RowsAffected(), err
}

// Transient reports whether err is a failure of the network, or of a server
// that is starting, stopping, overloaded or no primary for the moment. By
// class: 08 connection, 40 rollback, 53 resources, 55 a lock, 57 operator.
func (s *server) Transient(err error) bool {
	var reply *pgconn.PgError
	if !errors.As(err, &reply) {
		return true
	}
	const readOnly = "25006"
	return reply.Code == readOnly || len(reply.Code) == 5 && strings.Contains("08 40 53 55 57", reply.Code[:2])
}

const (
	replaced = "r"
	deleted  = "d"
)

// announcement is the payload that tells of a change: what it did, the hash of
// the key, and its fence.
func announcement(id string, fence int64, isDelete bool) string {
	kind := replaced
	if isDelete {
		kind = deleted
	}
	return kind + hex.EncodeToString([]byte(id)) + ":" + strconv.FormatInt(fence, 10)
}

func readAnnouncement(text string) (m remote.Message, ok bool) {
	head, fence, found := strings.Cut(text, ":")
	if !found || head == "" {
		return m, false
	}
	id, err := hex.DecodeString(head[1:])
	if err != nil || len(id) != sha256.Size {
		return m, false
	}
	m.Fence, err = strconv.ParseInt(fence, 10, 64)
	m.Deleted, m.ID = head[:1] == deleted, string(id)
	return m, err == nil
}

// Shard: PostgreSQL is in one piece.
func (s *server) Shard(string) string                      { return "" }
func (s *server) Shards(context.Context) ([]string, error) { return []string{""}, nil }

// Probe notifies on a channel of the table as it is now, like a save: if it was
// replaced by a rename, whoever listens to the old one hears neither.
func (s *server) Probe(ctx context.Context, _, echo, payload string) error {
	_, err := s.pool.Exec(ctx, "SELECT pg_notify('walletauth_' || to_regclass($1::text)::oid || '_' || $2::text, $3::text)",
		pgx.QueryExecModeExec, s.table, echo, payload)
	return err
}

// subscribeWithin bounds the way to a connection that listens.
const subscribeWithin = 5 * time.Second

// Subscribe listens on a connection of its own, so that the pool stays whole.
func (s *server) Subscribe(ctx context.Context, echo string) (remote.Subscription, error) {
	ctx, cancel := context.WithTimeout(ctx, subscribeWithin)
	defer cancel()
	conn, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	sub := &subscription{conn: conn}
	if err := s.listen(ctx, sub, echo); err != nil {
		sub.Close()
		return nil, err
	}
	return sub, nil
}

// connect makes a connection as the pool would.
func (s *server) connect(ctx context.Context) (*pgx.Conn, error) {
	config := s.pool.Config()
	config.ConnConfig.OnNotification = nil // or else notifications go there
	if config.BeforeConnect != nil {
		if err := config.BeforeConnect(ctx, config.ConnConfig); err != nil {
			return nil, err
		}
	}
	conn, err := pgx.ConnectConfig(ctx, config.ConnConfig)
	if err == nil && config.AfterConnect != nil {
		if err = config.AfterConnect(ctx, conn); err != nil {
			_ = conn.Close(ctx) // the other error matters
		}
	}
	return conn, err
}

func (s *server) listen(ctx context.Context, sub *subscription, echo string) error {
	var pid uint32
	var table *uint32
	row := sub.conn.QueryRow(ctx, "SELECT pg_backend_pid(), to_regclass($1)::oid", pgx.QueryExecModeExec, s.table)
	if err := row.Scan(&pid, &table); err != nil {
		return err
	}
	switch {
	case pid != sub.conn.PgConn().PID():
		// LISTEN would then stay with a connection that serves others, who
		// would be sent what they did not ask for.
		return fmt.Errorf("a pooler stands between: %w", errors.ErrUnsupported)
	case table == nil:
		return fmt.Errorf("there is no table %s", s.table)
	}
	changes := fmt.Sprintf("walletauth_%d", *table)
	sub.echoes = changes + "_" + echo
	for _, channel := range []string{changes, sub.echoes} {
		if _, err := sub.conn.Exec(ctx, "LISTEN "+pgx.Identifier{channel}.Sanitize(), pgx.QueryExecModeExec); err != nil {
			return err
		}
	}
	return nil
}

type subscription struct {
	conn   *pgx.Conn
	echoes string
}

func (s *subscription) Next(ctx context.Context) (remote.Message, error) {
	for {
		n, err := s.conn.WaitForNotification(ctx)
		if err != nil {
			return remote.Message{}, err
		}
		if n.Channel == s.echoes {
			return remote.Message{Echo: n.Payload}, nil
		}
		if m, ok := readAnnouncement(n.Payload); ok {
			return m, nil
		}
	}
}

func (s *subscription) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.conn.Close(ctx) // it is given up either way
}
