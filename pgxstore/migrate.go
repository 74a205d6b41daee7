package pgxstore

import (
	"cmp"
	"context"
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

// Migrate makes the table, or changes it to what this version needs. It does
// no harm where that is done, or where other processes do it at the same time.
// The user of Pool needs the right to CREATE in the schema, if there is
// something to make.
//
// The errors: that Pool is nil, and those of PostgreSQL. Nothing is changed
// then.
func (s *Store) Migrate(ctx context.Context) error {
	if s.Pool == nil {
		return errNoPool
	}
	err := pgx.BeginFunc(ctx, s.Pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", pgx.QueryExecModeExec, int64(migrationLock)); err != nil {
			return err
		}
		return s.migrate(ctx, tx)
	})
	if err != nil {
		return fmt.Errorf("pgxstore: migrate: %w", err)
	}
	return nil
}

func (s *Store) migrate(ctx context.Context, tx pgx.Tx) error {
	steps, err := fs.Glob(Migrations, "migrations/*.sql") // in order
	if err != nil {
		return err
	}
	for _, step := range steps {
		text, err := Migrations.ReadFile(step)
		if err != nil {
			return err
		}
		statements := forTable(string(text), cmp.Or(s.Table, defaultTable))
		if _, err := tx.Exec(ctx, statements, pgx.QueryExecModeSimpleProtocol); err != nil {
			return fmt.Errorf("%s: %w", step, err)
		}
	}
	return nil
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
