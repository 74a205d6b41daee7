package sqlstore

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"strings"
)

// Migrations holds the SQL that makes the table, one statement in a file for each
// step, named in order, in the folders migrations/mysql and migrations/sqlite.
// Programs that use a migration tool run them by it instead of calling
// [Store.Migrate]. Every step may be run again. They are written for the default
// table, walletauth_sessions.
//
//go:embed migrations/*/*.sql
var Migrations embed.FS

// columnsSQL fails unless the table is as this version needs it.
const columnsSQL = `SELECT key_hash, data, stamp, data_fence, fence, lease_owner, lease_until, expires_at, updated_at, version
FROM walletauth_sessions WHERE 1 = 0`

// Migrate makes the table, or changes it to what this version needs. It does
// no harm where that is done, or where other processes do it at the same time.
// The user of DB needs the right to CREATE only if there is something to make.
//
// The errors: that DB is nil or Dialect unknown, and those of the database.
// Nothing is changed then.
func (s *Store) Migrate(ctx context.Context) error {
	if err := s.begin(); err != nil {
		return err
	}
	if err := s.migrate(ctx); err != nil {
		return fmt.Errorf("sqlstore: migrate: %w", err)
	}
	return nil
}

func (s *Store) migrate(ctx context.Context) error {
	d := s.server.dialect
	if _, err := s.server.exec(ctx, d.sql(columnsSQL, s.Table)); err == nil {
		return nil
	}
	steps, err := fs.Glob(Migrations, "migrations/"+string(d.name)+"/*.sql") // in order
	if err != nil {
		return err
	}
	for _, step := range steps {
		text, err := Migrations.ReadFile(step)
		if err != nil {
			return err
		}
		if _, err := s.server.exec(ctx, d.sql(string(text), s.Table)); err != nil {
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
// The errors: that DB is nil or Dialect unknown, and those of the database, with
// the number of the rows that were deleted before.
func (s *Store) Purge(ctx context.Context) (int64, error) {
	if err := s.begin(); err != nil {
		return 0, err
	}
	n, err := s.purge(ctx)
	if err != nil {
		return n, fmt.Errorf("sqlstore: purge: %w", err)
	}
	return n, nil
}

func (s *Store) purge(ctx context.Context) (deleted int64, err error) {
	for {
		old, err := s.expired(ctx)
		if err != nil || len(old) == 0 {
			return deleted, err
		}
		n, err := s.server.exec(ctx, s.server.purge+"(?"+strings.Repeat(", ?", len(old)-1)+")", old...)
		if deleted += n; err != nil {
			return deleted, err
		}
	}
}

// expired returns some of the keys of what nobody needs any more.
func (s *Store) expired(ctx context.Context) (old []any, err error) {
	rows, err := s.DB.QueryContext(ctx, s.server.expired)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var id []byte
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		old = append(old, id)
	}
	return old, rows.Err()
}
