package pgxstore

import (
	"cmp"
	"context"
	"crypto/rand"
	"embed"
	"fmt"
	"io/fs"

	"github.com/jackc/pgx/v5"
)

// Migrations holds the SQL that makes the table, one file for each step, named
// in order, in the folder migrations. Programs that use a migration tool run
// them by it instead of calling [Store.Migrate]. Every step may be run again.
// They are written for the default table, walletauth_sessions.
//
//go:embed migrations/*.sql
var Migrations embed.FS

// migrationLock is an advisory lock that no other program is likely to use.
// CREATE TABLE IF NOT EXISTS alone fails where two run it at once.
const migrationLock = 0x77616c6c65746175 // "walletau"

// columns are those of the table as this version needs it.
var columns = []string{"key_hash", "data", "stamp", "data_fence", "fence", "lease_owner", "lease_until", "expires_at", "updated_at"}

// Migrate makes the table, or changes it to what this version needs. It does
// no harm where that is done, or where other processes do it at the same time.
// The user of Pool needs the right to CREATE in the schema only if there is
// something to make. It works through PgBouncer in every mode.
//
// The errors: that Pool is nil, and those of PostgreSQL. Nothing is changed
// then.
func (s *Store) Migrate(ctx context.Context) error {
	if s.Pool == nil {
		return errNoPool
	}
	err := s.migrate(ctx)
	if err != nil {
		return fmt.Errorf("pgxstore: migrate: %w", err)
	}
	return nil
}

func (s *Store) migrate(ctx context.Context) error {
	table := cmp.Or(s.Table, defaultTable)
	if isThere, err := s.isMigrated(ctx, table); isThere || err != nil {
		return err
	}
	steps, err := fs.Glob(Migrations, "migrations/*.sql") // in order
	if err != nil {
		return err
	}
	for _, step := range steps {
		text, err := Migrations.ReadFile(step)
		if err != nil {
			return err
		}
		if _, err := s.Pool.Exec(ctx, alone(forTable(string(text), table)), pgx.QueryExecModeExec); err != nil {
			return fmt.Errorf("%s: %w", step, err)
		}
	}
	return nil
}

func (s *Store) isMigrated(ctx context.Context, table string) (isThere bool, err error) {
	row := s.Pool.QueryRow(ctx, `SELECT count(*) = cardinality($2::text[]) FROM pg_attribute
		WHERE attrelid = to_regclass($1::text) AND attname = ANY($2::text[]) AND NOT attisdropped`,
		pgx.QueryExecModeExec, quoted(table), columns)
	return isThere, row.Scan(&isThere)
}

// alone makes one statement of several, under a lock and as one transaction: a
// pooler in statement mode refuses BEGIN.
func alone(statements string) string {
	quote := "$m" + rand.Text() + "$" // which no name of a table holds
	return fmt.Sprintf("DO %s BEGIN PERFORM pg_advisory_xact_lock(%d); %s\nEND %s", quote, int64(migrationLock), statements, quote)
}

// Purge deletes what nobody needs any more: sessions whose refresh token
// expired more than a day ago, and what is left of those deleted more than a
// day ago. Until then that keeps a late refresh from undoing a logout. It
// returns the number of rows. Call it now and then, once a day for example,
// from any process; nothing else depends on it.
//
// The errors: that Pool is nil, and those of PostgreSQL.
func (s *Store) Purge(ctx context.Context) (int64, error) {
	if s.Pool == nil {
		return 0, errNoPool
	}
	s.once.Do(s.begin)
	n, err := s.server.purge(ctx)
	if err != nil {
		return 0, fmt.Errorf("pgxstore: purge: %w", err)
	}
	return n, nil
}
