package pgxstore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
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
	pool                                           *pgxpool.Pool
	table                                          string // quoted
	read, acquire, renew, release, save, purgeable string
}

var _ remote.Server = (*server)(nil)

func newServer(pool *pgxpool.Pool, table string) *server {
	return &server{
		pool: pool, table: quoted(table),
		read: forTable(readSQL, table), acquire: forTable(acquireSQL, table), renew: forTable(renewSQL, table),
		release: forTable(releaseSQL, table), save: forTable(saveSQL, table), purgeable: forTable(purgeSQL, table),
	}
}

const (
	readSQL = `SELECT stamp, data FROM walletauth_sessions WHERE key_hash = $1`

	// The UPDATE comes first, because an INSERT with ON CONFLICT DO UPDATE would
	// lock the row, and so write to the log, each time that somebody asks in
	// vain.
	acquireSQL = `
WITH taken AS (
	UPDATE walletauth_sessions
	SET fence = fence + (lease_owner IS DISTINCT FROM $2)::int, lease_owner = $2,
		lease_until = clock_timestamp() + $3::bigint * interval '1 ms'
	WHERE key_hash = $1 AND (lease_owner IS NULL OR lease_owner = $2 OR lease_until < clock_timestamp())
	RETURNING fence, stamp, data
), made AS (
	INSERT INTO walletauth_sessions (key_hash, fence, lease_owner, lease_until)
	SELECT $1, 1, $2, clock_timestamp() + $3::bigint * interval '1 ms' WHERE NOT EXISTS (SELECT FROM taken)
	ON CONFLICT DO NOTHING
	RETURNING fence, stamp, data
)
SELECT fence, stamp, data FROM taken UNION ALL SELECT fence, stamp, data FROM made`

	renewSQL = `
UPDATE walletauth_sessions SET lease_until = clock_timestamp() + $3::bigint * interval '1 ms'
WHERE key_hash = $1 AND lease_owner = $2`

	releaseSQL = `
UPDATE walletauth_sessions SET lease_owner = NULL, lease_until = NULL
WHERE key_hash = $1 AND lease_owner = $2`

	// It inserts where the row is gone, deleted by hand perhaps: the session is
	// good all the same. Who stored with this stamp may do so again, as its
	// first reply may have been lost.
	saveSQL = `
WITH saved AS (
	INSERT INTO walletauth_sessions AS s (key_hash, data, stamp, data_fence, fence, expires_at)
	VALUES ($1, $4::bytea, $2, $3, $3, $5::timestamptz)
	ON CONFLICT (key_hash) DO UPDATE
	SET data = excluded.data, stamp = excluded.stamp, data_fence = excluded.data_fence,
		fence = greatest(s.fence, excluded.fence), expires_at = excluded.expires_at, updated_at = now(),
		lease_owner = nullif(s.lease_owner, $2)
	WHERE s.data_fence < excluded.data_fence OR s.stamp = excluded.stamp
	RETURNING 1
)
SELECT pg_notify('walletauth_' || to_regclass($6::text)::oid, $7::text) FROM saved`

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

func (s *server) Acquire(ctx context.Context, id string, owner remote.Stamp, lease time.Duration) (g remote.Grant, granted bool, err error) {
	row := s.pool.QueryRow(ctx, s.acquire, pgx.QueryExecModeExec, []byte(id), owner[:], lease.Milliseconds())
	err = scan(row.Scan, &g.Record, &g.Fence)
	if errors.Is(err, pgx.ErrNoRows) {
		return g, false, nil
	}
	return g, err == nil, err
}

// scan reads a row that ends with a stamp and the data.
func scan(row func(...any) error, r *remote.Record, before ...any) error {
	var stamp []byte
	if err := row(append(before, &stamp, &r.Data)...); err != nil {
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

func (s *server) Save(ctx context.Context, id string, c remote.Change) (bool, error) {
	var expires *time.Time
	if c.Data != nil {
		expires = &c.Expires
	}
	tag, err := s.pool.Exec(ctx, s.save, pgx.QueryExecModeExec,
		[]byte(id), c.Stamp[:], c.Fence, c.Data, expires, s.table, announcement(id, c))
	return tag.RowsAffected() == 1, err
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

// announcement is the payload that tells of a change: what it did, its stamp,
// and the hash of the key.
func announcement(id string, c remote.Change) string {
	kind := replaced
	if c.Data == nil {
		kind = deleted
	}
	return kind + hex.EncodeToString(c.Stamp[:]) + hex.EncodeToString([]byte(id))
}

func readAnnouncement(text string) (m remote.Message, ok bool) {
	if text == "" {
		return m, false
	}
	data, err := hex.DecodeString(text[1:])
	if err != nil || len(data) != len(m.Stamp)+sha256.Size {
		return m, false
	}
	m.Deleted = text[:1] == deleted
	m.ID = string(data[copy(m.Stamp[:], data):])
	return m, true
}

func echoes(name string) string { return "walletauth_echo_" + name }

func (s *server) Probe(ctx context.Context, echo, payload string) error {
	_, err := s.pool.Exec(ctx, "SELECT pg_notify($1, $2)", pgx.QueryExecModeExec, echoes(echo), payload)
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
	sub := &subscription{conn: conn, echoes: echoes(echo)}
	if err := s.listen(ctx, sub); err != nil {
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

func (s *server) listen(ctx context.Context, sub *subscription) error {
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
	sub.changes = fmt.Sprintf("walletauth_%d", *table)
	for _, channel := range []string{sub.changes, sub.echoes} {
		if _, err := sub.conn.Exec(ctx, "LISTEN "+pgx.Identifier{channel}.Sanitize(), pgx.QueryExecModeExec); err != nil {
			return err
		}
	}
	return nil
}

type subscription struct {
	conn            *pgx.Conn
	changes, echoes string
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
